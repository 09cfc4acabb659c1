"""Writes docs/licenses.md from requirements/ and what is installed (`--write`), else prints it.

tests/house/test_licenses.py compares the page with the lists and with what is installed.
"""

import pathlib
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DOCS = pathlib.Path(__file__).resolve().parent
LOCK = DOCS.parent / "requirements" / "constraints-py311.txt"
PROJECT = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
_EXTRAS = ("teacher", "export", "gcs", "serve", "report", "bench", "test")
_HEAD = """# Licences of the dependencies

Written by `python docs/list_licenses.py --write` from `requirements/{lock}` and the
metadata of the packages; the lists of other Python versions hold other versions of the same
packages. Nothing of them is copied into this repository or its wheel, which are Apache-2.0.

"Needed by" is `core`, or the first extra that brings the package: a plain `pip install sbs_jax`
installs the rows of `core` alone.

| package | version | licence | needed by |
|---|---|---|---|
"""


def locked() -> dict[str, str]:
    """{package: version} of the list for the default Python."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines)


def licence(package: str) -> str:
    """What the metadata of an installed package says: SPDX expression, classifiers, or text."""
    fields = metadata.metadata(package)
    if expression := fields.get("License-Expression"):
        return expression
    classes = [c for c in fields.get_all("Classifier") or () if c.startswith("License ::")]
    names = [c.rpartition(" :: ")[2] for c in classes]
    if names := [name for name in names if name != "OSI Approved"]:
        return ", ".join(sorted(names))
    text = (fields.get("License") or "").strip().partition("\n")[0].strip("# ")
    return text or "not stated in its metadata"


def needed_by() -> dict[str, str]:
    """{normalised name: "core" or the first extra that brings it}."""
    optional = PROJECT["optional-dependencies"]
    homes: dict[str, str] = {}
    for home in ("core", *_EXTRAS):
        waiting = list(map(Requirement, optional.get(home, PROJECT["dependencies"])))
        while waiting:
            requirement = waiting.pop()
            name = canonicalize_name(requirement.name)
            if name not in homes:
                homes[name] = home
                waiting += _required(name, requirement.extras)
    return homes


def _required(package: str, extras: set[str]) -> Iterator[Requirement]:
    """What a package requires on this machine; nothing of one that is not installed."""
    try:
        requirements = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": e}) for e in {"", *extras}):
            yield requirement


def page() -> str:
    """The page. Raises PackageNotFoundError or SystemExit where another version is installed."""
    homes = needed_by()
    rows = []
    for name, version in sorted(locked().items(), key=lambda item: item[0].lower()):
        if home := homes.get(canonicalize_name(name)):
            if metadata.version(name) != version:
                sys.exit(
                    f"{name}: {metadata.version(name)} is installed, not {version}; make setup"
                )
            rows.append(f"| {name} | {version} | {licence(name)} | {home} |")
    return _HEAD.format(lock=LOCK.name) + "\n".join(rows) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        (DOCS / "licenses.md").write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")
