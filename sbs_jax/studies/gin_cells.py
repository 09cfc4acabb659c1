"""The runs of a study from its gin files: every cell reads those of its arm and size again."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sbs_jax.configs import StudyConfig, gin_loader
from sbs_jax.configs.study import CELL_MACROS
from sbs_jax.datasets import registry
from sbs_jax.errors import UserError
from sbs_jax.studies.cells import Group, Run, cell_dir
from sbs_jax.training import learning_rates
from sbs_jax.utils import buckets

import gin  # isort: skip  # after gin_launch, which mends an import that gin 0.5.0 forgets

# Bindings of the runs of a group, besides those of the study's file.
More = Mapping[Group, Sequence[str]]


def merged(one: More, other: More) -> More:
    """The bindings of both, the latter's last."""
    groups = dict.fromkeys((*one, *other))
    return {group: (*one.get(group, ()), *other.get(group, ())) for group in groups}


@dataclasses.dataclass(frozen=True)
class Place:
    """A cell of the grid; None where the grid has no such axis."""

    arm: str
    fraction: float
    seed: int
    size: str | None
    alpha: float | None
    dataset: str | None

    @property
    def groups(self) -> tuple[Group, Group]:
        """Its group, and that of an arm of one task, which has no alpha."""
        rest = (self.arm, self.size)
        return (*rest, self.alpha, self.dataset), (*rest, None, self.dataset)

    def cell_dir(self, study_dir: str) -> str:
        return cell_dir(buckets.absolute(buckets.place(study_dir)), **vars(self))


def places(config: StudyConfig) -> Iterator[Place]:
    """Seed after seed, so that an interrupted study has whole ones."""
    for seed, dataset, fraction, size, alpha, arm in itertools.product(
        config.seeds,
        config.datasets or (None,),
        config.fractions,
        config.sizes or (None,),
        config.alphas or (None,),
        config.arms,
    ):
        yield Place(arm, fraction, seed, size, alpha, dataset)


def build(
    config: StudyConfig, at: Sequence[Place], search_paths: Sequence[str | Path], more: More
) -> tuple[list[Run], list[str]]:
    """The runs at these places of a grid, and the modules that their files import.

    Raises:
        UserError: for any mistake in any of the files.
    """
    runs: list[Run] = []
    modules: list[str] = []
    for place in at:
        run, imports = _cell(config, place, search_paths, more)
        runs += [run] if run is not None else []
        modules += [name for name in imports if name not in modules]
    _check_apart(runs)
    fingerprints: dict[str, dict[str, str]] = {}
    return [_with_data(run, fingerprints) for run in runs], modules


def _with_data(run: Run, known: dict[str, dict[str, str]]) -> Run:
    """The run with the fingerprints of its records, if they are there already."""
    dataset = registry.resolve(run.config.mixture_or_task_name).dataset
    if dataset.name not in known:
        try:
            splits = (registry.TRAIN, registry.TEST)
            known[dataset.name] = {split: dataset.fingerprint(split) for split in splits}
        except UserError:  # the run reports it, with what to do
            known[dataset.name] = {}
    return dataclasses.replace(run, data=known[dataset.name])


def _check_apart(runs: Sequence[Run]) -> None:
    seen: dict[str, Run] = {}
    for run in runs:
        folder = run.config.model_dir
        if folder in seen:
            field, one, other = "alphas", seen[folder].alpha, run.alpha
            if one == other:
                field = "fractions"
                one, other = seen[folder].config.data_fraction, run.config.data_fraction
            raise UserError(
                f"StudyConfig.{field}: {one!r} and {other!r} would both be in {folder}; "
                f"choose {field} that differ more"
            )
        seen[folder] = run


def _cell(
    config: StudyConfig, place: Place, search_paths: Sequence[str | Path], more: More
) -> tuple[Run | None, list[str]]:
    """The run at a place; None for a further alpha of an arm that trains a single task."""
    model_dir = place.cell_dir(config.study_dir)
    cell = dict(zip(CELL_MACROS, (model_dir, place.fraction, place.seed), strict=True))
    own = [f"{name} = {value!r}" for name, value in cell.items()]
    if place.alpha is not None:
        own.append(f"ALPHA = {place.alpha!r}")
    further = next((more[group] for group in place.groups if group in more), ())
    bindings = [*config.bindings, *config.arm_bindings.get(place.arm, ()), *further, *own]
    try:
        parsed = gin_loader.load(_files(config, place), bindings, search_paths)
        if parsed.displaced.keys() & cell.keys():
            raise _fixed()
        built = gin_loader.build("configs.TrainConfig", parsed)
        if (built.model_dir, built.data_fraction, built.random_seed) != tuple(cell.values()):
            raise _fixed()
        learning_rates.refuse_long_warm_up(built, parsed)
        selection = registry.resolve(built.mixture_or_task_name)
    except UserError as error:
        raise UserError(f"arm {place.arm!r}: {error}") from None
    if place.alpha is not None and len(selection.views) == 1:  # alpha has no effect on it
        if place.alpha != config.alphas[0]:
            return None, parsed.imports
        place = dataclasses.replace(place, alpha=None)
        built = dataclasses.replace(built, model_dir=place.cell_dir(config.study_dir))
        parsed = gin_loader.load(
            _files(config, place),
            [*bindings[:-1], f"{CELL_MACROS[0]} = {built.model_dir!r}"],
            search_paths,
        )
        built = gin_loader.build("configs.TrainConfig", parsed)
    run = Run(
        place.arm,
        built,
        config_gin=gin.operative_config_str(),
        size=place.size,
        alpha=place.alpha,
        dataset=place.dataset,
    )
    return run, parsed.imports


def _fixed() -> UserError:
    return UserError(
        f"its files or bindings fix what the study sets itself, {', '.join(CELL_MACROS)}; "
        "leave that to the macros"
    )


def _files(config: StudyConfig, place: Place) -> list[str]:
    """The gin files of a run: those of its arm, then that of its size."""
    of_arm = config.arms[place.arm]
    of_size = config.sizes[place.size] if place.size is not None else ()
    names = [
        *([of_arm] if isinstance(of_arm, str) else of_arm),
        *([of_size] if isinstance(of_size, str) else of_size),
    ]
    return [name.replace("{dataset}", place.dataset or "{dataset}") for name in names]
