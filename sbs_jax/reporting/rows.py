"""The rows of study.jsonl, one per run of a grid, and the names of what is compared."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.metrics.accuracy import Accuracy

# Arms of a study, in the order of tables and legends.
ARM_NAMES = {
    "standard": "standard",
    "standard_2x": "standard (2x steps)",
    "distill": "standard (teacher labels)",
    "step_by_step": "step-by-step",
    "step_by_step_llm": "step-by-step (teacher labels)",
    "single_task": "rationale and label in one sequence",
    "pinto": "rationale in the input",
}
TEACHER = "teacher"
STEP_BY_STEP = ("step_by_step", "step_by_step_llm")
_AXES: Mapping[str, tuple[Any, str]] = {
    "arm": (str, "a name"),
    "size": (str | None, "a name"),
    "alpha": (int | float | None, "a number"),
    "axis_dataset": (str | None, "a name"),
    "fraction": (int | float, "a number"),
    "seed": (int, "a whole number"),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One run of a study.

    Attributes:
        fraction: of the labels trained on, above 0 to 1.
        accuracy: on the test questions.
        cpu_seconds: of the run, or None where it was not taken.
        teacher: accuracy on those of the questions that it has a label for, or None.
        majority: accuracy on the same questions, or None.
        model_dir: relative to the study's folder, or None.
        dataset: whose test questions they are; None where that is unknown.
        fingerprint: of the score: of questions, gold labels, metric and decoding length.
    """

    arm: str
    fraction: float
    seed: int
    accuracy: Accuracy
    steps: int
    train_examples: int
    cpu_seconds: float | None = None
    teacher: Accuracy | None = None
    majority: Accuracy | None = None
    model_dir: str | None = None
    dataset: str | None = None
    fingerprint: str | None = None


@dataclasses.dataclass(frozen=True)
class Failure:
    """A run of a study that did not finish, and why."""

    arm: str
    fraction: float
    seed: int
    reason: str


def arm_name(arm: str) -> str:
    """How an arm is called in tables and legends: ``step_by_step@large`` -> step-by-step, large."""
    method, *variant = arm.split("@")
    return ", ".join([ARM_NAMES.get(method, method), *variant])


def labels_name(fraction: float, labels: int) -> str:
    """400 (50%), as tables name a fraction of the labels."""
    return f"{labels} ({100 * fraction:.4g}%)"


def row_name(row: Row) -> str:
    """How a run is called."""
    labels = labels_name(row.fraction, row.train_examples)
    return f"{arm_name(row.arm)}, {labels} labels, seed {row.seed}"


def parse_failure(fields: Mapping[str, Any], where: str) -> Failure | None:
    """The failed run that an object of study.jsonl describes; None for a finished one.

    Raises:
        UserError: as `place`.
    """
    if not fields.get("error"):
        return None
    *_, fraction, seed = place(fields, where)
    return Failure(full_arm(fields), float(fraction), seed, str(fields["error"]))


def place(fields: Mapping[str, Any], where: str) -> tuple[Any, ...]:
    """Where in the grid a run is: its arm, size, alpha, dataset, fraction and seed.

    Raises:
        UserError: an axis is missing or of the wrong kind; `where` (file:line) opens the message.
    """
    for axis, (kind, words) in _AXES.items():
        if not isinstance(fields.get(axis), kind):
            raise UserError(
                f"{where}: not a row of a study: field {axis!r} must be {words}; remove it, and "
                "sbs study scores the run again"
            )
    return tuple(fields.get(axis) for axis in _AXES)


def full_arm(fields: Mapping[str, Any]) -> str:
    """The arm with its size and alpha: ``step_by_step@large``. Raises KeyError without an arm."""
    return "@".join([str(fields["arm"]), *_variant(fields)])


def _variant(fields: Mapping[str, Any]) -> Iterator[str]:
    """What distinguishes runs of one arm besides fraction and seed: model size and alpha."""
    if fields.get("size") is not None:
        yield str(fields["size"])
    if fields.get("alpha") is not None:
        yield f"alpha {fields['alpha']:g}"


def parse_row(fields: Mapping[str, Any], where: str) -> Row:
    """One object of study.jsonl; `where` (file:line) opens every error.

    Raises:
        UserError: a field is missing or of the wrong kind.
    """
    *_, fraction, seed = place(fields, where)
    try:
        return Row(
            arm=full_arm(fields),
            fraction=float(fraction),
            seed=seed,
            accuracy=Accuracy.from_json(fields),
            steps=int(fields["steps"]),
            train_examples=int(fields["train_examples"]),
            cpu_seconds=fields.get("cpu_seconds"),
            teacher=parse_accuracy(fields.get("teacher")),
            majority=parse_accuracy(fields.get("majority")),
            model_dir=fields.get("model_dir"),
            dataset=fields.get("dataset"),
            fingerprint=fields.get("fingerprint"),
        )
    except KeyError as error:
        raise UserError(f"{where}: field {error} is missing") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None


def parse_accuracy(fields: Mapping[str, Any] | None) -> Accuracy | None:
    """``{"correct", "n", ...}`` of a results file, or None."""
    if not fields:
        return None
    return Accuracy.from_json(fields)
