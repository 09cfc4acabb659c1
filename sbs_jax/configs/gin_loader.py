"""Builds an object of ``configs`` from --gin_file and --gin.X=Y; a mistake gives one line.

gin stays at the door: launchers parse it here, the rest of the package never sees it. Nothing here
imports a framework; what a gin file imports is up to the file.
"""

import contextlib
import importlib
import inspect
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sbs_jax.configs import gin_scanner, t5x_names
from sbs_jax.configs.gin_scanner import REQUIRED, MacroUse, Scan, shown
from sbs_jax.errors import UserError, nearest, of_users_code
from sbs_jax.utils import paths
from sbs_jax.utils.console import say

import gin  # isort: skip  # after gin_scan, which mends an import that gin 0.5.0 forgets

ENGINE = "sbs"

_GIN_FOLDER = os.path.dirname(gin.__file__)
_LOCATION = re.compile(r'\n  In (?:file "(.*)",|bindings string) line (\d+)\n')
_UNKNOWN_PARAMETER = re.compile(r"Configurable '(.+)' doesn't have a parameter named '(.+)'\.")
_UNKNOWN_CONFIGURABLE = re.compile(r"No configurable matching (?:reference )?'@?([\w./]+)")
_UNKNOWN_ATTRIBUTE = re.compile(r"<module '([\w.]+)'.* has no attribute (\w+)\.")
_MACRO_BINDING = re.compile(r"^(\S+) = %(\S+)$")

_ALIAS = re.compile(r"^(?:from [\w.]+ )?import ([\w.]+) as (\w+)$", re.M)
_OPERATIVE = re.compile(r"^([\w./]+)\.(\w+) = ", re.M)
# Packages of which a run of ours calls what gin binds at once, or never.
_NOT_CALLED_LATER = ("sbs_jax", "seqio", "t5x")

_INCLUDE = re.compile(r"""^include\s+(['"])(.*?)\1""")
_SCHEME, _PLAIN_SCHEME = "sbs:", "gin:"  # with T5X's names translated, and without

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
    files: Sequence[str],
    bindings: Sequence[str],
    search_paths: Sequence[str | Path] = (),
    translate: bool = True,
) -> Scan:
    """Parses files and bindings into gin; clears what was parsed before.

    A relative path is looked for in the working directory, in ``search_paths``, in the packaged
    gin folder and in that of our engine, in this order.

    Args:
        bindings: ``NAME = VALUE``, applied after all files.
        translate: read T5X's names of settings as ours; not for T5X's engine, which has them.

    Raises:
        UserError: a file, macro, configurable or parameter that does not exist, or a syntax error.
    """
    folders = [*search_paths, paths.gin_dir(), paths.gin_dir() / "engines" / ENGINE]
    _search_paths[:] = [os.fspath(folder) for folder in folders]
    if translate:
        bindings = [text for text in map(t5x_names.translate_binding, bindings) if text]
    scan = gin_scanner.scan(files, bindings, _search_paths, translate)
    _check_macros(scan)
    placed = [(text, f"--gin.{text.partition('=')[0].strip()}") for text in bindings]
    scheme = _SCHEME if translate else _PLAIN_SCHEME
    gin.clear_config()  # before the imports: a module can register nothing after `build`
    import_modules(scan.imports)
    with _quiet_search():
        for file in files:
            with _one_line(scan):
                path = gin_scanner.find(file, _search_paths)
                gin.parse_config_file(f"{scheme}{path}")
        for binding, place in (*scan.deferred, *placed):
            with _one_line(scan, place):
                gin.parse_config(binding)
    return scan


def build(name: str, scan: Scan) -> Any:
    """Calls the configurable ``name`` with what the parsed configuration binds to it.

    Raises:
        UserError: naming everything that is required and missing, and a binding without effect.
    """
    missing = [name for name, macro in scan.macros.items() if macro.value == MacroUse(REQUIRED)]
    if missing:
        places = ", ".join(f"--gin.{m} ({scan.macros[m].place})" for m in missing)
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
    _rename_macros(scan)
    _report_displaced(scan)
    with _one_line(scan):
        if not gin.config_is_locked():
            gin.finalize()
        config = make()
    _check_bindings(scan)
    return config


def describe(scan: Scan) -> str:
    """The resolved configuration, after ``build``: reloadable gin text, values behind macros."""
    lines = [f"# {shown(file)}" for file in scan.files]
    for line in gin.operative_config_str(max_line_length=100).splitlines():
        use = _MACRO_BINDING.match(line)
        if use and use[2] in scan.macros:
            line = f"{line}  # {scan.value(use[2])!r}"
        lines.append(line)
    idle = sorted(name for name in scan.macros if name not in scan.uses)
    if idle:
        lines += ["", "# Set, and used by nothing here:"]
        lines += [f"# {name} = {scan.value(name)!r}" for name in idle]
    return "\n".join(lines)


def _parameters(configurable: Callable) -> list[inspect.Parameter]:
    if not inspect.isclass(configurable):
        return list(inspect.signature(configurable).parameters.values())
    # gin wraps the call of a class, which hides the parameters of its constructor.
    return list(inspect.signature(configurable.__init__).parameters.values())[1:]


def import_modules(modules: Iterable[str]) -> None:
    """Imports task modules, also from the working directory, as `python -m` does.

    The directory leaves the path after the import: gin takes folders on it for packages.
    """
    sys.path.append(os.getcwd())
    try:
        for name in modules:
            with contextlib.suppress(ModuleNotFoundError):  # gin reports it, with the line
                _import(name)
    finally:
        sys.path.pop()


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except SystemExit as error:  # would end the program without a word
        raise UserError(
            f"import {name}: the module ends the program ({of_users_code(error)}); put what only "
            'a script does under if __name__ == "__main__"'
        ) from None


def import_named(modules: Iterable[str], flag: str) -> None:
    """`import_modules`, for modules that a flag names.

    Raises:
        UserError: a module that is not found.
    """
    for name in modules:
        import_modules([name])
        if name not in sys.modules:
            raise UserError(f"--{flag}={name}: no such module (is its folder on PYTHONPATH?)")


def _check_macros(scan: Scan) -> None:
    for name, place in scan.uses.items():
        if name not in scan.macros and "." not in name:  # a dot: one of gin's constants
            hint = nearest(name, scan.macros)
            raise UserError(f"{place}: the macro %{name} is set nowhere{hint}")
    for name, place in scan.on_command_line.items():
        if name not in scan.uses and name not in scan.in_files:
            if name in t5x_names.MACROS:
                continue  # `_rename_macros` answers
            known = scan.in_files.keys() | (scan.uses.keys() - {REQUIRED})
            raise UserError(f"{place}: no gin file sets or uses this macro{nearest(name, known)}")


def _rename_macros(scan: Scan) -> None:
    """Binds our settings to the macros that nothing uses and that have another name in T5X.

    Raises:
        UserError: for any other macro that a user's file or flag sets and nothing uses.
    """
    for name, macro in list(scan.macros.items()):
        if name in scan.uses or is_packaged(scan.in_files.get(name, set())):
            continue
        if name not in t5x_names.MACROS:
            known = scan.uses.keys() - {REQUIRED}
            raise UserError(f"{macro.place}: nothing uses the macro {name}{nearest(name, known)}")
        ours, problem = t5x_names.macro(name, repr(macro.value))
        if problem:
            raise UserError(f"{macro.place}: {name}: {problem}")
        if ours and not gin.config_is_locked():
            gin_scanner.add(scan, [f"{ours} = {macro.value!r}"])
            with _one_line(scan, str(macro.place)):
                gin.parse_config(f"{ours} = {macro.value!r}")


def _report_displaced(scan: Scan) -> None:
    """Names the macros of the user's that reach nothing, because a parameter is bound itself."""
    for name, (binding, place) in scan.displaced.items():
        macro = scan.macros.get(name)
        if macro is None or scan.users[name] or is_packaged([macro.place.file]):
            continue
        say(
            f"warning: {macro.place}: {name} = {scan.value(name)!r} has no effect: {place} binds "
            f"{binding} itself; remove one of the two"
        )


def is_packaged(files: Iterable[str]) -> bool:
    """Whether one of these files is ours: our run files set macros for other engines too."""
    folder = os.fspath(paths.gin_dir()) + os.sep
    return any(file.startswith(folder) for file in files)


def _check_bindings(scan: Scan) -> None:
    """Refuses bindings that have no effect in this run; call it after `build`.

    What a user's module calls later, during training, cannot be known here: a line names it.
    """
    text = gin.operative_config_str()
    for module, alias in _ALIAS.findall(text):  # gin's for a module imported by two names
        text = re.sub(rf"\b{alias}\.", f"{module}.", text)
    used = [match.groups() for match in _OPERATIVE.finditer(text)]
    for name, binding in scan.bindings.items():
        selector, _, parameter = name.rpartition(".")
        if any(_applies(selector, other) and parameter == last for other, last in used):
            continue
        bare = selector.rpartition("/")[2]
        package = gin.get_configurable(bare).__module__.partition(".")[0]
        if package in _NOT_CALLED_LATER:
            raise UserError(f"{binding.place}: {name} has no effect in this run; remove it")
        say(f"{binding.place}: {name}: nothing has used it so far")


def _applies(bound: str, called: str) -> bool:
    """Whether a binding of SCOPE/NAME applies to the call of SCOPE/NAME, modules in full or not."""
    (scope, _, name), (active, _, other) = bound.rpartition("/"), called.rpartition("/")
    shorter, longer = sorted((name, other), key=len)
    same = longer == shorter or longer.endswith(f".{shorter}")
    return same and (not scope or set(scope.split("/")) <= set(active.split("/")))


@contextlib.contextmanager
def _quiet_search() -> Iterator[None]:
    """Keeps gin from logging an error for each search path without the included file."""

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
def _one_line(scan: Scan, place: str = "") -> Iterator[None]:
    """Turns an error of gin's own into a UserError; a bug in imported code keeps its traceback."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).splitlines()[0]) from None
    except Exception as error:
        if not isinstance(error, ModuleNotFoundError) and not _raised_by_gin(error):
            raise
        raise UserError(_message(error, scan, place)) from None


def _raised_by_gin(error: Exception) -> bool:
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    return innermost.filename.startswith(_GIN_FOLDER)


def _message(error: Exception, scan: Scan, place: str) -> str:
    """gin's message in one line: ``PLACE: what; did you mean X?``."""
    text = str(error)
    location = _LOCATION.search(text)
    if location and location[1]:
        place = f"{shown(location[1])}:{location[2]}"
    what = re.sub(r"<module '([\w.]+)'[^>]*>", r"\1", text.splitlines()[0]).rstrip(".")
    if isinstance(error, ModuleNotFoundError):
        what += " (is its folder on PYTHONPATH?)"
    return f"{place}: {what}{_hint(text, scan)}" if place else what


def _hint(text: str, scan: Scan) -> str:
    if match := _UNKNOWN_PARAMETER.match(text):
        return nearest(match[2], [p.name for p in _parameters(gin.get_configurable(match[1]))])
    if match := _UNKNOWN_CONFIGURABLE.match(text):
        if t5x_names.is_known(match[1]):
            return f"; {t5x_names.advice('', match[1], '', '')[1]}"
        names = {part for name in scan.selectors for part in (name, name.rsplit(".", 1)[-1])}
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


class _GinText(io.StringIO):
    """A file's text for gin, with T5X's names replaced and includes resolved."""

    def __init__(self, name: str) -> None:
        scheme, path = name[: len(_SCHEME)], name[len(_SCHEME) :]
        lines, _ = gin_scanner.read(path, translate=scheme == _SCHEME)
        super().__init__("".join(_resolved(line, scheme) for line in lines))
        self.name = path  # gin's errors name it


def _resolved(line: str, scheme: str) -> str:
    include = _INCLUDE.match(line)
    path = gin_scanner.find(include[2], _search_paths) if include else None
    return line if path is None else f"include {scheme + path!r}\n"


# gin opens a file that exists without asking further readers, and its list of search paths can only
# grow; names that exist nowhere else reach the reader below.
gin.config.register_file_reader(_GinText, lambda name: name.startswith((_SCHEME, _PLAIN_SCHEME)))
