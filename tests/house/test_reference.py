"""docs/cli.md, docs/gin.md and docs/troubleshooting.md say what the code says."""

import ast
import re
import runpy
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@pytest.mark.parametrize(
    ("name", "content"),
    runpy.run_path(str(DOCS / "generate_reference.py"))["pages"]().items(),
    ids=lambda value: value if value.endswith(".md") else "",
)
def test_generated_pages_are_current(name: str, content: str) -> None:
    assert (DOCS / name).read_text() == content, "run python docs/generate_reference.py --write"


def _literals() -> str:
    """All string literals of the package, one a line; `{}` for what f-strings fill."""
    texts = []
    for path in (ROOT / "sbs_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_every_message_on_the_page_is_in_the_code() -> None:
    page = (DOCS / "troubleshooting.md").read_text()
    messages = [
        words
        for cell in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
        for words in re.findall(r"`([^`]+)`", cell)
    ]
    literals = _literals()
    assert len(messages) > 20
    assert [words for words in messages if words not in literals] == []


def test_the_python_page_names_what_the_code_defines() -> None:
    """mkdocstrings would fail as well, but is not in every environment."""
    names = re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert len(names) > 10
    for name in names:
        module, _, last = name.rpartition(".")
        source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        assert re.search(rf"^(def|class) {last}\b", source, re.MULTILINE), name


class _Anything(yaml.SafeLoader):
    """Reads tags of Python objects as None."""


_Anything.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def test_every_page_is_in_the_menu() -> None:
    """The site's build is strict; this much is known without mkdocs."""
    menu = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=_Anything)["nav"]
    listed = [part for part in menu if isinstance(part, str)]
    for part in menu:
        listed += [page for pages in part.values() for page in pages] if part not in listed else []
    assert sorted(listed) == sorted(path.name for path in DOCS.glob("*.md"))


def test_links_between_pages_lead_to_files_and_headings() -> None:
    broken = []
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            file, _, anchor = target.partition("#")
            if "://" in target:
                continue
            path = DOCS / file if file else page
            if not path.is_file() or (anchor and anchor not in _anchors(path)):
                broken.append(f"{page.name}: {target}")
    assert broken == []


def _anchors(page: Path) -> list[str]:
    return [_slug(heading) for heading in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)]


def _slug(heading: str) -> str:
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())
