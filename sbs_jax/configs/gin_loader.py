"""From --gin_file and --gin.X=Y to one plain object of ``configs``, every mistake one clear line.

gin stays at the door: launchers parse it here, the rest of the package never sees it. Nothing here
imports a framework; what a gin file imports is up to the file.
"""

import contextlib
import importlib
import inspect
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from sbs_jax.configs import gin_scanner
from sbs_jax.configs.gin_scanner import REQUIRED, MacroUse, Scan, shown
from sbs_jax.errors import UserError, nearest
from sbs_jax.utils import paths

import gin  # isort: skip  # after gin_scan, which mends an import that gin 0.5.0 forgets

ENGINE = "sbs"

_GIN_FOLDER = os.path.dirname(gin.__file__)
_LOCATION = re.compile(r'\n  In (?:file "(.*)",|bindings string) line (\d+)\n')
_UNKNOWN_PARAMETER = re.compile(r"Configurable '(.+)' doesn't have a parameter named '(.+)'\.")
_UNKNOWN_CONFIGURABLE = re.compile(r"No configurable matching (?:reference )?'@?([\w./]+)")
_UNKNOWN_ATTRIBUTE = re.compile(r"<module '([\w.]+)'.* has no attribute (\w+)\.")
_MACRO_BINDING = re.compile(r"^(\S+) = %(\S+)$")

_INCLUDE_A_RUN = "an experiment includes a run file such as 'sbs_runs/finetune.gin'"

_search_paths: list[str] = []


def rewrite_flags(args: Iterable[str]) -> list[str]:
    """``--gin.X=Y`` becomes ``--gin_bindings=X = Y``, as T5X's launchers do it.

    Raises:
        UserError: a ``--gin.X`` without a value.
    """
    rewritten = []
    for arg in args:
        if arg.startswith("--gin."):
            name, equals, value = arg.removeprefix("--gin.").partition("=")
            if not equals:
                raise UserError(f"{arg}: needs a value, --gin.{name}=VALUE")
            arg = f"--gin_bindings={name} = {value}"
        rewritten.append(arg)
    return rewritten


def load(
    files: Sequence[str], bindings: Sequence[str], search_paths: Sequence[str | Path] = ()
) -> Scan:
    """Parses into gin: what was parsed before is forgotten.

    A relative path is looked for in the working directory, in ``search_paths``, in the packaged
    gin folder and in that of our engine, in this order.

    Args:
        bindings: ``NAME = VALUE``, applied after all files.

    Raises:
        UserError: a file, macro, configurable or parameter that does not exist, or a syntax error.
    """
    folders = [*search_paths, paths.gin_dir(), paths.gin_dir() / "engines" / ENGINE]
    _search_paths[:] = [os.fspath(folder) for folder in folders]
    found = gin_scanner.scan(files, bindings, _search_paths)
    _check_macros(found)
    import_modules(found.imports)
    gin.clear_config()
    with _quiet_search():
        for file in files:
            with _one_line(found):
                gin.parse_config_file(gin_scanner.find(file, _search_paths))
        for binding in bindings:
            with _one_line(found, f"--gin.{binding.partition('=')[0].strip()}"):
                gin.parse_config(binding)
    return found


def build(name: str, found: Scan) -> Any:
    """Calls the configurable ``name`` with what the parsed configuration binds to it.

    Raises:
        UserError: naming everything that is required and missing.
    """
    missing = [name for name, macro in found.macros.items() if macro.value == MacroUse(REQUIRED)]
    if missing:
        places = ", ".join(f"--gin.{m} ({found.macros[m].place})" for m in missing)
        raise UserError(f"required, but not given: {places}")
    try:
        make: Callable[[], Any] = gin.get_configurable(name)
        bound = gin.get_bindings(name, resolve_references=False)
    except ValueError:
        raise UserError(f"{name}: no gin file binds it; {_INCLUDE_A_RUN}") from None
    unbound = [
        parameter.name
        for parameter in _parameters(make)
        if parameter.default is parameter.empty and parameter.name not in bound
    ]
    if unbound:
        raise UserError(f"{name}: no gin file binds {', '.join(unbound)}; {_INCLUDE_A_RUN}")
    with _one_line(found):
        if not gin.config_is_locked():
            gin.finalize()
        return make()


def describe(found: Scan) -> str:
    """The resolved configuration, after ``build``: reloadable gin text, values behind macros."""
    lines = [f"# {shown(file)}" for file in found.files]
    for line in gin.operative_config_str(max_line_length=100).splitlines():
        use = _MACRO_BINDING.match(line)
        known = use and use[2] in found.macros
        lines.append(f"{line}  # {found.value(use[2])!r}" if known else line)
    idle = sorted(name for name in found.macros if name not in found.uses)
    if idle:
        lines += ["", "# Set, and used by nothing here:"]
        lines += [f"# {name} = {found.value(name)!r}" for name in idle]
    return "\n".join(lines)


def _parameters(configurable: Callable) -> list[inspect.Parameter]:
    if not inspect.isclass(configurable):
        return list(inspect.signature(configurable).parameters.values())
    # gin wraps the call of a class, which hides the parameters of its constructor.
    return list(inspect.signature(configurable.__init__).parameters.values())[1:]


def import_modules(modules: Iterable[str]) -> None:
    """Lets `sbs` find the user's own task modules where `python -m` would: beside him.

    Not for longer than the import: gin takes folders on the path for packages and trips over them.
    """
    sys.path.append(os.getcwd())
    try:
        for name in modules:
            with contextlib.suppress(ModuleNotFoundError):  # gin reports it, with the line
                importlib.import_module(name)
    finally:
        sys.path.pop()


def _check_macros(found: Scan) -> None:
    for name, place in found.uses.items():
        if name not in found.macros and "." not in name:  # a dot: one of gin's constants
            hint = nearest(name, found.macros)
            raise UserError(f"{place}: the macro %{name} is set nowhere{hint}")
    for name, place in found.given.items():
        if name not in found.uses and name not in found.in_files:
            known = found.in_files | (found.uses.keys() - {REQUIRED})
            raise UserError(f"{place}: no gin file sets or uses this macro{nearest(name, known)}")


@contextlib.contextmanager
def _quiet_search() -> Iterator[None]:
    """Keeps gin from logging an error for every place where an included file is not."""

    def not_a_search(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Path not found")

    root = logging.getLogger()
    # gin logs through logging.error(), which would install a handler for the whole process.
    borrowed = None if root.handlers else logging.lastResort
    root.addFilter(not_a_search)
    if borrowed:
        root.addHandler(borrowed)
    try:
        yield
    finally:
        root.removeFilter(not_a_search)
        if borrowed:
            root.removeHandler(borrowed)


@contextlib.contextmanager
def _one_line(found: Scan, place: str = "") -> Iterator[None]:
    """Turns an error of gin's own into a UserError; a bug in imported code keeps its traceback."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).splitlines()[0]) from None
    except Exception as error:
        if not isinstance(error, ModuleNotFoundError) and not _raised_by_gin(error):
            raise
        raise UserError(_message(error, found, place)) from None


def _raised_by_gin(error: Exception) -> bool:
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    return innermost.filename.startswith(_GIN_FOLDER)


def _message(error: Exception, found: Scan, place: str) -> str:
    """gin's message in one line: ``PLACE: what; did you mean X?``."""
    text = str(error)
    location = _LOCATION.search(text)
    if location and location[1]:
        place = f"{shown(location[1])}:{location[2]}"
    what = re.sub(r"<module '([\w.]+)'[^>]*>", r"\1", text.splitlines()[0]).rstrip(".")
    if isinstance(error, ModuleNotFoundError):
        what += " (is its folder on PYTHONPATH?)"
    return f"{place}: {what}{_hint(text, found)}" if place else what


def _hint(text: str, found: Scan) -> str:
    if match := _UNKNOWN_PARAMETER.match(text):
        return nearest(match[2], [p.name for p in _parameters(gin.get_configurable(match[1]))])
    if match := _UNKNOWN_CONFIGURABLE.match(text):
        names = {part for name in found.selectors for part in (name, name.rsplit(".", 1)[-1])}
        return nearest(match[1], filter(_resolves, names))
    if match := _UNKNOWN_ATTRIBUTE.search(text):
        return nearest(match[2], dir(sys.modules[match[1]]))
    return ""


def _resolves(name: str) -> bool:
    """Whether gin knows a configurable of this name."""
    try:
        gin.get_configurable(name)
    except ValueError:
        return False
    return True


def _is_found(name: str) -> bool:
    return gin_scanner.find(name, _search_paths) is not None


def _open(name: str) -> TextIO:
    return open(gin_scanner.find(name, _search_paths), encoding="utf-8")


# gin's own list of search paths can only grow; a reader of ours lets every load() have its own.
gin.config.register_file_reader(_open, _is_found)
