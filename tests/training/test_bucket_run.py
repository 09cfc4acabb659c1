"""A run whose MODEL_DIR is in a bucket: what is there, and who reads it there."""

import json

import numpy as np
import pytest
from helpers.runs import MODEL, config_of

from sbs_jax.checkpoints import initial
from sbs_jax.datasets import registry
from sbs_jax.errors import UserError
from sbs_jax.inference import evaluate, predict
from sbs_jax.reporting import page
from sbs_jax.runs import layout, reader, run_dir
from sbs_jax.training import trainer
from sbs_jax.utils import paths
from sbs_jax.utils.buckets import place

pytestmark = pytest.mark.slow

PREFIX = "bucket-run"
MODEL_DIR = f"gs://runs/{PREFIX}/run"


def settings():
    return config_of(MODEL_DIR, train_steps=4, eval_period=2, log_period=1)


@pytest.fixture(scope="module")
def run(cloud_storage, tmp_path_factory):
    """What the training returned; it ran in an empty folder, which stays empty."""
    folder = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        summary = trainer.train(settings())
    assert list(folder.iterdir()) == []
    return summary


def names(server):
    return {name.removeprefix(f"{PREFIX}/run/") for name in server.names(f"{PREFIX}/run/")}


def test_everything_is_in_the_bucket(run, cloud_storage):
    found = names(cloud_storage)
    assert {layout.RUN, layout.METRICS, layout.RESULTS, "checkpoints/scores.json"} <= found
    assert {
        f"predictions-demo_label-{split}-{run['step']}.jsonl" for split in ("validation", "test")
    } <= found
    assert [name for name in found if name.startswith("train/events.out.tfevents")]
    assert "lock.json" not in found and not [name for name in found if name.endswith(".tmp")]
    steps = {name.split("/")[1] for name in found if name.endswith("/commit_success.txt")}
    assert "4" in steps
    assert json.loads((place(MODEL_DIR) / layout.RESULTS).read_text()) == run
    rows = [
        json.loads(line) for line in (place(MODEL_DIR) / layout.METRICS).read_text().splitlines()
    ]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]


def test_the_same_command_finds_it_complete(run, cloud_storage, capsys):
    before = {
        name: cloud_storage.objects[f"{PREFIX}/run/{name}"].generation
        for name in names(cloud_storage)
    }
    assert trainer.train(settings()) == run
    assert "already complete; keeping results.json" in capsys.readouterr().err
    kept = ("checkpoints/4/commit_success.txt", layout.RESULTS)
    for name in kept:
        assert cloud_storage.objects[f"{PREFIX}/run/{name}"].generation == before[name]


def test_another_run_is_refused_there(run):
    with pytest.raises(
        UserError, match=f"{MODEL_DIR}: holds another run: random_seed was 0, now 1"
    ):
        trainer.train(
            config_of(MODEL_DIR, train_steps=4, eval_period=2, log_period=1, random_seed=1)
        )


def test_it_is_evaluated_and_asked_there(run, tmp_path, cloud_storage):
    entry = run["results"][1]
    result = evaluate.evaluate_split(MODEL_DIR, "test", run["step"], output_rationale=False)
    assert result.accuracy.to_json() == {name: entry[name] for name in result.accuracy.to_json()}
    (tmp_path / "in.jsonl").write_text('{"input": "a question"}\n')
    assert predict.run(MODEL_DIR, str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")) == 1
    assert json.loads((tmp_path / "out.jsonl").read_text())["input"] == "a question"


def test_it_is_reported_there(run, tmp_path):
    assert reader.read_run(place(MODEL_DIR)).results == run
    page.write([MODEL_DIR], tmp_path / "report")
    assert (tmp_path / "report" / page.NUMBERS).is_file()


@pytest.mark.parametrize("address", [MODEL_DIR, f"{MODEL_DIR}/", f"{MODEL_DIR}/checkpoints/4"])
def test_a_run_starts_from_its_checkpoint(run, address):
    found = initial.find(address)
    assert found.kind == "sbs" and found.config.emb_dim == MODEL.emb_dim
    params = initial.load_params(address, MODEL)
    assert all(np.isfinite(leaf).all() for leaf in _leaves(params))


def _leaves(tree):
    return [
        leaf
        for node in tree.values()
        for leaf in (_leaves(node) if isinstance(node, dict) else [node])
    ]


def test_data_are_read_from_a_bucket(cloud_storage, monkeypatch):
    rows = [{"input": f"q{i}", "label": "yes", "rationale": "r"} for i in range(3)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    cloud_storage.put(f"{PREFIX}/data/bucket_data/train.jsonl", text.encode())
    monkeypatch.setitem(registry._registry, "bucket_data", None)
    monkeypatch.delitem(registry._registry, "bucket_data")
    registry.add_dataset("bucket_data")
    paths.set_data_dir(f"gs://runs/{PREFIX}/data")
    dataset = registry.get("bucket_data")
    assert [record.input for record in dataset.read("train")] == ["q0", "q1", "q2"]
    assert dataset.count("train") == 3
    before = dataset.fingerprint("train")
    cloud_storage.put(f"{PREFIX}/data/bucket_data/train.jsonl", text.encode() * 1 + b"\n")
    assert dataset.fingerprint("train") != before
    with pytest.raises(
        UserError, match=f"gs://runs/{PREFIX}/data/bucket_data/test.jsonl is missing"
    ):
        list(dataset.read("test"))
    paths.set_data_dir("s3://runs/data")
    with pytest.raises(UserError, match=r"--data_dir s3://runs/data: only local folders and gs://"):
        list(dataset.read("train"))


def test_what_is_killed_early_leaves_no_checkpoint(cloud_storage):
    cloud_storage.put(f"{PREFIX}/early/checkpoints/2/state/d/0", b"half")
    from sbs_jax.checkpoints.manager import newest_checkpoint

    assert newest_checkpoint(place(f"gs://runs/{PREFIX}/early/checkpoints")) is None
    assert not run_dir.exists(f"gs://runs/{PREFIX}/early")
