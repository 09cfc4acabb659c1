"""Read gin files without importing what they configure: the macros, and where each one stands.

gin itself reports one problem at a time, some without a place and some only when the value is used.
This reads the same files in the same order with gin's own parser, so that a launcher can name the
file and line, list everything that is missing and propose the nearest name, all before any import.
"""

import dataclasses
import importlib.util  # before gin: gin 0.5.0 needs it in resource_reader, without importing it
import io
import os
import pathlib
import re
import tokenize
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec
from typing import Any

from gin import config_parser

from sbs_jax.errors import UserError, nearest
from sbs_jax.utils import paths

REQUIRED = "gin.REQUIRED"

_QUOTES = " \"'`\u201c\u201d\u201e\u2018\u2019\u201a\u00ab\u00bb"  # a word processor's too
_BAD_TOKEN = re.compile(r"Failed to parse token (.+)")


@dataclasses.dataclass(frozen=True)
class MacroUse:
    """``%NAME``."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


@dataclasses.dataclass(frozen=True)
class Reference:
    """``@scope/name`` or ``@scope/name()``."""

    name: str
    evaluated: bool

    def __repr__(self) -> str:
        return f"@{self.name}{'()' if self.evaluated else ''}"


@dataclasses.dataclass(frozen=True)
class Place:
    """A line of a file, or a binding given on the command line (``file`` is empty)."""

    file: str
    line: int
    binding: str = ""

    def __str__(self) -> str:
        return f"{shown(self.file)}:{self.line}" if self.file else f"--gin.{self.binding}"


@dataclasses.dataclass(frozen=True)
class Macro:
    """The last value a macro was given, and where."""

    value: Any
    place: Place


@dataclasses.dataclass
class Scan:
    """What a list of files and bindings says.

    Attributes:
        files: paths in the order in which their reading began.
        macros: name -> final value.
        uses: name of a macro -> the first place that refers to it.
        selectors: every configurable that a file binds or refers to, as written.
        imports: modules that a file imports.
        in_files: macros that a file sets.
        given: macros set on the command line -> place.
    """

    files: list[str] = dataclasses.field(default_factory=list)
    macros: dict[str, Macro] = dataclasses.field(default_factory=dict)
    uses: dict[str, Place] = dataclasses.field(default_factory=dict)
    selectors: set[str] = dataclasses.field(default_factory=set)
    imports: list[str] = dataclasses.field(default_factory=list)
    in_files: set[str] = dataclasses.field(default_factory=set)
    given: dict[str, Place] = dataclasses.field(default_factory=dict)

    def value(self, name: str) -> Any:
        """The value of a macro, followed through macros that are set to another one."""
        seen = {name}
        value = self.macros[name].value
        while isinstance(value, MacroUse) and value.name in self.macros and value.name not in seen:
            seen.add(value.name)
            value = self.macros[value.name].value
        return value


class _Collector(config_parser.ParserDelegate):
    """Receives the references that the parser meets inside one value."""

    def __init__(self) -> None:
        self.macros: list[str] = []
        self.references: list[str] = []

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        self.references.append(scoped_configurable_name.rsplit("/", 1)[-1])
        return Reference(scoped_configurable_name, evaluate)

    def macro(self, macro_name: str) -> MacroUse:
        self.macros.append(macro_name)
        return MacroUse(macro_name)


def shown(path: str) -> str:
    """``path`` as a user would type it: relative when it lies below the working directory."""
    below = os.path.relpath(path)
    return path if below.startswith(os.pardir) else below


def find(name: str, search_paths: Sequence[str | os.PathLike[str]]) -> str | None:
    """The file gin would read for ``name``: as given, as a package resource, in a search path."""
    name = paths.local(name)
    if os.path.isfile(name):
        return os.path.abspath(name)
    if os.path.isabs(name):
        return None
    package = _package(name)
    if package and package.origin:
        resource = os.path.join(os.path.dirname(package.origin), os.path.basename(name))
        if os.path.isfile(resource):
            return os.path.abspath(resource)
    candidates = (os.path.join(folder, name) for folder in search_paths)
    return next((os.path.abspath(path) for path in candidates if os.path.isfile(path)), None)


def _package(name: str) -> ModuleSpec | None:
    """gin takes the folder of ``a/b/x.gin`` for a package ``a.b`` too."""
    package = os.path.dirname(name).replace("/", ".")
    try:
        return importlib.util.find_spec(package) if package else None
    except (ImportError, ValueError):
        return None


def _check_not_hidden(name: str, place: Place) -> None:
    if os.path.isfile(name) or os.path.isabs(name):
        return
    package = _package(name)
    if package and package.origin is None:
        # gin's reader stops with a TypeError at a folder without __init__.py on the import path.
        raise UserError(
            f"{place}: include {name!r} is hidden by a folder {os.path.dirname(name)!r} on the "
            "Python path; start from another directory"
        )


def scan(
    files: Sequence[str],
    bindings: Sequence[str],
    search_paths: Sequence[str | os.PathLike[str]],
) -> Scan:
    """Reads ``files`` with what they include, then ``bindings``.

    Raises:
        UserError: a file that is not found, that includes itself or does not parse.
    """
    found = Scan()
    for file in files:
        _scan_file(file, "--gin_file", found, search_paths, ())
    for binding in bindings:
        name = binding.partition("=")[0].strip()
        _scan_text(binding.splitlines(True), "", name, found, search_paths, ())
    return found


def _scan_file(
    name: str,
    asked_by: str,
    found: Scan,
    search_paths: Sequence[str | os.PathLike[str]],
    parents: tuple[str, ...],
) -> None:
    path = find(name, search_paths)
    if path is None:
        searched = ", ".join(["the working directory", *(shown(str(p)) for p in search_paths)])
        hint = nearest(name, _gin_files(search_paths))
        raise UserError(f"{asked_by}: no gin file {name!r} in {searched}{hint}")
    if path in parents:
        raise UserError(f"{asked_by}: {name!r} includes itself")
    found.files.append(path)
    _scan_text(_read(path), path, "", found, search_paths, (*parents, path))


def _read(path: str) -> Iterable[str]:
    """The lines of a file."""
    content = pathlib.Path(path).read_bytes()
    try:
        return io.StringIO(content.decode("utf-8"), newline=None)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{shown(path)}:{line}: not UTF-8 text; save the file as UTF-8") from None


def _gin_files(search_paths: Sequence[str | os.PathLike[str]]) -> set[str]:
    """Names that ``find`` would accept; the working directory is left out, as it can be huge."""
    here = pathlib.Path.cwd()
    folders = [folder for p in search_paths if (folder := pathlib.Path(p).resolve()) != here]
    return {
        path.relative_to(folder).as_posix() for folder in folders for path in folder.rglob("*.gin")
    }


def _scan_text(
    lines: Iterable[str],
    file: str,
    binding: str,
    found: Scan,
    search_paths: Sequence[str | os.PathLike[str]],
    parents: tuple[str, ...],
) -> None:
    collector = _Collector()
    try:
        parser = config_parser.ConfigParser(_Lines(lines), collector)
        for statement in parser:
            location = getattr(statement, "location", None)
            place = Place(file, location.line_num if location else 0, binding)
            if isinstance(statement, config_parser.IncludeStatement):
                _check_not_hidden(statement.filename, place)
                _scan_file(statement.filename, str(place), found, search_paths, parents)
            elif isinstance(statement, config_parser.BindingStatement) and not statement.arg_name:
                _record_macro(statement, place, found)
            elif isinstance(statement, config_parser.ImportStatement):
                if not statement.module.startswith("__"):  # __gin__ and __main__ are no files
                    found.imports.append(statement.module)
            else:
                collector.references.append(statement.selector)
            _record_uses(collector, place, found)
    except SyntaxError as error:
        place = Place(file, error.lineno or 0, binding)
        raise UserError(f"{place}: {_syntax(error.msg, error.text, file)}") from None
    except tokenize.TokenError as error:
        message, (line, _) = error.args
        place = Place(file, line, binding)
        if "string" in message:  # Python 3.12 on; before, an open quote is a SyntaxError of gin's
            text = None if file else "".join(lines)
            raise UserError(f"{place}: {_syntax('a quote is not closed', text, file)}") from None
        raise UserError(f"{place}: {message}; a bracket or a quote is not closed") from None


class _Lines:
    """The one method of a file that gin's parser calls."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)

    def readline(self) -> str:
        return next(self._lines, "")


def _record_macro(statement: config_parser.BindingStatement, place: Place, found: Scan) -> None:
    scope = f"{statement.scope}/" if statement.scope else ""
    name = scope + statement.selector
    found.macros[name] = Macro(statement.value, place)
    if place.file:
        found.in_files.add(name)
    else:
        found.given[name] = place


def _record_uses(collector: _Collector, place: Place, found: Scan) -> None:
    for name in collector.macros:
        found.uses.setdefault(name, place)
    if place.file:
        found.selectors.update(collector.references)
    collector.macros.clear()
    collector.references.clear()


def _syntax(message: str, text: str | None, file: str) -> str:
    token = _BAD_TOKEN.search(message)
    cause = f"cannot read {token[1]} as a value" if token else message.rstrip(".")
    line = (text or "").strip()
    hint = ""
    if not file and "=" in line:
        name, _, value = (part.strip(_QUOTES) for part in line.partition("="))
        hint = f"""; a string needs quotes of its own: --gin.{name}='"{value}"'"""
    return f"{cause} in {line!r}{hint}" if line else cause
