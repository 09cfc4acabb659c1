"""A MODEL_DIR of upstream T5X: the same answers and scores as the run of ours it was made from."""

import dataclasses
import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers import t5x_runs
from helpers.runs import trained
from helpers.t5x_runs import files, rows

from sbs_jax.checkpoints import initial, orbax_setup
from sbs_jax.checkpoints.formats.params import read_all
from sbs_jax.cli import main
from sbs_jax.configs import OptimizerConfig, t5x_config
from sbs_jax.datasets import registry
from sbs_jax.errors import UserError
from sbs_jax.inference import evaluate, student
from sbs_jax.runs import t5x_run

importlib.import_module("sbs_jax.tasks")

FIRST, LAST = 40, 100
QUESTIONS = [{"input": "item 7 is good"}, {"input": "item 8"}]


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Path:
    """A short run of `sbs train`, with two checkpoints."""
    return trained(
        tmp_path_factory.mktemp("ours") / "run",
        train_steps=LAST,
        eval_period=LAST,
        checkpoint_period=FIRST,
        keep_latest=3,
        max_decode_length=None,
        optimizer=OptimizerConfig(learning_rate=2e-2),
    )


@pytest.fixture(scope="module")
def made(ours, tmp_path_factory) -> Path:
    """The same run as T5X would have left it."""
    folder = tmp_path_factory.mktemp("t5x") / "run"
    run = student.find_run(ours).run
    assert run is not None
    for step in (FIRST, LAST):
        t5x_runs.make(folder, ours / "checkpoints" / str(step), run, step)
    return folder


@pytest.fixture
def theirs(made, tmp_path) -> Path:
    """A copy to write to, at another place than config.gin says."""
    return shutil.copytree(made, tmp_path / "theirs")


def evaluated(model_dir: Path, *flags: str) -> dict[int, list[dict]]:
    """Step -> predictions on test that `sbs evaluate` writes."""
    assert main(["evaluate", f"--model_dir={model_dir}", "--output_rationale", *flags]) == 0
    found = model_dir.glob("predictions-demo_label-test-*.jsonl")
    return {int(path.stem.rpartition("-")[2]): rows(path) for path in found}


def predicted(model_dir: Path | str, tmp_path: Path, *flags: str) -> list[dict]:
    source, target = tmp_path / "in.jsonl", tmp_path / str(model_dir).replace("/", "_")
    source.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    given = [f"--model_dir={model_dir}", f"--input={source}", f"--output={target}"]
    assert main(["predict", *given, "--output_rationale", *flags]) == 0
    return rows(target)


def test_the_description_is_that_of_the_run(ours, theirs):
    wanted, found = student.find_run(ours), student.find_run(theirs)
    assert found.run == dataclasses.replace(wanted.run, model_dir=str(theirs))
    assert (found.config, found.asking) == (wanted.config, wanted.asking)
    assert found.vocabulary.fingerprint == wanted.vocabulary.fingerprint
    assert (found.checkpoint.step, found.results, found.config_gin) == (LAST, None, None)


def test_macros_inside_values_are_followed(theirs):
    lengths = {"TASK_FEATURE_LENGTHS": "{'inputs': %LONGEST, 'targets': 9}", "LONGEST": "%OTHER"}
    pair = {"configs.T5Config.mlp_activations": "('gelu', %SECOND)", "SECOND": "'linear'"}
    change(theirs, {**lengths, "OTHER": "8", **pair})
    run = t5x_run.load(theirs)
    assert run.task_feature_lengths == {"inputs": 8, "targets": 9}
    assert run.model.mlp_activations == ("gelu", "linear")


def test_evaluate_scores_the_newest_checkpoint_and_leaves_t5xs_files(ours, theirs):
    before = files(theirs)
    found = evaluated(theirs)
    wanted = evaluate.evaluate_split(ours, "test", LAST, output_rationale=True)
    assert found == {LAST: json.loads(json.dumps(wanted.predictions))}
    assert len({row["confidence"] for row in found[LAST]}) > 1, "a constant student tests nothing"
    assert before.items() <= files(theirs).items()


def test_another_step(ours, theirs, tmp_path):
    """It is called as its folder is, whatever number the checkpoint itself holds."""
    (theirs / f"checkpoint_{FIRST}").rename(theirs / "checkpoint_7")
    assert evaluated(theirs, "--step=7").keys() == {7}
    answers = predicted(theirs, tmp_path, "--step=7")
    assert answers == predicted(ours, tmp_path, f"--step={FIRST}")


def test_predict_needs_no_module_of_the_run(ours, theirs, tmp_path):
    """Only `evaluate` needs the data: a copied MODEL_DIR answers without the module."""
    config = theirs / "config.gin"
    config.write_text(config.read_text().replace("import sbs_jax.tasks", "import not_there"))
    answers = predicted(theirs, tmp_path)
    assert answers == predicted(ours, tmp_path, f"--step={LAST}")


def through_orbax(folder: Path) -> None:
    """Replaces a legacy checkpoint by what T5X writes by default."""
    checkpoint = initial.find(str(folder))
    tree = {"target": read_all(checkpoint), "state": {"step": np.int32(checkpoint.step)}}
    shutil.rmtree(folder)
    orbax_setup.silence_orbax()
    ocp.PyTreeCheckpointer().save(folder / "state", tree)
    (folder / "commit_success.txt").touch()


def test_an_orbax_checkpoint(ours, theirs, tmp_path):
    through_orbax(theirs / f"checkpoint_{LAST}")
    assert predicted(theirs, tmp_path) == predicted(ours, tmp_path, f"--step={LAST}")


@pytest.mark.slow
@pytest.mark.parametrize("written", ["legacy", "orbax"])
def test_a_folder_in_a_bucket(written, ours, theirs, tmp_path, cloud_storage):
    """There a checkpoint has its name before it is complete: the half-written one is no step."""
    if written == "orbax":
        through_orbax(theirs / f"checkpoint_{LAST}")
    for name, content in files(theirs).items():
        cloud_storage.put(f"t5x/{written}/{Path(name).relative_to(theirs)}", content)
    cloud_storage.put(f"t5x/{written}/checkpoint_{2 * LAST}/state/d/0", b"half")
    answers = predicted(f"gs://runs/t5x/{written}", tmp_path)
    assert answers == predicted(ours, tmp_path, f"--step={LAST}")


def test_a_moved_vocabulary_is_named(theirs, tmp_path, capsys):
    change(theirs, {"VOCABULARY": "'gone/spiece.model'"})
    assert main(["evaluate", f"--model_dir={theirs}"]) == 2
    assert "(--vocabulary says where it is now)" in capsys.readouterr().err
    assert predicted(theirs, tmp_path, "--vocabulary=demo")
    assert evaluated(theirs, "--vocabulary=demo").keys() == {LAST}


def test_export_takes_it_as_a_run(theirs, tmp_path):
    assert main(["export", "--to=hf", str(theirs), str(tmp_path / "hf")]) == 0
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "demo_step_by_step" in card and f"the checkpoint of step {LAST}" in card
    assert "The run left no config.gin for `sbs train`" in card


def change(folder: Path, changes: dict[str, str | None], imports: str = t5x_runs.IMPORTS) -> None:
    """Writes config.gin anew, with other values or without some."""
    run = t5x_run.load(folder)
    (folder / "config.gin").write_text(t5x_runs.config_gin(run, changes, imports))


def test_the_runs_own_module_is_imported_and_bound(theirs, tmp_path, monkeypatch):
    """What registers the data is called with what the run bound to it."""
    (tmp_path / "my_plums.py").write_text(
        "import gin\nfrom sbs_jax.datasets import records\n"
        "@gin.configurable\ndef read(split, word='wrong'):\n"
        "    return [records.Record(name, 'item 7', word) for name in '12']\n"
    )
    (tmp_path / "my_names.py").write_text(
        "import my_plums\nfrom sbs_jax.datasets import registry\n"
        "registry.add_dataset('plums', records=lambda split: my_plums.read(split))\n"
    )
    monkeypatch.chdir(tmp_path)
    imports = t5x_runs.IMPORTS.replace("import sbs_jax.tasks", "import my_names\nimport my_plums")
    bound = {"my_plums.read.word": "%WORD", "WORD": "'good'"}
    change(theirs, {"MIXTURE_OR_TASK_NAME": "'plums_finetune'", **bound}, imports)
    assert main(["evaluate", f"--model_dir={theirs}"]) == 0
    registry.remove("plums")
    predictions = rows(theirs / f"predictions-plums_finetune-test-{LAST}.jsonl")
    assert [row["gold"] for row in predictions] == ["good"] * 2


SMALL = {"configs.T5Config.mlp_dim": "64"}
FAULTS = {
    "another size": (
        SMALL,
        r"config\.gin describes another model than .*_100: .*\[16, 32\]",
    ),
    "no task of ours": (
        {"MIXTURE_OR_TASK_NAME": "'fruit'"},
        r"fruit: no such task or mixture; .*plain_tasks\.add takes in SeqIO's",
    ),
    "another mixture": (
        {"train/utils.DatasetConfig.mixture_or_task_name": "'fruit'"},
        r"config\.gin:\d+: train/DatasetConfig\.mixture_or_task_name = 'fruit', where the gin",
    ),
    "another model": (
        {"train_script.train.model": "@models.EncoderDecoderModel()"},
        r"config\.gin:\d+: train\.model = @models\.EncoderDecoderModel\(\), where .* @t5x_model",
    ),
    "no training": (
        {"train_script.train.model": None},
        r"config\.gin: binds no train\.model, as a run of t5x\.train does; give its MODEL_DIR",
    ),
    "a macro that is gone": (
        {"TRAIN_STEPS": None, "train_script.train.total_steps": "5"},
        r"config\.gin:\d+: the macro %TRAIN_STEPS is set nowhere",
    ),
    "a circle": ({"TRAIN_STEPS": "%TRAIN_STEPS"}, r"config\.gin:\d+: %TRAIN_STEPS leads back to"),
    "a function": (
        {"VOCABULARY": "@my.vocabulary()"},
        r"config\.gin:\d+: @my\.vocabulary\(\) is no value and nothing of configs; make it a run",
    ),
    "another class": (
        {"MODEL": "@configs.Other()"},
        r"@configs\.Other\(\) is no value and nothing",
    ),
    "a class": ({"MODEL": "@configs.T5Config"}, r"@configs\.T5Config is no value and nothing of"),
    "a value out of range": ({"TRAIN_STEPS": "0"}, r"config\.gin: TRAIN_STEPS = 0"),
    "a field that is missing": (
        {"configs.T5Config.emb_dim": None},
        r"config\.gin: configs\.T5Config is not of this version \(.*emb_dim",
    ),
    "no gin text": ({"ALPHA": "0.5 0.5"}, r"config\.gin:\d+: "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_config_gin_that_does_not_describe_the_run(fault, theirs, capsys):
    changes, expected = FAULTS[fault]
    change(theirs, changes)
    assert main(["evaluate", f"--model_dir={theirs}"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("sbs: error: ")
    with pytest.raises(UserError, match=expected):
        raise UserError(error)
    assert not list(theirs.glob("predictions-*"))


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (
            "config.gin",
            r"config\.gin: not there, so nothing says how this student of T5X is asked; ",
        ),
        ("checkpoints", "no checkpoint_STEP is there; give the MODEL_DIR of t5x.train"),
        ("ours", r"config\.gin: binds no configs\.TrainConfig: this run of T5X was not made by"),
        ("index", "no file 'checkpoint', the index of a T5X checkpoint"),
        ("step", r"no checkpoint of step 60; has 40, 100"),
    ],
)
def test_a_folder_without_what_is_needed(verb, fault, expected, theirs, tmp_path, capsys):
    flags = ["--step=60"] if fault == "step" else []
    if fault == "config.gin":
        (theirs / "config.gin").unlink()
    elif fault == "checkpoints":
        (theirs / "inference_eval").mkdir()
        for step in (FIRST, LAST):
            shutil.rmtree(theirs / f"checkpoint_{step}")
    elif fault == "ours":
        (theirs / "config.gin").write_text("from t5x import trainer\ntrainer.Trainer.x = 1\n")
    elif fault == "index":
        (theirs / f"checkpoint_{LAST}" / "checkpoint").unlink()
    if verb == "predict":
        (tmp_path / "in.jsonl").write_text(json.dumps(QUESTIONS[0]) + "\n")
        flags.append(f"--input={tmp_path}/in.jsonl")
    assert main([verb, f"--model_dir={theirs}", *flags]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(UserError, match=expected):
        raise UserError(error)


def test_a_module_that_is_gone_is_named_with_its_line(theirs, capsys):
    imports = t5x_runs.IMPORTS.replace("import sbs_jax.tasks", "import not_there")
    change(theirs, {}, imports)
    number = imports.splitlines().index("import not_there") + 1
    assert main(["evaluate", f"--model_dir={theirs}"]) == 2
    error = capsys.readouterr().err
    assert f"{theirs}/config.gin:{number}: No module named 'not_there'" in error


def test_what_gin_reads_of_it_keeps_its_lines(theirs):
    text = t5x_config.without_t5x(str(theirs / "config.gin")).splitlines()
    whole = (theirs / "config.gin").read_text().splitlines()
    assert len(text) == len(whole)
    kept = {line for line in text if line}
    assert "import sbs_jax.tasks" in kept and "USE_CACHED_TASKS = False" in kept
    assert not [line for line in kept if "t5x" in line or "seqio" in line or "__main__" in line]
    assert all(line in whole[number] for number, line in enumerate(text) if "import" in line)
