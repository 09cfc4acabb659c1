"""docs/architecture.md tells the truth about the tree."""

import pathlib
import re
import runpy

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGES = {path.parent.name for path in (ROOT / "sbs_jax").glob("*/__init__.py")}


def test_the_graph_is_the_code() -> None:
    graph = runpy.run_path(str(ROOT / "docs" / "draw_packages.py"))["graph"]()
    assert graph in PAGE, "run python docs/draw_packages.py --write"


def test_every_package_has_a_line_and_every_line_a_package() -> None:
    tree = PAGE.split("```")[1]
    assert set(re.findall(r"^  (\w+)/ ", tree, flags=re.M)) == PACKAGES


def test_every_file_on_the_page_exists() -> None:
    names = re.findall(r"`((?:\w+/)+\w+\.(?:py|gin))`", PAGE)
    assert len(names) > 15
    places = [ROOT, ROOT / "sbs_jax", ROOT / "gin", ROOT / "gin/engines/sbs"]
    assert [n for n in names if not any((place / n).is_file() for place in places)] == []


def test_the_top_level_is_small() -> None:
    files = [path.name for path in (ROOT / "sbs_jax").glob("*.py")]
    assert len(files) <= 8 and 18 <= len(PACKAGES) <= 22


def test_no_source_file_is_longer_than_400_lines() -> None:
    files = [*(ROOT / "sbs_jax").rglob("*.py"), *(ROOT / "tasks").glob("*.py")]
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in files}
    assert {name: n for name, n in lengths.items() if n > 400} == {}
