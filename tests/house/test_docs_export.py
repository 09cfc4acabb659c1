"""docs/export.md names what there is."""

import pathlib
import re

from sbs_jax.cli import export

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")


def test_every_flag_on_the_page_exists():
    ours = re.sub(r"^ct2-.*$|`--quantization`", "", PAGE, flags=re.MULTILINE)
    named = set(re.findall(r"--([a-z_]+)", ours))
    assert named <= set(export.FLAGS)
    assert {"to", "vocabulary", "platforms", "input_lengths"} <= named


def test_every_file_on_the_page_exists():
    for name in re.findall(r"`(tests/[\w.]+)`|\]\((\w+\.md)\)", PAGE):
        assert (ROOT / name[0]).exists() and (ROOT / "docs" / name[1]).exists()
