"""Checks a configuration: every field against its annotation, then against its rule.

A field states its default, the gin macro that sets it and its rule in one place:

    alpha: float = setting(0.5, macro="ALPHA", rule=between(0, 1))

The type check is written here because beartype, which could do it, takes 0.25 s to import, and
``sbs train --dry_run`` imports this module.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sbs_jax.errors import UserError

_KINDS = {int: "a whole number", float: "a number", str: "a string", bool: "True or False"}


class Rule(NamedTuple):
    """What a value must satisfy beyond its type: a test, and the test in words."""

    holds: Callable[[Any], bool]
    words: str


COUNT = Rule(lambda n: n > 0, "a whole number above 0")
ABOVE_0 = Rule(lambda x: x > 0, "more than 0")
FROM_0 = Rule(lambda x: x >= 0, "0 or more")
BELOW_1 = Rule(lambda x: 0 <= x < 1, "from 0 to below 1")
FRACTION = Rule(lambda x: 0 <= x <= 1, "from 0 to 1")
ANYTHING = Rule(lambda _: True, "")


def one_of(*names: str) -> Rule:
    """The rule of a field that takes one of these names."""
    return Rule(lambda name: name in names, f"one of {', '.join(names)}")


def described(words: str) -> Rule:
    """A rule that only words the field's type for messages."""
    return Rule(lambda _: True, words)


def setting(
    default: Any = dataclasses.MISSING,
    *,
    macro: str | None = None,
    rule: Rule = ANYTHING,
    path: Callable[[str], str] | None = None,
) -> Any:
    """A dataclass field with the gin macro that sets it and the rule of its values.

    Args:
        default: omitted for a required field.
        macro: the name that errors show instead of ``CLASS.FIELD``.
        path: for a path, `paths.expand` or `paths.local`.
    """
    metadata = {"macro": macro, "rule": rule, "path": path}
    return dataclasses.field(default=default, metadata=metadata)


def macros(*kinds: type) -> dict[str, str]:
    """{field: macro} of the fields of these dataclasses that a macro sets."""
    fields = (field for kind in kinds for field in dataclasses.fields(kind))
    return {field.name: field.metadata["macro"] for field in fields if field.metadata.get("macro")}


def require(condition: bool, name: str, value: object, words: str) -> None:
    """Raises UserError ``NAME = VALUE: must be WORDS`` unless the condition holds."""
    if not condition:
        raise UserError(f"{name} = {value!r}: must be {words}")


def check(config: Any) -> None:
    """Checks every field of a configuration and brings its values into one form.

    Afterwards whole numbers are floats where floats are annotated and lists are tuples where tuples
    are: equal configurations then hash alike, and jit can take one as static.

    Raises:
        UserError: naming the macro or ``CLASS.FIELD``, its value and what it must be.
    """
    for field in dataclasses.fields(config):
        name = field.metadata.get("macro") or f"{type(config).__name__}.{field.name}"
        rule = field.metadata.get("rule", ANYTHING)
        value = getattr(config, field.name)
        require(_is_a(value, field.type), name, value, _in_words(field.type, rule.words))
        value = _normal(value, field.type)
        if (path := field.metadata.get("path")) and value:
            value = _expanded(path, name, value)
        object.__setattr__(config, field.name, value)
        require(value is None or rule.holds(value), name, value, rule.words)


def _expanded(path: Callable[[str], str], name: str, value: str) -> str:
    try:
        return path(value)
    except UserError as error:
        raise UserError(f"{name} = {value!r}: {error}") from None


def _is_a(value: object, kind: Any) -> bool:
    """isinstance for the annotations of configurations; a list is accepted for a tuple."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return any(_is_a(value, part) for part in parts)
    if origin in (tuple, Sequence):
        if not isinstance(value, tuple | list):
            return False
        kinds = _item_kinds(kind, len(value))
        return len(value) == len(kinds) and all(map(_is_a, value, kinds))
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(
            _is_a(key, parts[0]) and _is_a(item, parts[1]) for key, item in value.items()
        )
    if kind is float:
        return type(value) in (int, float) and math.isfinite(typing.cast(float, value))
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _item_kinds(kind: Any, count: int) -> Sequence[Any]:
    """The annotations of the `count` items of a tuple or sequence."""
    parts = typing.get_args(kind)
    return parts if typing.get_origin(kind) is tuple and parts[-1] is not ... else parts[:1] * count


def _normal(value: Any, kind: Any) -> Any:
    """A value of this kind, with floats and tuples where the kind has them."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return _normal(value, next(part for part in parts if _is_a(value, part)))
    if origin in (tuple, Sequence):
        return tuple(map(_normal, value, _item_kinds(kind, len(value))))
    return float(value) if kind is float else value


def _in_words(kind: Any, words: str) -> str:
    """A kind in words, for an error; `words` where the kind is too complex to be named."""
    parts = set(typing.get_args(kind)) - {type(None)}
    if typing.get_origin(kind) is types.UnionType and len(parts) == 1:
        return f"{_in_words(parts.pop(), words)} or None"
    if isinstance(kind, type) and typing.get_origin(kind) is None:
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        return _KINDS.get(kind, f"{article} {kind.__name__}")
    return words
