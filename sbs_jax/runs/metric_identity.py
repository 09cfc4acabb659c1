"""What a metric computes, as texts that change when it does: for the fingerprint of a score.

A user's metric is more than its own lines: what a partial or a closure holds, the attributes of an
object, its defaults, and the functions and constants of its module that it names.
"""

import functools
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from types import CodeType
from typing import Any

from sbs_jax.metrics.accuracy import Metric, metric_name

_SIMPLE = (bool, int, float, complex, str, bytes, type(None))


def texts(metric: Metric) -> list[str]:
    """A metric's name, its source, and whatever else its value depends on that can be seen."""
    if isinstance(metric, str):
        return [metric]
    seen: set[int] = set()
    return [metric_name(metric), _source(metric), *_state(metric, seen)]


def _source(metric: Any) -> str:
    """Of the function itself (not of one it wraps), or of the class of another callable."""
    named = metric if hasattr(metric, "__name__") else type(metric)
    try:
        return inspect.getsource(getattr(named, "__code__", named))
    except (OSError, TypeError):  # built-in, or defined where no file holds it
        return ""


def _state(value: Any, seen: set[int]) -> Iterator[str]:
    """What a callable holds and names; each once."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, functools.partial):
        parts = {"of": value.func, "args": value.args, **value.keywords}
    elif inspect.ismethod(value):
        parts = {"of": value.__func__, "self": value.__self__}
    elif inspect.isfunction(value):
        parts = _held(value) | _named(value)
    elif isinstance(value, type):
        return
    else:
        parts = dict(getattr(value, "__dict__", {}))
    for name in sorted(parts):
        yield from _described(name, parts[name], seen)


def _held(function: Any) -> dict[str, Any]:
    """Defaults and the variables around a function."""
    variables = inspect.getclosurevars(function).nonlocals
    defaults = {"defaults": function.__defaults__, "kwdefaults": function.__kwdefaults__}
    return {**variables, **{name: held for name, held in defaults.items() if held}}


def _named(function: Any) -> dict[str, Any]:
    """The globals that a function names: its own module's, or constants, not libraries."""
    known = function.__globals__
    referenced = {name: known[name] for name in _names(function.__code__) if name in known}
    return {
        name: value
        for name, value in referenced.items()
        if not inspect.ismodule(value) and not (callable(value) and _of_a_library(value))
    }


def _names(code: CodeType) -> set[str]:
    """All names that a code uses, comprehensions and inner functions included."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _of_a_library(value: Any) -> bool:
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    return module is not None and (file is None or file.startswith((sys.prefix, sys.base_prefix)))


def _described(name: str, value: Any, seen: set[int]) -> Iterator[str]:
    if inspect.isfunction(value) or isinstance(value, functools.partial):
        yield f"{name}: {_source(value)}"
        yield from _state(value, seen)
    elif isinstance(value, type):
        yield f"{name}: {_source(value)}"
    elif plain := _plain(value):
        yield f"{name} = {plain}"
    elif _of_a_library(type(value)):
        yield f"{name}: {type(value).__name__}"
    else:
        yield f"{name}: {_source(value)}"
        yield from _state(value, seen)


def _plain(value: Any) -> str:
    """A value of simple parts, in a form that is the same in every process; else nothing."""
    if isinstance(value, _SIMPLE):
        return repr(value)
    if isinstance(value, re.Pattern):
        return repr((value.pattern, value.flags))
    if isinstance(value, Mapping):
        items = [(_plain(key), _plain(item)) for key, item in value.items()]
        return repr(sorted(items)) if all(map(all, items)) else ""
    if isinstance(value, list | tuple | set | frozenset):
        parts = [_plain(part) for part in value]
        ordered = parts if isinstance(value, list | tuple) else sorted(parts)
        return f"{type(value).__name__}{ordered}" if all(parts) else ""
    return ""
