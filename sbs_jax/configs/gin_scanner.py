"""Reads gin files without importing what they configure: the macros, and the line of each.

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

from sbs_jax.configs import t5x_names
from sbs_jax.errors import UserError, nearest
from sbs_jax.utils import paths

REQUIRED = "gin.REQUIRED"

_QUOTES = " \"'`\u201c\u201d\u201e\u2018\u2019\u201a\u00ab\u00bb"  # a word processor's too
_LITERALS = {"true": "True", "false": "False", "none": "None", "null": "None"}
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
    """The last value of a macro, or of a bound parameter, and its place."""

    value: Any
    place: Place


@dataclasses.dataclass
class Scan:
    """The content of a list of files and bindings.

    Attributes:
        files: paths in the order in which their reading began.
        macros: name -> final value.
        uses: name of a macro -> the first place that refers to it.
        selectors: every configurable that a file binds or refers to, as written.
        imports: modules that a file imports.
        in_files: macros that a file sets -> the files that do.
        on_command_line: macros set on the command line -> place.
        bindings: ``SCOPE/NAME.PARAMETER`` -> its last value, and where.
        deferred: (binding, its place) of T5X's names, translated, to apply after all files.
        users: macro -> what its value reaches now, as (SCOPE, NAME, PARAMETER).
        displaced: macro -> (binding, its place) that took the place of a binding to it.
    """

    files: list[str] = dataclasses.field(default_factory=list)
    macros: dict[str, Macro] = dataclasses.field(default_factory=dict)
    uses: dict[str, Place] = dataclasses.field(default_factory=dict)
    selectors: set[str] = dataclasses.field(default_factory=set)
    imports: list[str] = dataclasses.field(default_factory=list)
    in_files: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    on_command_line: dict[str, Place] = dataclasses.field(default_factory=dict)
    bindings: dict[str, Macro] = dataclasses.field(default_factory=dict)
    deferred: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    users: dict[str, set[tuple]] = dataclasses.field(default_factory=dict)
    displaced: dict[str, tuple[str, Place]] = dataclasses.field(default_factory=dict)

    def bind(self, scope: str, selector: str, parameter: str, macro: Macro) -> None:
        """Notes a binding: the last one of a parameter counts, however its module is written."""
        name = f"{f'{scope}/' if scope else ''}{selector}.{parameter}"
        reached = (scope, selector.rpartition(".")[2], parameter)
        self.bindings[name] = macro
        for used, users in self.users.items():
            if reached in users:
                users.remove(reached)
                self.displaced[used] = (name, macro.place)
        for used in _macros_in(macro.value):
            self.users.setdefault(used, set()).add(reached)

    def value(self, name: str) -> Any:
        """The value of a macro, followed through macros that are set to another one."""
        seen = {name}
        value = self.macros[name].value
        while isinstance(value, MacroUse) and value.name in self.macros and value.name not in seen:
            seen.add(value.name)
            value = self.macros[value.name].value
        return value


def _macros_in(value: Any) -> set[str]:
    """The macros that a value refers to, inside lists and dicts too."""
    if isinstance(value, MacroUse):
        return {value.name}
    if isinstance(value, dict):
        value = [*value, *value.values()]
    parts = value if isinstance(value, list | tuple) else ()
    return set().union(*map(_macros_in, parts))


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
    """The package ``a.b`` that gin makes of ``a/b/x.gin``; None without one."""
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
    translate: bool = False,
) -> Scan:
    """Reads ``files`` with what they include, then ``bindings``.

    Args:
        translate: read T5X's names of settings as ours (`t5x_names`).

    Raises:
        UserError: a file that is not found, that includes itself or does not parse.
    """
    scanner = _Scanner(search_paths, translate)
    for file in files:
        scanner.file(file, "--gin_file", ())
    for binding in [*(text for text, _ in scanner.scan.deferred), *bindings]:
        scanner.binding(binding)
    return scanner.scan


def add(scan: Scan, bindings: Sequence[str]) -> None:
    """Reads further bindings into a scan."""
    scanner = _Scanner((), translate=False, scan=scan)
    for binding in bindings:
        scanner.binding(binding)


def read(path: str, translate: bool = False) -> tuple[list[str], list[tuple[str, str]]]:
    """The lines of a gin file, and (binding, its place) of those to apply after all files.

    Raises:
        UserError: not UTF-8, or a setting of T5X without a counterpart.
    """
    content = pathlib.Path(path).read_bytes()
    try:
        lines = list(io.StringIO(content.decode("utf-8"), newline=None))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{shown(path)}:{line}: not UTF-8 text; save the file as UTF-8") from None
    return t5x_names.translate(lines, shown(path)) if translate else (lines, [])


class _Scanner:
    """Fills a `Scan` statement by statement, in the order in which gin reads."""

    def __init__(
        self,
        search_paths: Sequence[str | os.PathLike[str]],
        translate: bool,
        scan: Scan | None = None,
    ) -> None:
        self.scan = Scan() if scan is None else scan
        self._search_paths = search_paths
        self._translate = translate

    def file(self, name: str, referrer: str, parents: tuple[str, ...]) -> None:
        path = find(name, self._search_paths)
        if path is None:
            places = ["the working directory", *(shown(str(p)) for p in self._search_paths)]
            # Names without their folders, which are alike and would make any two files similar.
            hint = nearest(name, _gin_files(self._search_paths), os.path.basename)
            raise UserError(f"{referrer}: no gin file {name!r} in {', '.join(places)}{hint}")
        if path in parents:
            raise UserError(f"{referrer}: {name!r} includes itself")
        self.scan.files.append(path)
        lines, deferred = read(path, self._translate)
        self._text(lines, path, "", (*parents, path))
        self.scan.deferred += deferred

    def binding(self, text: str) -> None:
        self._text(text.splitlines(True), "", text.partition("=")[0].strip(), ())

    def _text(
        self, lines: Iterable[str], file: str, binding: str, parents: tuple[str, ...]
    ) -> None:
        collector = _Collector()
        try:
            for statement in config_parser.ConfigParser(_Lines(lines), collector):
                location = getattr(statement, "location", None)
                place = Place(file, location.line_num if location else 0, binding)
                self._statement(statement, place, parents)
                _record_uses(collector, place, self.scan)
        except SyntaxError as error:
            place = Place(file, error.lineno or 0, binding)
            raise UserError(f"{place}: {_syntax(error.msg, error.text, file)}") from None
        except tokenize.TokenError as error:
            message, (line, _) = error.args
            place = Place(file, line, binding)
            if "string" in message:  # Python 3.12 on; before, an open quote is a SyntaxError
                text = None if file else "".join(lines)
                open_quote = _syntax("a quote is not closed", text, file)
                raise UserError(f"{place}: {open_quote}") from None
            raise UserError(f"{place}: {message}; a bracket or a quote is not closed") from None

    def _statement(self, statement: Any, place: Place, parents: tuple[str, ...]) -> None:
        if isinstance(statement, config_parser.IncludeStatement):
            _check_not_hidden(statement.filename, place)
            self.file(statement.filename, str(place), parents)
        elif isinstance(statement, config_parser.ImportStatement):
            if not statement.module.startswith("__"):  # __gin__ and __main__ are no files
                self.scan.imports.append(statement.module)
        elif isinstance(statement, config_parser.BindingStatement) and not statement.arg_name:
            _record_macro(statement, place, self.scan)
        else:
            if isinstance(statement, config_parser.BindingStatement):
                self.scan.bind(
                    statement.scope,
                    statement.selector,
                    statement.arg_name,
                    Macro(statement.value, place),
                )
            if place.file:
                self.scan.selectors.add(statement.selector)


def _gin_files(search_paths: Sequence[str | os.PathLike[str]]) -> set[str]:
    """Names that ``find`` would accept, without the working directory, which can be huge."""
    here = pathlib.Path.cwd()
    folders = [folder for p in search_paths if (folder := pathlib.Path(p).resolve()) != here]
    return {
        path.relative_to(folder).as_posix() for folder in folders for path in folder.rglob("*.gin")
    }


class _Lines:
    """The one method of a file that gin's parser calls."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)

    def readline(self) -> str:
        return next(self._lines, "")


def _record_macro(statement: config_parser.BindingStatement, place: Place, scan: Scan) -> None:
    scope = f"{statement.scope}/" if statement.scope else ""
    name = scope + statement.selector
    scan.macros[name] = Macro(statement.value, place)
    if place.file:
        scan.in_files.setdefault(name, set()).add(place.file)
    else:
        scan.on_command_line[name] = place


def _record_uses(collector: _Collector, place: Place, scan: Scan) -> None:
    for name in collector.macros:
        scan.uses.setdefault(name, place)
    if place.file:
        scan.selectors.update(collector.references)
    collector.macros.clear()
    collector.references.clear()


def _syntax(message: str, text: str | None, file: str) -> str:
    token = _BAD_TOKEN.search(message)
    cause = f"cannot read {token[1]} as a value" if token else message.rstrip(".")
    line = (text or "").strip()
    hint = ""
    name, equals, value = (part.strip(_QUOTES) for part in line.partition("="))
    if literal := _LITERALS.get(value.casefold()):
        hint = f"; write {literal}"
    elif equals and not file:
        hint = f"""; quote the string: --gin.{name}='"{value}"'"""
    elif equals and (token or not line.isascii()):
        hint = f'; a string needs plain quotes: {name} = "{value}"'
    return f"{cause} in {line!r}{hint}" if line else cause
