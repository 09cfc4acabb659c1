"""A MODEL_DIR belongs to one run; what differs is named, and shared folders may be slow."""

import dataclasses
import json
import threading
import time
from pathlib import Path

import pytest
from helpers.runs import config_of

from sbs_jax.configs import OptimizerConfig
from sbs_jax.errors import UserError
from sbs_jax.runs import run_dir

MARKS = {"vocabulary_fingerprint": "v", "data_fingerprint": "d"}


@pytest.fixture
def config(tmp_path):
    made = config_of(tmp_path / "run")
    with run_dir.claimed(made, MARKS, "# gin\n"):
        pass
    return made


@pytest.mark.parametrize(
    ("changes", "marks", "message"),
    [
        ({"alpha": 0.25}, {}, "alpha was 0.5, now 0.25"),
        ({"batch_size": 4}, {}, "batch_size was 8, now 4"),
        (
            {"optimizer": OptimizerConfig(learning_rate=1e-3)},
            {},
            "optimizer.learning_rate was 0.01, now 0.001",
        ),
        (
            {"task_feature_lengths": {"inputs": 32, "targets": 16}},
            {},
            "task_feature_lengths.targets was 32, now 16",
        ),
        ({"random_seed": 1}, {}, "random_seed was 0, now 1"),
        ({}, {"data_fingerprint": "other"}, "the training data changed"),
        ({}, {"vocabulary_fingerprint": "other"}, "the vocabulary changed"),
    ],
)
def test_the_setting_that_differs_is_named(config, changes, marks, message):
    with pytest.raises(UserError) as caught:
        run_dir.refuse_another(dataclasses.replace(config, **changes), {**MARKS, **marks})
    assert f"holds another run: {message}; choose another MODEL_DIR" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_decode_length": 63},
        {"eval_period": 2, "keep_best": 3},
        {"pack": False, "row_lengths": None},
        {"train_steps": 99},
        {"vocabulary": "elsewhere.model"},
    ],
)
def test_settings_without_effect_on_updates_may_differ(config, changes):
    assert run_dir.refuse_another(dataclasses.replace(config, **changes), MARKS) is None


SCORED = {"validation_fingerprint": "a", "test_fingerprint": "b", "metric_fingerprint": "c"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("validation_fingerprint", "the validation data changed since the last start; scores in "),
        ("test_fingerprint", "the test data changed since the last start; scores in "),
        ("metric_fingerprint", "results.json from before are of another metric"),
    ],
)
def test_a_change_of_what_is_scored_is_said_once(config, capsys, name, words):
    """A run of a version that did not note it continues without a word."""
    for _ in range(2):
        run_dir.refuse_another(config, MARKS | SCORED)
        assert capsys.readouterr().err == ""
        with run_dir.claimed(config, MARKS | SCORED, ""):
            pass
    run_dir.refuse_another(config, {**MARKS, **SCORED, name: "other"})
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and f"warning: {config.model_dir}: " in printed
    assert words in printed


@pytest.mark.parametrize(
    "unknown",
    [
        ["max_decode_length"],
        ["on_nonfinite", "checkpoint_period"],
        ["model.scan_layers"],
        ["optimizer.clip_norm"],
        ["partitioner.logical_axis_rules", "label_prefix"],
    ],
)
def test_a_run_of_a_version_that_knew_fewer_settings_continues(config, unknown):
    path = Path(config.model_dir) / "run.json"
    fields = json.loads(path.read_text())
    for name in unknown:
        *outer, last = name.split(".")
        del (fields[outer[0]] if outer else fields)[last]
    path.write_text(json.dumps(fields))
    run_dir.refuse_another(config, MARKS)


@pytest.mark.parametrize("delay", [0.0, 0.3, 0.8])
def test_a_file_that_a_share_shows_late_is_waited_for(tmp_path, delay):
    path = tmp_path / "run.json"
    timer = threading.Timer(delay, path.touch)
    began = time.monotonic()
    timer.start()
    run_dir._wait_until_seen(path, 30.0)
    assert delay <= time.monotonic() - began < 30
    assert path.exists()
    timer.join()


@pytest.mark.parametrize("missing", ["run.json", "no/folder/run.json"])
def test_the_wait_is_bounded_and_named(tmp_path, missing):
    began = time.monotonic()
    with pytest.raises(UserError, match=r"does not see what process 0 wrote there 1 s ago"):
        run_dir._wait_until_seen(tmp_path / missing, 1.0)
    assert time.monotonic() - began < 20
