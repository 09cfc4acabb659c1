"""Chooses hyper-parameters on validation: every arm gets the same tries, before the study's runs.

A try has all the data and the study's first seed. The one with the highest accuracy on validation
(ties: the first) gives its values to all runs of its group. The test questions play no part.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

from sbs_jax.configs import StudyConfig
from sbs_jax.metrics.accuracy import Accuracy
from sbs_jax.runs import layout, reader
from sbs_jax.studies import gin_cells
from sbs_jax.studies.cells import Group, Run, group_name
from sbs_jax.studies.gin_cells import More
from sbs_jax.utils.buckets import absolute, place

_NONE = "This study chose no hyper-parameter: every arm has the settings that its files give."


@dataclasses.dataclass(frozen=True)
class Try:
    """A run with one combination of the values to choose from.

    Attributes:
        group: whose settings it may become.
        bindings: of the combination.
    """

    run: Run
    group: Group
    bindings: tuple[str, ...]

    @property
    def accuracy(self) -> Accuracy | None:
        """On validation; None before it is finished."""
        folder = place(self.run.config.model_dir)
        if not (folder / layout.RESULTS).is_file():
            return None
        results = reader.read_run(folder).results or {}
        scored = (r for r in results.get("results", ()) if r["split"] == "validation")
        return next(map(Accuracy.from_json, scored), None)


def folder(study_dir: Path) -> Path:
    """The folder of the tries: a separate study within the study's folder."""
    return study_dir / "choices"


def tries(config: StudyConfig, search_paths: Sequence[str | Path], more: More) -> list[Try]:
    """All combinations of the values for every group; none where nothing is to be chosen.

    Raises:
        UserError: a value that is refused.
    """
    if not config.choices:
        return []
    candidates = []
    for number, values in enumerate(itertools.product(*config.choices.values())):
        tried = dataclasses.replace(
            config,
            study_dir=str(folder(absolute(place(config.study_dir))) / f"try{number}"),
            fractions=(max(config.fractions),),
            seeds=config.seeds[:1],
        )
        at = list(gin_cells.places(tried))
        bindings = tuple(f"{name} = {v!r}" for name, v in zip(config.choices, values, strict=True))
        own = {group: bindings for place in at for group in place.groups}
        runs, _ = gin_cells.build(tried, at, search_paths, gin_cells.merged(more, own))
        candidates += [
            Try(dataclasses.replace(run, arm=f"{run.arm}-try{number}"), run.group, bindings)
            for run in runs
        ]
    return candidates


def first(candidates: Sequence[Try]) -> More:
    """The first combination of every group."""
    return {each.group: each.bindings for each in reversed(candidates)}


def chosen(candidates: Sequence[Try]) -> More:
    """The best combination of every group; empty while a try is not finished."""
    best: dict[Group, tuple[float, tuple[str, ...]]] = {}
    for each in candidates:
        accuracy = each.accuracy
        if accuracy is None:
            return {}
        if each.group not in best or accuracy.value > best[each.group][0]:
            best[each.group] = accuracy.value, each.bindings
    return {group: bindings for group, (_, bindings) in best.items()}


def sentence(config: StudyConfig, candidates: Sequence[Try]) -> str:
    """How the values were chosen, for the report."""
    best = chosen(candidates)
    if not best:
        return _NONE
    parts = []
    for group, bindings in best.items():
        of_group = [each for each in candidates if each.group == group]
        scores = (f"{each.accuracy.value:.3f}" for each in of_group if each.accuracy)
        tried = f"accuracies of all tries {', '.join(scores)}"
        parts.append(f"{group_name(group)}: {', '.join(bindings)} ({tried})")
    return (
        f"Chosen on validation, with all the data and seed {config.seeds[0]}, the same "
        f"{len(candidates) // len(best)} tries for every arm: {'; '.join(parts)}."
    )
