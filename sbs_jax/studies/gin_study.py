"""A study that a gin file describes: experiments as arms, over data fractions and seeds."""

import dataclasses
import functools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from sbs_jax.configs import StudyConfig, TrainConfig, gin_loader
from sbs_jax.datasets import registry
from sbs_jax.reporting import page, rows
from sbs_jax.reporting.study_files import StudyTexts
from sbs_jax.studies import choices, controls, estimate, gin_cells, runner, search
from sbs_jax.studies.cells import Run, group_name
from sbs_jax.studies.gin_cells import More
from sbs_jax.studies.runner import Study
from sbs_jax.utils import buckets, paths

_CAVEATS = (
    "Checkpoints were chosen on validation; the test questions were scored once, at the end.",
)

_RANDOM_WEIGHTS = (
    "The students start from random weights: no pretrained model was used, so these accuracies say "
    "nothing about the paper's, whose students are pretrained."
)


@dataclasses.dataclass(frozen=True)
class Grid:
    """A study as its files describe it.

    Attributes:
        runs: of the report; with the first of all values where a choice is still open.
        tries: runs that hyper-parameters are chosen by; none where nothing is to be chosen.
        modules: that register the datasets.
        more: bindings that a control gives the arms.
    """

    config: StudyConfig
    runs: Sequence[Run]
    tries: Sequence[choices.Try]
    modules: Sequence[str]
    search_paths: Sequence[str | Path]
    more: More

    @property
    def folder(self) -> Path:
        return buckets.absolute(buckets.place(self.config.study_dir))


def load(files: Sequence[str], bindings: Sequence[str], search_paths: Sequence[str | Path]) -> Grid:
    """Reads a study's gin files, and those of every run.

    Raises:
        UserError: for any mistake in any of the files, or a bucket that cannot be read, before
            anything is trained.
    """
    parsed = gin_loader.load(files, bindings, search_paths)
    config = gin_loader.build("configs.StudyConfig", parsed)
    buckets.reach(config.study_dir, "STUDY_DIR")
    imports = list(parsed.imports)
    at = list(gin_cells.places(config))
    more: More = {}
    if config.equal == "compute":
        first = [place for place in at if (place.fraction, place.seed) == _first(config)]
        more = controls.equal_compute(gin_cells.build(config, first, search_paths, {})[0])
    tries = choices.tries(config, search_paths, more)
    chosen = choices.chosen(tries) or choices.first(tries)
    runs, modules = gin_cells.build(config, at, search_paths, gin_cells.merged(more, chosen))
    return Grid(config, runs, tries, list(dict.fromkeys([*imports, *modules])), search_paths, more)


def _first(config: StudyConfig) -> tuple[float, int]:
    return config.fractions[0], config.seeds[0]


def run(grid: Grid) -> str:
    """Trains what is missing, then writes the report. Returns its tables as text."""
    config, folder = grid.config, grid.folder
    if grid.tries:
        runner.refuse(runner.run(_study(grid, choices.folder(folder), [t.run for t in grid.tries])))
        chosen = choices.chosen(grid.tries)
        at = list(gin_cells.places(config))
        runs, _ = gin_cells.build(
            config, at, grid.search_paths, gin_cells.merged(grid.more, chosen)
        )
        grid = dataclasses.replace(grid, runs=runs)
    study = _study(grid, folder, grid.runs)
    if config.search:
        failures, path = search.least_data(study, config.search_runs)
        texts = dataclasses.replace(study.texts, search=path)
        runner.tell(dataclasses.replace(study, texts=texts), ())
    else:
        failures = runner.run(study)
    text = page.write([folder], folder)
    if failures:
        print(text)
    runner.refuse(failures)
    return text


def _study(grid: Grid, folder: Path, runs: Sequence[Run]) -> Study:
    several = grid.config.workers > 1
    return Study(
        folder=folder,
        runs=runs,
        texts=_texts(grid, runs),
        prepare=functools.partial(prepare, paths.data_address(), tuple(grid.modules)),
        workers=grid.config.workers,
        environment=runner.environment(grid.folder, one_cpu_thread=several),
        shared=grid.config.shared,
    )


def prepare(data_dir: str, modules: Sequence[str]) -> None:
    """In a worker: the data folder, and the modules that register datasets."""
    paths.set_data_dir(data_dir)
    gin_loader.import_modules(modules)


def describe(grid: Grid, device: estimate.Device) -> str:
    """The runs as lines for people, and what all of them together need."""
    config = grid.config
    kind = ", at most: a search trains what it needs" if config.search else ""
    lines = [f"{len(grid.runs)} runs in {config.study_dir}, {config.workers} at a time{kind}"]
    lines += [f"  {run.config.model_dir}  {_settings(run.config)}" for run in grid.runs]
    if tries := [each.run for each in grid.tries]:
        lines.append(f"{len(tries)} runs before these, to choose on validation")
        lines += [f"  {run.config.model_dir}  {_settings(run.config)}" for run in tries]
    return "\n".join([*lines, *estimate.lines(grid.folder, [*tries, *grid.runs], device)])


def _settings(config: TrainConfig) -> str:
    return (
        f"{config.mixture_or_task_name}: {config.train_steps} updates of {config.batch_size} "
        f"questions, alpha {config.alpha:g}, {config.optimizer.preset} at "
        f"{config.optimizer.learning_rate:g}"
    )


def _texts(grid: Grid, runs: Sequence[Run]) -> StudyTexts:
    config = grid.config
    first = {group_name((*run.group[:3], None)): run.config for run in reversed(runs)}
    selections = (registry.resolve(run.config.mixture_or_task_name) for run in runs)
    names = sorted({selection.dataset.name for selection in selections})
    arms = "; ".join(f"{arm}: {_settings(c)}" for arm, c in first.items())
    return StudyTexts(
        title=f"{', '.join(names)}: {', '.join(map(rows.arm_name, config.arms))}",
        intro=(
            f"{len(runs)} runs: data fractions {', '.join(f'{f:g}' for f in config.fractions)}, "
            f"seeds {', '.join(map(str, config.seeds))}. Settings, {arms}."
        ),
        caveats=_caveats(grid, runs),
        teacher_parameters=config.teacher_parameters,
        command=shlex.join(["sbs", *sys.argv[1:]]) if sys.argv[1:2] == ["study"] else "",
    )


def _caveats(grid: Grid, runs: Sequence[Run]) -> tuple[str, ...]:
    pretrained = any(run.config.initial_checkpoint_path for run in runs)
    sentences = (controls.SENTENCES[grid.config.equal], choices.sentence(grid.config, grid.tries))
    return (*(() if pretrained else (_RANDOM_WEIGHTS,)), *sentences, *_CAVEATS)
