"""A user's further metrics: SeqIO's metric functions, reported with accuracy."""

import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sbs_jax.errors import OF_USERS_CODE, UserError, of_users_code
from sbs_jax.metrics.accuracy import metric_name

# SeqIO's form: (targets, predictions) -> {name: value}.
MetricFn = Callable[[Sequence[str], Sequence[str]], Mapping[str, Any]]

_PREDICTIONS, _SCORES = ["targets", "predictions"], ["targets", "scores"]
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

# Where SeqIO's MetricValue classes (Scalar, Text, Generic) keep what they hold.
_CONTENTS = ("value", "textdata", "tensor")


def checked(functions: Any, where: str) -> tuple[MetricFn, ...]:
    """A user's metric functions, each in a form that SeqIO takes.

    Args:
        functions: several, in any iterable.
        where: opens the message.

    Raises:
        UserError: no iterable of functions, or one with other parameters than SeqIO's.
    """
    if not isinstance(functions, Iterable) or isinstance(functions, str | Mapping):
        raise UserError(f"{where}: give a list of functions, [f], not {functions!r}")
    metric_fns = tuple(functions)
    for function in metric_fns:
        if not callable(function) or _required(function) not in (_PREDICTIONS, _SCORES):
            raise UserError(
                f"{where}: {metric_name(function) if callable(function) else repr(function)} must "
                "be a function of (targets, predictions), or of (targets, scores), by these names"
            )
    return metric_fns


def takes_predictions(function: Callable[..., Any]) -> bool:
    """Whether SeqIO would call it with (targets, predictions); others take model scores."""
    return _required(function) == _PREDICTIONS


def _required(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some built-in functions have no signature
        return []
    return [p.name for p in parameters if p.default is p.empty and p.kind in _POSITIONAL]


def evaluate(
    functions: Iterable[MetricFn], targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, Any]:
    """Calls the functions on a split's answers; returns values that JSON can hold.

    Args:
        functions: in SeqIO's form; those that do not take predictions are skipped.
        targets: gold labels [n].
        predictions: answers [n], in the same order.

    Raises:
        UserError: a function raises an exception, returns no mapping, or two give one name.
    """
    values: dict[str, Any] = {}
    for function in filter(takes_predictions, functions):
        name = metric_name(function)
        try:
            result = dict(function(targets, predictions))
        except OF_USERS_CODE as error:
            raise UserError(
                f"metric {name} raises {of_users_code(error)}; "
                "it must return {name: value} for any list of answers"
            ) from error
        if repeated := values.keys() & result.keys():
            raise UserError(f"metric {name} returns {min(repeated)!r}, as another metric does")
        values |= {str(key): _plain(value) for key, value in result.items()}
    return values


def _plain(value: Any) -> Any:
    """A user's value as JSON; a number that is not finite becomes None."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Real):
        number = int(value) if isinstance(value, numbers.Integral) else float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if hasattr(value, "tolist"):  # arrays and numbers of numpy and jax
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    for name in _CONTENTS:
        if hasattr(value, name):
            return _plain(getattr(value, name))
    return str(value)
