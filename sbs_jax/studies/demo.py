"""The embedded demonstration: annotate, train, evaluate and compare, offline, on generated data.

Every seed has a different dataset (`datasets.demo`): facts, split, teacher's mistakes;
the same seed fixes the weights and the order of training. The settings are those of
``gin/experiments/demo_finetune.gin`` and ``demo_step_by_step.gin``.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path

from sbs_jax.configs import TrainConfig, gin_loader, gin_writer
from sbs_jax.datasets import demo, records, registry, splits
from sbs_jax.datasets.records import Record
from sbs_jax.datasets.registry import SPLITS, TEST, TRAIN
from sbs_jax.errors import UserError
from sbs_jax.metrics.accuracy import Accuracy
from sbs_jax.reporting import page, rows
from sbs_jax.reporting.study_files import StudyTexts
from sbs_jax.studies import runner
from sbs_jax.studies.cells import Run, cell_dir
from sbs_jax.studies.runner import Study
from sbs_jax.utils import paths
from sbs_jax.utils.console import say

BASELINE = "the verb's usual answer, whatever the noun"
_MOST_WORKERS = 8

# Encoder and decoder tokens of a row: four questions without prefix, or two with their rationales.
# On a CPU a longer row costs more in attention than it saves.
_ROW_LENGTHS = {"finetune": (24, 8), "step_by_step": (28, 26)}
_LABEL_TOKENS = 2  # yes or no, and EOS


@dataclasses.dataclass(frozen=True)
class Arm:
    """A way of training that is compared.

    Attributes:
        method: of `views.METHODS`; the arm's settings are those of ``demo_METHOD.gin``.
        steps: updates, as a multiple of the settings' own.
    """

    name: str
    method: str
    steps: int = 1


@dataclasses.dataclass(frozen=True)
class Grid:
    """What a demonstration runs; the default is `sbs demo`.

    Attributes:
        bindings: gin bindings over the settings of every arm, e.g. ``TRAIN_STEPS = 100``.
    """

    arms: Sequence[Arm] = (
        Arm("standard", "finetune"),
        Arm("standard_2x", "finetune", steps=2),
        Arm("step_by_step", "step_by_step"),
    )
    fractions: Sequence[float] = (0.25, 0.5, 1.0)
    seeds: Sequence[int] = (0, 1, 2)
    bindings: Sequence[str] = ()


def run(out: str | os.PathLike[str], grid: Grid = Grid()) -> str:
    """Does what is missing in the folder `out` and writes its report.

    Returns:
        The tables and what may be said of them, as text.

    Raises:
        UserError: the folder holds a demonstration with other settings, or cannot be written.
    """
    out = Path(out).absolute()
    try:
        for seed in grid.seeds:
            annotate(out, seed)
    except OSError as error:
        raise UserError(
            f"--out {out}: cannot be written ({error.strerror}); choose another folder"
        ) from None
    failures = runner.run(study_of(out, _runs(out, grid), grid))
    text = page.write([out], out)
    if failures:
        print(text)
    runner.refuse(failures)
    return text


def study_of(out: Path, runs: Sequence[Run], grid: Grid) -> Study:
    """The runs on all cores of this machine, one thread each, compiled programs shared in `out`."""
    return Study(
        folder=out,
        runs=runs,
        texts=_texts(grid),
        prepare=functools.partial(register, out, tuple(grid.seeds)),
        workers=min(_cores(), _MOST_WORKERS),
        environment=runner.environment(out, one_cpu_thread=True),
    )


def annotate(out: Path, seed: int) -> None:
    """Writes the seed's questions with what the parser reads of the teacher's completions."""
    for split in SPLITS:
        path = data_dir(out, seed) / f"{split}.jsonl"
        if path.exists():
            continue
        rows = list(demo.records(split, seed))
        records.write_jsonl(path, rows)
        right = Accuracy(sum(row.llm_label == row.label for row in rows), len(rows))
        say(f"seed {seed}: {split} annotated by the embedded teacher, teacher accuracy {right}")


def data_dir(out: Path, seed: int) -> Path:
    """The folder of a seed's train, validation and test files."""
    return out / "data" / f"demo-seed{seed}"


def dataset_name(seed: int) -> str:
    """What `register` calls the dataset of a seed."""
    return f"demo_seed{seed}"


def register(out: Path, seeds: Sequence[int]) -> None:
    """Adds the datasets of the seeds, as `annotate` wrote them, to the registry."""
    for seed in seeds:
        registry.add_dataset(
            dataset_name(seed),
            records=data_dir(out, seed),
            subsample=splits.first_rows,
            vocabulary="demo",
        )


def registered(out: str, seed: int, method: str) -> str:
    """For the config.gin of a run: adds the seed's dataset and returns the mixture's name."""
    if dataset_name(seed) not in registry.names():
        register(Path(out), (seed,))
    return f"{dataset_name(seed)}_{method}"


def settings(method: str, bindings: Sequence[str] = ()) -> TrainConfig:
    """The configuration of ``demo_METHOD.gin``, packed for a CPU."""
    parsed = gin_loader.load(
        [f"experiments/demo_{method}.gin"],
        ["MODEL_DIR = ''", "OUTPUT_RATIONALE = False", *bindings],
    )
    return dataclasses.replace(
        gin_loader.build("configs.TrainConfig", parsed),
        row_lengths=_ROW_LENGTHS[method],
        eval_batch_size=200,
        max_decode_length=_LABEL_TOKENS,
    )


def cell(
    out: Path, arm: Arm, settings: TrainConfig, fraction: float, seed: int, explain: bool = False
) -> Run:
    """One run: settings at a place of the grid, scored once at its end.

    Args:
        explain: the test predictions hold the student's rationales as well.
    """
    steps = settings.train_steps * arm.steps
    config = dataclasses.replace(
        settings,
        model_dir=cell_dir(out, arm.name, fraction, seed),
        mixture_or_task_name=f"{dataset_name(seed)}_{arm.method}",
        train_steps=steps,
        eval_period=steps,
        data_fraction=fraction,
        random_seed=seed,
        output_rationale=explain,
    )
    text = gin_writer.text_of(
        config,
        imports=("from sbs_jax import demo",),
        instead={"mixture_or_task_name": "@demo.registered()"},
        bindings=(
            f"demo.registered.out = {str(out)!r}",
            f"demo.registered.seed = {seed}",
            f"demo.registered.method = {arm.method!r}",
        ),
    )
    return Run(arm.name, config, _verb_baseline(out, fraction, seed), text)


def _runs(out: Path, grid: Grid) -> list[Run]:
    """Seed after seed, so that an interrupted study has whole ones.

    An arm's programs are the same at all fractions: side by side are different arms, so that none
    is compiled twice.
    """
    base = {arm.method: settings(arm.method, grid.bindings) for arm in grid.arms}
    with_rationales = (grid.seeds[0], sorted(grid.fractions)[len(grid.fractions) // 2])
    return [
        cell(
            out,
            arm,
            base[arm.method],
            fraction,
            seed,
            explain=(seed, fraction) == with_rationales and arm.method == "step_by_step",
        )
        for seed in grid.seeds
        for fraction in grid.fractions
        for arm in reversed(grid.arms)
    ]


@functools.cache
def _records(out: Path, seed: int, split: str) -> list[Record]:
    return list(records.read_jsonl(data_dir(out, seed) / f"{split}.jsonl"))


def _verb_baseline(out: Path, fraction: float, seed: int) -> Accuracy:
    train = _records(out, seed, TRAIN)
    rows = splits.first_rows(len(train), fraction, seed)
    return demo.verb_baseline([train[row] for row in rows], _records(out, seed, TEST))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: what this process may use
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _texts(grid: Grid) -> StudyTexts:
    """The prose of ``assets/demo_texts.json``, with the numbers of this grid."""
    sizes = {split: n * len(demo.NOUNS) for split, n in demo.VERBS_PER_SPLIT.items()}
    base = {arm.method: settings(arm.method, grid.bindings) for arm in grid.arms}
    of_arms = "; ".join(
        f"{rows.arm_name(arm.name)}: {_updates(base[arm.method], arm.steps)}" for arm in grid.arms
    )
    texts = json.loads(paths.asset("demo_texts.json").read_text(encoding="utf-8"))
    intro = " ".join(texts.pop("intro")).format(
        nouns=len(demo.NOUNS),
        kinds=len(demo.KINDS),
        verbs=len(demo.VERBS),
        error_rate=demo.ERROR_RATE,
        unreadable_rate=demo.UNREADABLE_RATE,
        settings=of_arms,
        **sizes,
    )
    return StudyTexts(intro=intro, baseline=BASELINE, **texts)


def _updates(config: TrainConfig, steps: int) -> str:
    optimizer = config.optimizer
    return (
        f"{config.train_steps * steps} updates of {config.batch_size} questions, learning rate "
        f"{optimizer.learning_rate:g}, weight decay {optimizer.weight_decay:g}"
    )
