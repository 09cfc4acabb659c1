"""A user's SeqIO tasks and mixtures: rationale twins, rates and own metrics, in both engines."""

import collections
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import seqio
import tensorflow as tf
from helpers import runs

from sbs_jax.datasets import registry
from sbs_jax.datasets.methods import TASK_ID_FEATURE
from sbs_jax.errors import UserError
from sbs_jax.integrations import plain_tasks, seqio_tasks
from sbs_jax.training import trainer

SIZES = {"train": 12, "validation": 4, "test": 4}
VOCABULARY = seqio.ByteVocabulary()
FEATURES = {name: seqio.Feature(VOCABULARY, add_eos=True) for name in ("inputs", "targets")}
PREPROCESSORS = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]


def numbers_close(targets: list[int], predictions: list[int]) -> dict[str, float]:
    """A metric of the task's own values, which its postprocessor makes of texts."""
    assert all(isinstance(value, int) for value in (*targets, *predictions))
    return {"close": sum(abs(t - p) < 5 for t, p in zip(targets, predictions, strict=True))}


def _to_number(text: str, example: object = None, is_target: bool = False) -> int:
    return int(text) if text.isdigit() else -100


def _plums(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
    numbers = range({"train": 0, "validation": 100, "test": 200}[split], 300)[: SIZES[split]]
    columns = {
        "inputs": [f"How many plums are {n}?" for n in numbers],
        "targets": [str(n) for n in numbers],
        "why": [f"{n} is {n}." for n in numbers],
    }
    return tf.data.Dataset.from_tensor_slices(columns)


def _split_line(line: tf.Tensor) -> dict[str, tf.Tensor]:
    parts = tf.strings.split(line, "\t")
    return {"inputs": parts[0], "targets": parts[1], "why": parts[2]}


@pytest.fixture(scope="module", autouse=True)
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """plums (a function), pears (lines of files), and fruit, a mixture 3:1 of them."""
    folder = tmp_path_factory.mktemp("pears")
    for split in SIZES:
        lines = [f"How many pears in {split} {n}?\t{n}\tCount: {n}." for n in range(4)]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    files = {split: str(folder / f"{split}.tsv") for split in SIZES}
    split_lines = functools.partial(
        lambda dataset, fn: dataset.map(fn),
        fn=tf.autograph.experimental.do_not_convert(_split_line),
    )
    more = {"output_features": FEATURES, "metric_fns": [numbers_close]}
    seqio.TaskRegistry.add(
        "plums",
        source=seqio.FunctionDataSource(_plums, splits=tuple(SIZES)),
        preprocessors=PREPROCESSORS,
        postprocess_fn=_to_number,
        **more,
    )
    seqio.TaskRegistry.add(
        "pears",
        source=seqio.TextLineDataSource(files),
        preprocessors=[split_lines, *PREPROCESSORS],
        postprocess_fn=_to_number,
        **more,
    )
    seqio.MixtureRegistry.add("fruit", [("plums", 3), ("pears", 1)])
    before = seqio_tasks._settings
    plain_tasks.add("plums", rationale="why", vocabulary="bytes")
    plain_tasks.add("pears", rationale=lambda example: example["why"].decode(), vocabulary="bytes")
    plain_tasks.add("fruit", rationale="why", vocabulary="bytes")
    yield
    seqio_tasks._settings = before


def test_a_task_has_its_texts_and_rationales() -> None:
    records = list(registry.get("plums").read("train"))
    assert len(records) == SIZES["train"]
    assert (records[7].id, records[7].input) == ("7", "How many plums are 7?")
    assert (records[7].label, records[7].rationale) == ("7", "7 is 7.")
    assert next(registry.get("pears").read("test")).rationale == "Count: 0."


def test_rates_say_how_often_an_example_is_in_an_epoch() -> None:
    """Rates 3:1 and 12 against 4 examples: each once. With rates 1:1, pears are repeated."""
    counts = collections.Counter(
        r.id.partition("/")[0] for r in registry.get("fruit").read("train")
    )
    assert counts == {"plums": 12, "pears": 4}
    seqio.MixtureRegistry.add("salad", [("plums", 1), ("pears", 1)])
    plain_tasks.add("salad", rationale="why")
    records = list(registry.get("salad").read("train"))
    counts = collections.Counter(record.id.partition("/")[0] for record in records)
    assert counts == {"plums": 12, "pears": 12}
    assert len({record.id for record in records}) == 24
    assert len({record.input for record in records}) == 16
    assert registry.get("salad").count("test") == 8


@pytest.mark.parametrize(
    ("sizes", "rates", "copies"),
    [
        ([12, 4], [3.0, 1.0], [1.0, 1.0]),
        ([12, 4], [1.0, 1.0], [1.0, 3.0]),
        ([10, 10], [1.0, 2.5], [1.0, 2.5]),
    ],
)
def test_the_rarest_for_its_rate_is_seen_once(
    sizes: list[int], rates: list[float], copies: list[float]
) -> None:
    assert plain_tasks._copies("m", sizes, rates) == copies
    for size, times in zip(sizes, copies, strict=True):
        assert sum(plain_tasks._times(size, times)) == round(size * times)


@pytest.mark.parametrize("rates", [[0.0, 1.0], [1.0, 1000.0]])
def test_rates_that_make_no_epoch_are_refused(rates: list[float]) -> None:
    with pytest.raises(UserError, match="mixture m: "):
        plain_tasks._copies("m", [4, 4], rates)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plums", "fruit"])
def test_our_engine_trains_and_keeps_the_tasks_metric(name: str, tmp_path: Path) -> None:
    config = runs.config_of(
        tmp_path / "run",
        mixture_or_task_name=f"{name}_step_by_step",
        vocabulary="bytes",
        model=runs.MODEL.__class__(**{**vars(runs.MODEL), "vocab_size": 384}),
        train_steps=2,
        eval_period=2,
        row_lengths=(64, 64),
        max_decode_length=8,
    )
    trainer.train(config)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [entry["n"] for entry in results["results"]] == [{"plums": 4, "fruit": 8}[name]] * 2
    assert "close" in json.dumps(results["results"])


@pytest.mark.parametrize(("name", "count"), [("plums", 12), ("pears", 4), ("fruit", 16)])
def test_seqio_has_the_twins_with_task_ids(name: str, count: int) -> None:
    seqio_tasks.configure(vocabulary="bytes", task_ids=True)
    mixture = seqio.get_mixture_or_task(f"{name}_step_by_step")
    assert [task.name for task in mixture.tasks] == [f"{name}_label", f"{name}_rationale"]
    for task, prefix, number in zip(mixture.tasks, ("label", "rationale"), (1, 2), strict=True):
        lengths = {"inputs": 64, "targets": 32, TASK_ID_FEATURE: 32}
        rows = list(task.get_dataset(lengths, "train", shuffle=False).as_numpy_iterator())
        assert len(rows) == count
        assert rows[0]["inputs_pretokenized"].decode().startswith(f"[{prefix}] How many")
        assert set(rows[0][TASK_ID_FEATURE].tolist()) == {number}
    label = mixture.tasks[0]
    values = {k: v for f in label.metric_fns for k, v in f(["7", "9"], ["7", "x"]).items()}
    assert (values["close"], values["accuracy"]) == (1, 0.5)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"name": "prunes"}, "SeqIO has no such task or mixture"),
        ({"name": "damsons", "rationale": "reason"}, "example 0: has no feature 'reason'; it has"),
        ({"name": "damsons", "splits": {"train": "dev"}}, "has no split 'dev', only train"),
        (
            {"name": "untold"},
            "has no inputs_pretokenized; let seqio.preprocessors.tokenize keep it",
        ),
    ],
)
def test_mistakes_name_the_task(arguments: dict, problem: str) -> None:
    source = seqio.FunctionDataSource(_plums, splits=("train",))
    silent = functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False)
    for name, first in {"damsons": seqio.preprocessors.tokenize, "untold": silent}.items():
        seqio.TaskRegistry.remove(name)
        seqio.TaskRegistry.add(
            name, source=source, preprocessors=[first], output_features=FEATURES, metric_fns=[]
        )
    with pytest.raises(UserError, match=problem):
        dataset = plain_tasks.add(**arguments)
        try:
            list(dataset.read("train"))
        finally:
            registry.remove(dataset.name)


def test_a_name_that_seqio_alone_knows_says_what_to_do() -> None:
    seqio.TaskRegistry.add(
        "quinces",
        source=seqio.FunctionDataSource(_plums, splits=("train",)),
        output_features=FEATURES,
    )
    with pytest.raises(UserError, match=r"plain_tasks\.add takes in SeqIO's"):
        registry.resolve("quinces")
    with pytest.raises(UserError, match="a dataset, not a task or mixture; train on one of plums_"):
        registry.resolve("plums")
