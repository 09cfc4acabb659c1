"""docs/licenses.md names what the lock holds, with the licence that each package states."""

import re
import runpy
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name

DOCS = Path(__file__).resolve().parents[2] / "docs"
MODULE = runpy.run_path(str(DOCS / "list_licenses.py"))
AGAIN = "run python docs/list_licenses.py --write where everything of the lock is installed"


def rows() -> dict[str, tuple[str, str]]:
    """{package: (version, licence)} of the page."""
    text = (DOCS / "licenses.md").read_text()
    found = re.findall(r"^\| (\S+) \| (\d\S*) \| (.+) \| \w+ \|$", text, re.MULTILINE)
    return {name: (version, licence) for name, version, licence in found}


def test_every_needed_package_is_listed_with_its_locked_version():
    locked, page = MODULE["locked"](), rows()
    assert {name: locked.get(name) for name in page} == {n: v for n, (v, _) in page.items()}, AGAIN
    missing = MODULE["needed_by"]().keys() - set(map(canonicalize_name, page))
    assert not missing & set(map(canonicalize_name, locked)), AGAIN


def test_licences_are_those_that_the_packages_state():
    compared = 0
    for name, (version, licence) in rows().items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if installed == version:
            assert MODULE["licence"](name) == licence, AGAIN
            compared += 1
    assert compared > 50
