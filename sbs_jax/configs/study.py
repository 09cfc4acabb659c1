"""A grid of runs."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sbs_jax.configs.validation import (
    ABOVE_0,
    COUNT,
    Rule,
    check,
    described,
    one_of,
    require,
    setting,
)
from sbs_jax.utils.paths import expand

# The macros in which the runs of a study differ.
CELL_MACROS = ("MODEL_DIR", "DATA_FRACTION", "RANDOM_SEED")


def _no_twins(values: Sequence[Any]) -> bool:
    return len(values) == len(set(values))


def _each_once(values: Sequence[Any]) -> bool:
    return len(values) > 0 and _no_twins(values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A grid of runs: every arm on every fraction of the data with every seed.

    Attributes:
        study_dir: STUDY_DIR, local or `gs://`. The same command does what is missing there.
        arms: the gin files of an experiment (a name or a list) by the name of what is compared.
            ``standard`` and ``step_by_step`` are names the report knows.
        datasets: put for ``{dataset}`` in the arms' files, each a part of the grid; none: the
            files name theirs.
        sizes: gin files that choose a model, by the name of the size; read after the arm's.
        alphas: ALPHA of the runs that train two tasks; none: what their files say.
        fractions: DATA_FRACTION of the runs.
        seeds: RANDOM_SEED of the runs; an interval over seeds needs two or more.
        bindings: gin bindings of all runs, e.g. ``TRAIN_STEPS = 300``.
        arm_bindings: further bindings, by arm.
        choices: macros and the values to choose from on validation, for every arm, size, alpha and
            dataset: all combinations are trained with the most data and the first seed.
        equal: what the arms have in common: ``updates`` (unless an arm sets its own), or
            ``compute``: TRAIN_STEPS of the cheaper arms rise until they cost what the costliest
            does, by the lengths of its questions and targets.
        search: train only what is needed to find the least data with which each arm beats the
            teacher: bisection over the fractions, with all seeds at each.
        search_runs: at most this many runs are trained by a search.
        teacher_parameters: of the teacher, e.g. 540e9: for the report's pictures and sizes.
        workers: runs trained side by side. With more than one, each gets one CPU thread and no
            accelerator; a single run uses every device.
        shared: the same command runs on several machines with the same STUDY_DIR; each trains what
            no other has claimed, waits for the rest and writes the report.
    """

    study_dir: str = setting(macro="STUDY_DIR", path=expand)
    arms: Mapping[str, str | Sequence[str]] = setting(
        rule=Rule(bool, '{"NAME": "experiments/FILE.gin", ...}')
    )
    datasets: Sequence[str] = setting((), rule=Rule(_no_twins, "names of datasets, each once"))
    sizes: Mapping[str, str | Sequence[str]] = dataclasses.field(
        default_factory=dict, metadata={"rule": described('{"NAME": "sbs_models/FILE.gin", ...}')}
    )
    alphas: Sequence[float] = setting((), rule=Rule(_no_twins, "numbers from 0 to 1, each once"))
    fractions: Sequence[float] = setting(
        (1.0,), rule=Rule(_each_once, "values, each once, such as (0.25, 1.0)")
    )
    seeds: Sequence[int] = setting(
        (0, 1, 2), rule=Rule(_each_once, "values, each once, such as (0, 1, 2)")
    )
    bindings: Sequence[str] = setting((), rule=described("a list of strings, 'NAME = VALUE'"))
    arm_bindings: Mapping[str, Sequence[str]] = dataclasses.field(
        default_factory=dict,
        metadata={"rule": described("{ARM: a list of strings, 'NAME = VALUE'}")},
    )
    choices: Mapping[str, Sequence[int | float | str]] = dataclasses.field(
        default_factory=dict, metadata={"rule": described('{"LEARNING_RATE": (1e-4, 3e-4), ...}')}
    )
    equal: str = setting("updates", rule=one_of("updates", "compute"))
    search: bool = False
    search_runs: int = setting(1000, rule=COUNT)
    teacher_parameters: float | None = setting(None, rule=ABOVE_0)
    workers: int = setting(1, rule=COUNT)
    shared: bool = False

    def __post_init__(self) -> None:
        check(self)
        for field in ("arms", "sizes"):
            for name in getattr(self, field):  # a folder is named after it
                good = re.fullmatch(r"[\w-]+", name)
                rule = "named with letters, digits, _ and -"
                require(bool(good), f"StudyConfig.{field}", name, rule)
        self._check_bindings("StudyConfig.bindings", self.bindings)
        self._check_bindings("StudyConfig.choices", list(self.choices))
        for macro, values in self.choices.items():
            require(
                _each_once(values), f"StudyConfig.choices[{macro!r}]", values, "values, each once"
            )
        for arm, bindings in self.arm_bindings.items():
            known = f"about one of the arms, {', '.join(self.arms)}"
            require(arm in self.arms, "StudyConfig.arm_bindings", arm, known)
            self._check_bindings("StudyConfig.arm_bindings", bindings)

    def _check_bindings(self, name: str, bindings: Sequence[str]) -> None:
        rule = f"without {', '.join(CELL_MACROS)}, which the study sets itself"
        for binding in bindings:
            good = binding.partition("=")[0].strip() not in CELL_MACROS
            require(good, name, binding, rule)
