"""A study that a gin file describes: experiments as arms, over data fractions and seeds."""

import dataclasses
import functools
import itertools
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from sbs_jax.configs import StudyConfig, TrainConfig, gin_loader
from sbs_jax.configs.study import CELL_MACROS
from sbs_jax.datasets import registry
from sbs_jax.errors import UserError
from sbs_jax.reporting import page, rows
from sbs_jax.reporting.study_files import StudyTexts
from sbs_jax.studies import estimate, runner, search
from sbs_jax.studies.cells import Run, cell_dir
from sbs_jax.studies.runner import Study
from sbs_jax.training import learning_rates
from sbs_jax.utils import paths

import gin  # isort: skip  # after gin_launch, which mends an import that gin 0.5.0 forgets

_CAVEATS = (
    "The comparison is at equal updates unless an arm sets TRAIN_STEPS; the CPU-seconds beside it "
    "are those of the updates alone.",
    "Checkpoints were chosen on validation; the test questions were scored once, at the end.",
)

_RANDOM_WEIGHTS = (
    "The students start from random weights: no pretrained model was used, so these accuracies say "
    "nothing about the paper's, whose students are pretrained."
)


def load(
    files: Sequence[str], bindings: Sequence[str], search_paths: Sequence[str | Path]
) -> tuple[StudyConfig, list[Run], list[str]]:
    """Reads a study's gin files, and those of every run.

    Returns:
        The study, its runs, and the modules that register their datasets.

    Raises:
        UserError: for any mistake in any of the files, before anything is trained.
    """
    parsed = gin_loader.load(files, bindings, search_paths)
    config = gin_loader.build("configs.StudyConfig", parsed)
    runs, modules = [], list(parsed.imports)
    for place in _places(config):
        run, imports = _cell(config, place, search_paths)
        if run is not None:
            runs.append(run)
        modules += [name for name in imports if name not in modules]
    _check_apart(runs)
    fingerprints: dict[str, dict[str, str]] = {}
    return config, [_with_data(run, fingerprints) for run in runs], modules


@dataclasses.dataclass(frozen=True)
class _Place:
    """A cell of the grid; None where the grid has no such axis."""

    arm: str
    fraction: float
    seed: int
    size: str | None
    alpha: float | None
    dataset: str | None

    def cell_dir(self, study_dir: str) -> str:
        return cell_dir(Path(study_dir).absolute(), **vars(self))


def _places(config: StudyConfig) -> Iterator[_Place]:
    """Seed after seed, so that an interrupted study has whole ones."""
    for seed, dataset, fraction, size, alpha, arm in itertools.product(
        config.seeds,
        config.datasets or (None,),
        config.fractions,
        config.sizes or (None,),
        config.alphas or (None,),
        config.arms,
    ):
        yield _Place(arm, fraction, seed, size, alpha, dataset)


def _with_data(run: Run, known: dict[str, dict[str, str]]) -> Run:
    """The run with the fingerprints of its records, if they are there already."""
    dataset = registry.resolve(run.config.mixture_or_task_name).dataset
    if dataset.name not in known:
        try:
            splits = (registry.TRAIN, registry.TEST)
            known[dataset.name] = {split: dataset.fingerprint(split) for split in splits}
        except UserError:  # told by the run itself, with what to do
            known[dataset.name] = {}
    return dataclasses.replace(run, data=known[dataset.name])


def _check_apart(runs: Sequence[Run]) -> None:
    seen: dict[str, Run] = {}
    for run in runs:
        folder = run.config.model_dir
        if folder in seen:
            one, other = seen[folder].config.data_fraction, run.config.data_fraction
            raise UserError(
                f"StudyConfig.fractions: {one!r} and {other!r} would both be in {folder}; "
                "choose fractions that differ more"
            )
        seen[folder] = run


def _cell(
    config: StudyConfig, place: _Place, search_paths: Sequence[str | Path]
) -> tuple[Run | None, list[str]]:
    """The run at a place; None for a further alpha of an arm that trains a single task."""
    model_dir = place.cell_dir(config.study_dir)
    cell = dict(zip(CELL_MACROS, (model_dir, place.fraction, place.seed), strict=True))
    own = [f"{name} = {value!r}" for name, value in cell.items()]
    if place.alpha is not None:
        own.append(f"ALPHA = {place.alpha!r}")
    bindings = [*config.bindings, *config.arm_bindings.get(place.arm, ()), *own]
    try:
        parsed = gin_loader.load(_files(config, place), bindings, search_paths)
        built = gin_loader.build("configs.TrainConfig", parsed)
        if (built.model_dir, built.data_fraction, built.random_seed) != tuple(cell.values()):
            raise UserError(
                f"its files or bindings fix what the study sets itself, {', '.join(CELL_MACROS)}; "
                "leave that to the macros"
            )
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


def _files(config: StudyConfig, place: _Place) -> list[str]:
    """The gin files of a run: those of its arm, then that of its size."""
    of_arm = config.arms[place.arm]
    of_size = config.sizes[place.size] if place.size is not None else ()
    names = [
        *([of_arm] if isinstance(of_arm, str) else of_arm),
        *([of_size] if isinstance(of_size, str) else of_size),
    ]
    return [name.replace("{dataset}", place.dataset or "{dataset}") for name in names]


def run(config: StudyConfig, runs: Sequence[Run], modules: Sequence[str]) -> str:
    """Trains what is missing, then writes the report. Returns its tables as text."""
    folder = Path(config.study_dir).absolute()
    several = config.workers > 1
    study = Study(
        folder=folder,
        runs=runs,
        texts=_texts(config, runs),
        prepare=functools.partial(prepare, os.fspath(paths.data_dir()), tuple(modules)),
        workers=config.workers,
        environment=runner.environment(folder, one_cpu_thread=several),
    )
    if config.search:
        failures, path = search.least_data(study, config.search_runs)
    else:
        failures, path = runner.run(study), []
    text = "\n\n".join([page.write([folder], folder), *path])
    if failures:
        print(text)
    runner.refuse(failures)
    return text


def prepare(data_dir: str, modules: Sequence[str]) -> None:
    """In a worker: the data folder, and the modules that register datasets."""
    paths.set_data_dir(data_dir)
    gin_loader.import_modules(modules)


def describe(config: StudyConfig, runs: Sequence[Run]) -> str:
    """The runs as lines for people, and what all of them together need."""
    kind = ", at most: a search trains what it needs" if config.search else ""
    lines = [f"{len(runs)} runs in {config.study_dir}, {config.workers} at a time{kind}"]
    lines += [f"  {run.config.model_dir}  {_settings(run.config)}" for run in runs]
    return "\n".join([*lines, *estimate.lines(config, runs)])


def _settings(config: TrainConfig) -> str:
    return (
        f"{config.mixture_or_task_name}: {config.train_steps} updates of {config.batch_size} "
        f"questions, alpha {config.alpha:g}, {config.optimizer.preset} at "
        f"{config.optimizer.learning_rate:g}"
    )


def _texts(config: StudyConfig, runs: Sequence[Run]) -> StudyTexts:
    first = {_arm(run): run.config for run in reversed(runs)}
    selections = (registry.resolve(run.config.mixture_or_task_name) for run in runs)
    names = sorted({selection.dataset.name for selection in selections})
    arms = "; ".join(f"{rows.arm_name(arm)}: {_settings(c)}" for arm, c in first.items())
    return StudyTexts(
        title=f"{', '.join(names)}: {', '.join(map(rows.arm_name, config.arms))}",
        intro=(
            f"{len(runs)} runs: data fractions {', '.join(f'{f:g}' for f in config.fractions)}, "
            f"seeds {', '.join(map(str, config.seeds))}. Settings, {arms}."
        ),
        caveats=_caveats(runs),
        command=shlex.join(["sbs", *sys.argv[1:]]) if sys.argv[1:2] == ["study"] else "",
    )


def _caveats(runs: Sequence[Run]) -> tuple[str, ...]:
    pretrained = any(run.config.initial_checkpoint_path for run in runs)
    return _CAVEATS if pretrained else (_RANDOM_WEIGHTS, *_CAVEATS)


def _arm(run: Run) -> str:
    """As `reporting.rows` calls it."""
    alpha = None if run.alpha is None else f"alpha {run.alpha:g}"
    return "@".join(part for part in (run.arm, run.size, alpha) if part)
