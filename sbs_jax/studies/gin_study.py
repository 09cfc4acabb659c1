"""A study that a gin file describes: experiments as arms, over data fractions and seeds."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from sbs_jax.configs import StudyConfig, TrainConfig, gin_loader
from sbs_jax.configs.study import CELL_MACROS
from sbs_jax.datasets import registry
from sbs_jax.errors import UserError
from sbs_jax.reporting import page, rows
from sbs_jax.reporting.study_files import StudyTexts
from sbs_jax.studies import runner
from sbs_jax.studies.runner import Run, Study
from sbs_jax.utils import paths

import gin  # isort: skip  # after gin_launch, which mends an import that gin 0.5.0 forgets

_CAVEATS = (
    "The comparison is at equal updates unless an arm sets TRAIN_STEPS; the CPU-seconds beside it "
    "are those of the updates alone.",
    "Checkpoints were chosen on validation; the test questions were scored once, at the end.",
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
    found = gin_loader.load(files, bindings, search_paths)
    config = gin_loader.build("configs.StudyConfig", found)
    runs, modules = [], list(found.imports)
    for seed in config.seeds:  # seed after seed, so that an interrupted study has whole ones
        for fraction in config.fractions:
            for arm in config.arms:
                run, imports = _cell(config, arm, fraction, seed, search_paths)
                runs.append(run)
                modules += [name for name in imports if name not in modules]
    _check_apart(runs)
    return config, runs, modules


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
    config: StudyConfig,
    arm: str,
    fraction: float,
    seed: int,
    search_paths: Sequence[str | Path],
) -> tuple[Run, list[str]]:
    files = config.arms[arm]
    model_dir = runner.cell_dir(Path(config.study_dir).absolute(), arm, fraction, seed)
    cell = dict(zip(CELL_MACROS, (model_dir, fraction, seed), strict=True))
    own = [f"{name} = {value!r}" for name, value in cell.items()]
    bindings = [*config.bindings, *config.arm_bindings.get(arm, ()), *own]
    try:
        found = gin_loader.load(
            [files] if isinstance(files, str) else files, bindings, search_paths
        )
        built = gin_loader.build("configs.TrainConfig", found)
        if (built.model_dir, built.data_fraction, built.random_seed) != tuple(cell.values()):
            raise UserError(
                f"its files or bindings fix what the study sets itself, {', '.join(CELL_MACROS)}; "
                "leave that to the macros"
            )
        registry.resolve(built.mixture_or_task_name)
    except UserError as error:
        raise UserError(f"arm {arm!r}: {error}") from None
    return Run(arm, built, config_gin=gin.operative_config_str()), found.imports


def run(config: StudyConfig, runs: Sequence[Run], modules: Sequence[str]) -> str:
    """Trains what is missing, then writes the report. Returns its tables as text."""
    folder = Path(config.study_dir).absolute()
    several = config.workers > 1
    made = Study(
        folder=folder,
        runs=runs,
        texts=_texts(config, runs),
        prepare=functools.partial(prepare, os.fspath(paths.data_dir()), tuple(modules)),
        workers=config.workers,
        environment=runner.environment(folder, one_cpu_thread=several),
    )
    runner.run(made)
    return page.write([folder], folder)


def prepare(data_dir: str, modules: Sequence[str]) -> None:
    """In a worker: the data folder, and the modules that register datasets."""
    paths.set_data_dir(data_dir)
    gin_loader.import_modules(modules)


def describe(config: StudyConfig, runs: Sequence[Run]) -> str:
    """The runs as lines for people."""
    lines = [f"{len(runs)} runs in {config.study_dir}, {config.workers} at a time"]
    return "\n".join([*lines, *(f"  {run.config.model_dir}  {_told(run.config)}" for run in runs)])


def _told(config: TrainConfig) -> str:
    return (
        f"{config.mixture_or_task_name}: {config.train_steps} updates of {config.batch_size} "
        f"questions, alpha {config.alpha:g}, {config.optimizer.preset} at "
        f"{config.optimizer.learning_rate:g}"
    )


def _texts(config: StudyConfig, runs: Sequence[Run]) -> StudyTexts:
    first = {run.arm: run.config for run in reversed(runs)}
    names = sorted({registry.resolve(c.mixture_or_task_name).dataset.name for c in first.values()})
    arms = "; ".join(f"{rows.arm_name(arm)}: {_told(c)}" for arm, c in first.items())
    return StudyTexts(
        title=f"{', '.join(names)}: {', '.join(map(rows.arm_name, config.arms))}",
        intro=(
            f"{len(runs)} runs: data fractions {', '.join(f'{f:g}' for f in config.fractions)}, "
            f"seeds {', '.join(map(str, config.seeds))}. Settings, {arms}."
        ),
        caveats=_CAVEATS,
    )
