"""Draws the imports between the packages as a Mermaid graph (`--write`: into the page).

An arrow means "imports". Arrows that follow from two others are left out, and so are `errors`,
`utils` and `configs`, which everything may import. docs/architecture.md holds the graph, and
tests/house/test_architecture.py compares it with the code.
"""

import ast
import functools
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
COMMON = {"errors", "utils", "configs"}


def edges() -> set[tuple[str, str]]:
    """(importing, imported) packages or top-level modules, without the common ones."""
    pairs = set()
    for path in (ROOT / "sbs_jax").rglob("*.py"):
        package = path.relative_to(ROOT / "sbs_jax").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                own = re.match(r"sbs_jax\.([a-z]\w*)", name)
                if own and own[1] != package:
                    pairs.add((package, own[1]))
    return {(a, b) for a, b in pairs if not {a, b} & COMMON}


def reduced(pairs: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs that no longer path implies."""

    @functools.cache
    def reaches(a: str, b: str) -> bool:
        return a == b or any(reaches(middle, b) for start, middle in pairs if start == a)

    def implied(a: str, b: str) -> bool:
        return any(c != b and reaches(c, b) for start, c in pairs if start == a)

    return sorted((a, b) for a, b in pairs if not implied(a, b))


def graph() -> str:
    """The Mermaid text."""
    lines = "\n".join(f"    {a} --> {b}" for a, b in reduced(edges()))
    return f"```mermaid\ngraph TD\n{lines}\n```"


def main() -> None:
    if "--write" in sys.argv:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(re.sub(r"```mermaid.*?```", graph(), page, flags=re.S), encoding="utf-8")
    else:
        print(graph())


if __name__ == "__main__":
    main()
