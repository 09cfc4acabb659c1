"""SeqIO tasks: the same tokens as our own engine's, metrics, packing, and registration."""

import dataclasses
import itertools
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import seqio
import tensorflow as tf

import sbs_jax.tasks  # noqa: F401
from sbs_jax.configs import T5Config, TrainConfig
from sbs_jax.datasets import registry, release
from sbs_jax.datasets.methods import METHODS, TASK_ID_FEATURE, VIEWS, Prefixes
from sbs_jax.datasets.records import Record, write_jsonl
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import token_cache, vocabularies
from sbs_jax.integrations import seqio_tasks, t5x_data
from sbs_jax.utils import paths

SPIECE = str(pathlib.Path(seqio.__file__).parent / "test_data/sentencepiece/sentencepiece.model")
LENGTHS = {"inputs": 24, "targets": 12}
TINY = [
    Record("0", "premise one.</s>hypothesis one", "neutral", "It follows from nothing.", "neutral"),
    Record("1", "a trailing space </s> and a leading one", "entailment", " ", " "),
    Record("2", "line\nend\tand  many   blanks", "(1 + 2)", "One and two. So", "(1 + 3)"),
    Record("3", "no teacher said a word", "contradiction"),
    Record("4", "日本語 and ½ and é and </s></s> twice", "Tromsø", "日本 " * 20, "x y"),
    Record("5", "very long " * 30, "so long " * 20, "and long " * 20, "long " * 20),
    *(Record(str(i), f"What is {i}?", str(i), f"{i} is {i}.", str(i % 7)) for i in range(6, 40)),
]


@pytest.fixture
def settings() -> Iterator[None]:
    """Puts the registered tasks back to the default settings at the end."""
    before = seqio_tasks._settings
    yield
    seqio_tasks._settings = before


@pytest.fixture
def data_dir(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv(paths.DATA_DIR_VARIABLE, str(tmp_path))
    for name in ("esnli", "anli1", "cqa", "svamp", "asdiv"):
        for split in ("train", "validation", "test"):
            write_jsonl(tmp_path / name / f"{split}.jsonl", TINY)
    (tmp_path / "asdiv" / "annotations.jsonl").write_text(
        json.dumps({"id": "8", "split": "train", "rationale": "because", "label": "8"}) + "\n"
    )
    return tmp_path


def _rows(
    dataset: registry.Dataset, split: str, view: str, table: token_cache.TokenTable
) -> list[int]:
    """The rows a SeqIO task gives: of the training split only those with a target."""
    _, rows = dataset.rows(split)
    return [r for r in rows.tolist() if split != "train" or table.target_lengths[r]]


def _assert_equal_tokens(
    name: str, view: str, split: str, spec: str, cache: pathlib.Path, lengths: Mapping[str, int]
) -> int:
    dataset = registry.get(name)
    scored_as = {"llm_label": "label", "distill": "finetune"}
    same = view if split == "train" else scored_as.get(view, view)
    file_split, _ = dataset.rows(split)
    table = token_cache.prepare(
        dataset, file_split, VIEWS[same], vocabularies.load(spec), lengths, Prefixes(), cache
    )
    task = seqio.get_mixture_or_task(f"{name}_{view}")
    examples = list(task.get_dataset(lengths, split, shuffle=False).as_numpy_iterator())
    rows = _rows(dataset, split, same, table)
    assert [example["id"].decode() for example in examples] == [table.ids[row] for row in rows]
    for example, row in zip(examples, rows, strict=True):
        np.testing.assert_array_equal(example["inputs"], table.inputs(row))
        # Of a record without a target (kept where it is scored) SeqIO still makes an EOS.
        targets = table.targets(row) if table.target_lengths[row] else [1]
        np.testing.assert_array_equal(example["targets"], targets)
    return len(examples)


# What a view is made of is the same code for every dataset: all of them for one.
@pytest.mark.parametrize(
    ("name", "view"),
    [
        *(("cqa", view) for view in VIEWS),
        *itertools.product(
            ["esnli", "anli1", "svamp", "asdiv", "svamp_asdiv", "demo"], ["label", "rationale"]
        ),
    ],
)
def test_tokens_equal_our_own_engines(
    name: str, view: str, data_dir: pathlib.Path, settings: None
) -> None:
    spec = "demo" if name == "demo" else SPIECE
    dataset = registry.get(name)
    if name == "svamp_asdiv":  # its counts are kept for the process, its files are this test's
        source = registry._annotated(registry.get("asdiv"))
        dataset = dataclasses.replace(dataset, augmentation=source)
        registry._registry[name] = dataset
    seqio_tasks.configure(vocabulary=spec)
    seqio_tasks.register(dataset)
    # Building a SeqIO dataset takes a third of a second: not every split of every task.
    for split in registry.SPLITS if name == "cqa" else ["train"]:
        assert _assert_equal_tokens(name, view, split, spec, data_dir / "cache", LENGTHS)


@pytest.mark.parametrize("view", ["label", "rationale"])
def test_bytes_equal_too(view: str, data_dir: pathlib.Path, settings: None) -> None:
    seqio_tasks.configure(vocabulary="bytes")
    seqio_tasks.register(registry.get("anli1"))
    assert _assert_equal_tokens("anli1", view, "test", "bytes", data_dir / "cache", LENGTHS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cqa", "svamp"])
def test_tokens_equal_on_the_released_data(
    name: str,
    release_dir: pathlib.Path,
    shared: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: None,
) -> None:
    monkeypatch.setenv(paths.DATA_DIR_VARIABLE, str(tmp_path))
    archive = release.Release(release_dir)
    for split in ("train", "test"):
        sample = list(archive.records(name, split))[::7]
        write_jsonl(tmp_path / name / f"{split}.jsonl", sample)
    spec = str(shared / "vectors" / "spiece.model")
    seqio_tasks.configure(vocabulary=spec)
    seqio_tasks.register(registry.get(name))
    lengths = {"inputs": 64, "targets": 48}
    for view in ("label", "rationale", "single_task", "pinto"):
        for split in ("train", "test") if view == "label" else ("train",):
            assert _assert_equal_tokens(name, view, split, spec, tmp_path / "cache", lengths)


class _WithTaskIds(seqio.EncDecFeatureConverter):
    """What a T5X bridge adds: the task id as one more packed feature."""

    TASK_FEATURES = {  # noqa: RUF012
        **seqio.EncDecFeatureConverter.TASK_FEATURES,
        TASK_ID_FEATURE: seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
    }
    MODEL_FEATURES = {  # noqa: RUF012
        **seqio.EncDecFeatureConverter.MODEL_FEATURES,
        "decoder_task_ids": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
    }

    def _convert_example(self, features: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        task_ids = {"decoder_task_ids": features[TASK_ID_FEATURE]}
        return {**super()._convert_example(features), **task_ids}

    def get_model_feature_lengths(self, lengths: Mapping[str, int]) -> Mapping[str, int]:
        return {
            **super().get_model_feature_lengths(lengths),
            "decoder_task_ids": lengths["targets"],
        }


@pytest.mark.parametrize("pack", [True, False])
def test_task_ids_travel_with_packed_targets(
    pack: bool, data_dir: pathlib.Path, settings: None
) -> None:
    seqio_tasks.configure(vocabulary=SPIECE, task_ids=True)
    seqio_tasks.register(registry.get("cqa"))
    lengths = {"inputs": 96, "targets": 64, TASK_ID_FEATURE: 64}
    batches = seqio.get_dataset(
        "cqa_step_by_step", lengths, _WithTaskIds(pack=pack), shuffle=True, seed=0
    )
    seen = set()
    for row in batches.as_numpy_iterator():
        ids, weights = row["decoder_task_ids"], row["decoder_loss_weights"]
        np.testing.assert_array_equal(ids > 0, weights > 0)
        seen |= set(ids[ids > 0].tolist())
        if pack:
            segments = row["decoder_segment_ids"]
            for segment in set(segments[segments > 0].tolist()):
                assert len(set(ids[segments == segment].tolist())) == 1
    assert seen == {1, 2}


@pytest.mark.parametrize("pack", [True, False])
def test_task_ids_need_no_length(pack: bool, data_dir: pathlib.Path, settings: None) -> None:
    seqio_tasks.configure(vocabulary=SPIECE, task_ids=True)
    seqio_tasks.register(registry.get("cqa"))
    converter = seqio.EncDecFeatureConverter(pack=pack)
    row = next(iter(seqio.get_dataset("cqa_step_by_step", LENGTHS, converter)))
    assert not any("task" in name for name in row)


def test_a_mixture_has_both_tasks_equally_often(data_dir: pathlib.Path, settings: None) -> None:
    seqio_tasks.configure(vocabulary="bytes")
    seqio_tasks.register(registry.get("cqa"))
    mixture = seqio.get_mixture_or_task("cqa_step_by_step")
    assert sorted(task.name for task in mixture.tasks) == ["cqa_label", "cqa_rationale"]
    assert {mixture.get_rate(task) for task in mixture.tasks} == {1.0}


def test_shuffling_is_over_the_whole_split_and_seeded(
    data_dir: pathlib.Path, settings: None
) -> None:
    seqio_tasks.configure(vocabulary="bytes")
    seqio_tasks.register(registry.get("cqa"))
    source = seqio.get_mixture_or_task("cqa_label").source

    def order(shuffle: bool, seed: int | None = None) -> list[bytes]:
        examples = source.get_dataset("train", shuffle=shuffle, seed=seed)
        return [example["id"] for example in examples.as_numpy_iterator()]

    plain, first, again, second = order(False), order(True, 1), order(True, 1), order(True, 2)
    assert sorted(plain) == sorted(first) == sorted(second)
    assert first == again
    assert len({tuple(plain), tuple(first), tuple(second)}) == 3


def test_a_dataset_iterator_can_be_saved_and_restored(
    data_dir: pathlib.Path, settings: None, tmp_path: pathlib.Path
) -> None:
    """T5X's save_dataset=True; a Python generator could not be saved."""
    seqio_tasks.configure(vocabulary="bytes")
    seqio_tasks.register(registry.get("cqa"))
    task = seqio.get_mixture_or_task("cqa_label")

    def checkpoint() -> tuple[Iterator, tf.train.Checkpoint]:
        iterator = iter(task.get_dataset(LENGTHS, "train", shuffle=True, seed=0))
        return iterator, tf.train.Checkpoint(iterator=iterator)

    iterator, saver = checkpoint()
    for _ in range(5):
        next(iterator)
    path = saver.save(str(tmp_path / "iterator"))
    expected = [next(iterator)["id"].numpy() for _ in range(5)]
    iterator, restorer = checkpoint()
    restorer.restore(path)
    assert [next(iterator)["id"].numpy() for _ in range(5)] == expected


def test_settings_reach_registered_tasks(data_dir: pathlib.Path, settings: None) -> None:
    seqio_tasks.register(registry.get("cqa"))
    before = seqio.get_mixture_or_task("cqa_label")
    assert before.output_features["inputs"].vocabulary == seqio.SentencePieceVocabulary(
        "gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model"
    )
    seqio_tasks.configure(vocabulary="bytes", label_prefix="predict: ", data_fraction=0.5, run=1)
    task = seqio.get_mixture_or_task("cqa_label")
    examples = list(task.get_dataset(None, "train", shuffle=False).as_numpy_iterator())
    _, rows = registry.get("cqa").rows("train", fraction=0.5, run=1)
    assert len(examples) == len(rows) == 18
    assert all(e["inputs_pretokenized"].startswith(b"predict: ") for e in examples)
    assert task.output_features["inputs"].vocabulary == seqio.ByteVocabulary()


@pytest.mark.parametrize("method", METHODS)
def test_seqios_evaluator_scores_every_record_against_gold(
    method: str, data_dir: pathlib.Path, settings: None
) -> None:
    """A student that answers as the records' first 30 do, and nothing for the rest."""
    seqio_tasks.configure(vocabulary="bytes")
    seqio_tasks.register(registry.get("cqa"))
    lengths = {"inputs": 512, "targets": 256}
    task_name = f"cqa_{METHODS[method].views[0]}"
    evaluator = seqio.Evaluator(
        task_name,
        seqio.EncDecFeatureConverter(pack=False),
        eval_split="test",
        sequence_length=lengths,
        logger_cls=(),
    )
    vocabulary = vocabularies.load("bytes")
    phrase = "Why? So the answer is " if method == "single_task" else ""

    def predict(examples: tf.data.Dataset, *unused: object, **more: object) -> list:
        answers = [phrase + TINY[i].label if i < 30 else "" for i in range(len(list(examples)))]
        ids = [[*vocabulary.encode(answer), 1] for answer in answers]
        return [(i, row + [0] * (256 - len(row))) for i, row in enumerate(ids)]

    metrics, _ = evaluator.evaluate(
        compute_metrics=True, predict_fn=predict, score_fn=None, predict_with_aux_fn=None
    )
    # The teacher is right on records 0 and 6; record 3 has no label of it.
    teacher = {"teacher_accuracy": 2 / 39, "teacher_correct": 2, "teacher_n": 39}
    expected = {"accuracy": 0.75, "correct": 30, "n": 40, **teacher}
    assert metrics.result()[task_name] == expected


def test_rationale_tasks_have_no_accuracy(data_dir: pathlib.Path, settings: None) -> None:
    seqio_tasks.configure(vocabulary="bytes")
    seqio_tasks.register(registry.get("cqa"))
    assert seqio.get_mixture_or_task("cqa_rationale").metric_fns == []


def test_records_from_a_seqio_source(settings: None, tmp_path: pathlib.Path) -> None:
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(
            {"question": [f"{split} {i}" for i in range(3)], "answer": ["a", "b", "c"]}
        ),
        splits=("train", "test"),
    )
    dataset = registry.add_dataset(
        "from_source",
        source=source,
        format=lambda ex: Record(
            ex["question"].decode(), ex["question"].decode(), ex["answer"].decode(), "since", "a"
        ),
        carve_validation=0.3,
        vocabulary="bytes",
    )
    seqio_tasks.register(dataset)
    assert [record.label for record in dataset.read("test")] == ["a", "b", "c"]
    assert (
        _assert_equal_tokens("from_source", "rationale", "train", "bytes", tmp_path, LENGTHS) == 2
    )
    with pytest.raises(Exception, match="from_source/valid: its SeqIO source has no such split"):
        list(dataset.read("valid"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import seqio, sbs_jax.tasks",
        "import sbs_jax.tasks, seqio, sbs_jax.integrations.seqio_tasks",
        "import sbs_jax.integrations.seqio_tasks, sbs_jax.tasks, seqio",
    ],
)
def test_one_import_registers_all_tasks_in_seqio(imports: str) -> None:
    code = (
        f"{imports}\n"
        "print(seqio.get_mixture_or_task('cqa_step_by_step').name)\n"
        "from sbs_jax import datasets\n"
        "datasets.add_dataset('later', records=lambda split: [], vocabulary='bytes')\n"
        "print(seqio.get_mixture_or_task('later_step_by_step_llm').name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "cqa_step_by_step\nlater_step_by_step_llm\n"


def exact(targets: list[str], predictions: list[str]) -> dict[str, float]:
    """A user's SeqIO metric."""
    return {"exact": sum(map(str.__eq__, targets, predictions)) / len(targets)}


def longest(targets: list[str], predictions: list[str]) -> dict[str, object]:
    """A user's SeqIO metric whose values are SeqIO's own types."""
    return {
        "longest": seqio.metrics.Scalar(max(map(len, predictions))),
        "first": seqio.metrics.Text(predictions[0]),
    }


def _again(name: str, *functions: object, **changes: object) -> None:
    """Registers a task again, as a user does who wants one more metric."""
    task = seqio.TaskRegistry.get(name)
    seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(
        name,
        source=changes.get("source", task.source),
        preprocessors=task.preprocessors,
        output_features=task.output_features,
        postprocess_fn=task._postprocess_fn,
        metric_fns=[*task.metric_fns, *functions],
    )


def _names(task: str) -> list[str]:
    return [function.__name__ for function in seqio.TaskRegistry.get(task).metric_fns]


def test_metrics_of_a_user_outlive_configure_and_reach_our_engine(settings: None) -> None:
    seqio_tasks.register(registry.get("cqa"))
    _again("cqa_label", exact, longest)
    for spec in ("bytes", "demo", "bytes"):
        seqio_tasks.configure(vocabulary=spec)
        assert _names("cqa_label") == ["accuracy", "exact", "longest"]
        assert _names("cqa_finetune") == ["accuracy"]
    assert registry.metric_fns(registry.resolve("cqa_step_by_step")) == (exact, longest)
    assert registry.metric_fns(registry.resolve("cqa_finetune")) == ()


def test_metrics_of_a_dataset_are_in_both_engines(
    settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_registry", {})
    dataset = registry.add_dataset(
        "measured", records=lambda split: TINY, metric_fns=[exact, longest], vocabulary="bytes"
    )
    for _ in range(2):
        seqio_tasks.register(dataset)
        assert _names("measured_single_task") == ["accuracy", "exact", "longest"]
        assert _names("measured_rationale") == []
    assert registry.metric_fns(registry.resolve("measured_pinto")) == (exact, longest)


def test_a_users_task_with_another_source_is_left_alone(settings: None) -> None:
    seqio_tasks.register(registry.get("cqa"))
    source = seqio.FunctionDataSource(lambda split, shuffle_files: None, splits=("train",))
    _again("cqa_pinto", exact, source=source)
    seqio_tasks.configure(vocabulary="bytes")
    assert seqio.TaskRegistry.get("cqa_pinto").source is source
    seqio.TaskRegistry.remove("cqa_pinto")
    seqio_tasks.register(registry.get("cqa"))
    assert _names("cqa_pinto") == ["accuracy"]


def test_gold_is_what_the_vocabulary_can_write(data_dir: pathlib.Path, settings: None) -> None:
    """As in our engine: T5's vocabularies fold spaces, so a label with two is never written."""
    rows = [Record("0", "q", " not  odd "), Record("1", "q", "even")]
    write_jsonl(data_dir / "cqa" / "test.jsonl", rows)
    seqio_tasks.configure(vocabulary=SPIECE)
    seqio_tasks.register(registry.get("cqa"))
    task = seqio.get_mixture_or_task("cqa_label")
    golds = [
        task.postprocess_fn("", example=example, is_target=True)
        for example in task.source.get_dataset("test", shuffle=False).as_numpy_iterator()
    ]
    assert golds == ["not odd", "even"]


def test_t5x_is_refused_a_shared_encoder() -> None:
    config = TrainConfig(
        model_dir="unused",
        mixture_or_task_name="demo_step_by_step",
        task_feature_lengths=LENGTHS,
        train_steps=1,
        model=T5Config(256, 16, 2, 1, 1, 8, 32),
        vocabulary="demo",
        shared_encoder=True,
    )
    with pytest.raises(
        UserError, match="SHARED_ENCODER = True: T5X's network starts every decoder"
    ):
        t5x_data.mixture(config)
