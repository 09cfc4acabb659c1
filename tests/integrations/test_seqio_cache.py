"""A SeqIO cache made with other settings is refused, naming the setting."""

import json
import pathlib
from collections.abc import Iterator

import pytest
import seqio
import tensorflow as tf

import sbs_jax.tasks  # noqa: F401
from sbs_jax.datasets.records import Record, write_jsonl
from sbs_jax.errors import UserError
from sbs_jax.integrations import seqio_cache, seqio_tasks
from sbs_jax.utils import paths

RECORDS = [Record(str(i), f"What is {i}?", str(i), f"{i} is {i}.", str(i)) for i in range(20)]
SPIECE = str(pathlib.Path(seqio.__file__).parent / "test_data/sentencepiece/sentencepiece.model")


def write_cache(folder: pathlib.Path, name: str) -> None:
    """What SeqIO's cache_tasks_main writes of a task's training split, without Beam."""
    task = seqio.TaskRegistry.get(name)
    place = folder / name
    place.mkdir(parents=True)
    examples = task.source.get_dataset("train", shuffle=False)
    features = {name: task.output_features[name] for name in ("inputs", "targets")}
    rows = list(seqio_tasks.tokenize(examples, features).as_numpy_iterator())
    described = {
        key: {"shape": [None], "dtype": "int32"}
        if key in features
        else {"shape": [], "dtype": "string"}
        for key in rows[0]
    }
    with tf.io.TFRecordWriter(str(place / "train.tfrecord-00000-of-00001")) as writer:
        for row in rows:
            values = {
                key: tf.train.Feature(int64_list=tf.train.Int64List(value=value))
                if key in features
                else tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                for key, value in row.items()
            }
            example = tf.train.Example(features=tf.train.Features(feature=values))
            writer.write(example.SerializeToString())
    info = {"num_shards": 1, "features": described, "seqio_version": seqio.__version__}
    (place / "info.train.json").write_text(json.dumps(info))
    (place / "stats.train.json").write_text(json.dumps({"examples": len(rows)}))
    (place / "COMPLETED").touch()


@pytest.fixture
def cached(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """A folder of caches that SeqIO knows, of esnli's tasks under the default settings."""
    monkeypatch.setenv(paths.DATA_DIR_VARIABLE, str(tmp_path))
    for split in ("train", "validation", "test"):
        write_jsonl(tmp_path / "esnli" / f"{split}.jsonl", RECORDS)
    before = seqio_tasks._settings
    seqio_tasks.configure(vocabulary="bytes", task_ids=True)
    for name in ("esnli_label", "esnli_rationale"):
        write_cache(tmp_path / "cache", name)
    dirs = seqio.utils.get_global_cache_dirs()
    seqio.set_global_cache_dirs([str(tmp_path / "cache")])
    yield tmp_path
    seqio.set_global_cache_dirs(dirs)
    seqio_tasks._settings = before
    seqio_tasks.configure()


@pytest.mark.parametrize("view", ["label", "rationale"])
def test_a_cache_of_the_same_settings_is_accepted(cached, view):
    seqio_cache.check(f"esnli_{view}", f"{view.upper()}_PREFIX")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label_prefix": "predict: "}, "was made with another LABEL_PREFIX"),
        ({"data_fraction": 0.5}, "holds 20 training examples, DATA_FRACTION and the data give 10"),
        ({"vocabulary": SPIECE}, "was made with another VOCABULARY"),
    ],
)
def test_a_cache_of_other_settings_is_refused(cached, changes, words):
    seqio_tasks.configure(**changes)
    with pytest.raises(UserError, match=words):
        seqio_cache.check("esnli_label", "LABEL_PREFIX")


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (RECORDS[1:], "the data give 19"),
        ([Record(f"x{i}", "a", "b", "c", "d") for i in range(20)], "holds other questions"),
        ([Record(r.id, r.input, "99", r.rationale, "99") for r in RECORDS], "other data: '0', now"),
    ],
)
def test_a_cache_of_other_data_is_refused(cached, records, words):
    write_jsonl(cached / "esnli" / "train.jsonl", records)
    with pytest.raises(UserError, match=words):
        seqio_cache.check("esnli_label", "LABEL_PREFIX")


def test_only_the_rationales_prefix_matters_to_rationales(cached):
    seqio_tasks.configure(label_prefix="predict: ")
    seqio_cache.check("esnli_rationale", "RATIONALE_PREFIX")
    seqio_tasks.configure(rationale_prefix="explain: ")
    with pytest.raises(UserError, match="another RATIONALE_PREFIX"):
        seqio_cache.check("esnli_rationale", "RATIONALE_PREFIX")
