"""A variable is named by what it holds, not by how its value came to be."""

import ast
import pathlib
import re
from collections.abc import Iterator

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "sbs_jax"

VAGUE = {"asked", "found", "given", "made", "said", "told"}
WORD = re.compile(rf"\b({'|'.join(VAGUE)})\b")
# A field of the prompt files that users write (docs/annotate.md).
PUBLIC = {("teacher/prompts.py", "given")}


def vague(source: str) -> Iterator[tuple[int, str]]:
    """(line, name) of every vague name that the source reads, binds or passes."""
    if not WORD.search(source):
        return
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Constant):
            for value in vars(node).values():
                if isinstance(value, str) and value in VAGUE:
                    yield getattr(node, "lineno", 0), value


def test_no_name_is_a_participle() -> None:
    places = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).as_posix()
        for line, name in vague(path.read_text(encoding="utf-8")):
            if (module, name) not in PUBLIC:
                places.append(f"{module}:{line}: {name}")
    assert places == []


def test_every_way_to_bind_a_name_is_seen() -> None:
    source = (
        "import a as found\n"
        "def told(said, *, asked=1): pass\n"
        "class made: given = 0\n"
        "match a:\n"
        "    case {**found}: pass\n"
        "    case [*told]: pass\n"
        "    case said: pass\n"
        "try: pass\n"
        "except E as asked: pass\n"
        "f(made=1).given\n"
    )
    assert set(vague(source)) == {
        (1, "found"),
        *((2, name) for name in ("told", "said", "asked")),
        *((3, name) for name in ("made", "given")),
        (5, "found"),
        (6, "told"),
        (7, "said"),
        (9, "asked"),
        *((10, name) for name in ("made", "given")),
    }
