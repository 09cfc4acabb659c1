"""UserError: one line, whatever text it quotes."""

import pytest

from sbs_jax.errors import UserError


@pytest.mark.parametrize(
    ("quoted", "shown"),
    [("a\nb", r"a\nb"), ("a\fb\x1b[2J", r"a\x0cb\x1b[2J"), ("\udc80", r"\udc80"), ("é「", "é「")],
)
def test_a_message_is_one_printable_line(quoted, shown):
    assert str(UserError(f"f.txt: {quoted}; rename it")) == f"f.txt: {shown}; rename it"
