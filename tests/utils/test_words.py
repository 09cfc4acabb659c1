"""Words in scripts with and without spaces."""

import re

import pytest

from sbs_jax.utils import words


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Oil, 油让 metal_1", ["oil", "油", "让", "metal_1"]),
        ("масло на реке", ["масло", "на", "реке"]),
        ("3.5 kg!", ["3", "5", "kg"]),
        ("น้ำ", ["น", "้", "ำ"]),
        ("", []),
    ],
)
def test_words(text, wanted):
    assert words.words(text) == wanted


@pytest.mark.parametrize(
    ("word", "text", "count"),
    [
        ("oil", "oil and foil", 1),
        ("油", "用油润滑", 1),
        ("oil", "用oil润滑", 1),
        ("рыба", "рыбалка", 0),
    ],
)
def test_whole(word, text, count):
    assert len(re.findall(words.whole(word), text)) == count
