"""Names of modules that are not where their name says: old names, and `sbs_jax.tasks`.

Importing an old name, as gin files, config.gin of old runs and user code do, gives the module
itself: there is one registry, and one of each class. `sbs_jax.tasks` is the folder tasks/ of a
checkout: ``python -m`` in its root finds the package there, even where a wheel is installed. The
finder is asked only for names that nothing else finds.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import pathlib
import sys
from collections.abc import Iterable
from types import ModuleType

_PACKAGE = "sbs_jax."
_TASKS = pathlib.Path(__file__).resolve().parent.parent / "tasks" / "__init__.py"

# Old name -> new name, both without the package: what docs, gin files or config.gin have named.
MOVED = {
    "asdiv": "datasets.asdiv",
    "completions": "datasets.completions",
    "demo": "studies.demo",
    "demo_data": "datasets.demo",
    "engines": "integrations",
    "engines.t5x_data": "integrations.t5x_data",
    "engines.t5x_model": "integrations.t5x_model",
    "engines.t5x_training": "integrations.t5x_training",
    "equations": "metrics.equations",
    "gin_launch": "configs.gin_loader",
    "records": "datasets.records",
    "release": "datasets.release",
    "seqio_tasks": "integrations.seqio_tasks",
    "sources": "datasets.sources",
    "splits": "datasets.splits",
    "tfds_builder": "integrations.tfds_builder",
    "tokens": "input_pipeline.token_cache",
    "views": "datasets.methods",
    "vocabularies": "input_pipeline.vocabularies",
}


class _Loader(importlib.abc.Loader):
    """Gives the module of the new name; its own spec stays."""

    def __init__(self, name: str) -> None:
        self._name = name

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        self._module = importlib.import_module(self._name)
        self._spec = self._module.__spec__
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Iterable[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == f"{_PACKAGE}tasks" and _TASKS.is_file():
            return importlib.util.spec_from_file_location(
                fullname, _TASKS, submodule_search_locations=[str(_TASKS.parent)]
            )
        new = MOVED.get(fullname.removeprefix(_PACKAGE)) if fullname.startswith(_PACKAGE) else None
        if new is None:
            return None
        return importlib.machinery.ModuleSpec(fullname, _Loader(_PACKAGE + new))


def install() -> None:
    """Makes the old names importable in this process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
