"""A folder of upstream T5X: its scores in a report, its checkpoints, and where it is refused."""

import json
import pathlib

import pytest
from scipy import stats

from sbs_jax.cli import main
from sbs_jax.errors import UserError
from sbs_jax.runs import t5x_run
from sbs_jax.utils import buckets


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """As t5x.train leaves it (facts of T5X at cc342d4)."""
    made = tmp_path / "runs" / "cqa"
    for step in (10, 9, 100):
        (made / f"checkpoint_{step}").mkdir(parents=True)
    (made / "config.gin").write_text("from t5x import trainer\n")
    evaluated = made / "inference_eval"
    evaluated.mkdir()
    scores = {"accuracy": 0.5, "correct": 5, "n": 10}
    teacher = {"teacher_accuracy": 0.75, "teacher_correct": 6, "teacher_n": 8}
    lines = [{"step": 10, **scores, "correct": 1}, {"step": 100, **scores, **teacher}]
    (evaluated / "cqa_label-metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (evaluated / "cqa_rationale-metrics.jsonl").write_text(json.dumps({"step": 100, "bleu": 3.0}))
    (evaluated / "cqa_label-000100.jsonl").write_text("{}\n")
    return made


def test_the_report_shows_the_last_scores_with_the_teacher(folder, tmp_path, capsys):
    assert main(["report", "--runs", str(folder), "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    (section,) = json.loads((tmp_path / "out" / "results.json").read_text())
    ((line,),) = (t["lines"] for t in section["tables"] if "Wilson" in t["caption"])
    shown = []
    for right, n in ((5, 10), (6, 8)):
        low, high = stats.binomtest(right, n).proportion_ci(method="wilson")
        shown.append(f"{right / n:.4f} [{low:.4f}, {high:.4f}] ({right}/{n})")
    assert line[:6] == ["cqa", "cqa_label", "of infer_eval", *shown, "-"]
    assert line[6] == "100"


def test_an_evaluation_without_scores_is_listed(folder, tmp_path, capsys):
    (folder / "inference_eval" / "cqa_label-metrics.jsonl").unlink()
    assert main(["report", "--runs", str(folder), "--out", str(tmp_path / "out")]) == 0
    assert "inference_eval: holds no accuracy of a task" in capsys.readouterr().out


def test_the_cascade_says_what_to_do(folder, capsys):
    assert main(["cascade", f"--model_dir={folder}"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"{folder}: a run of T5X, which has no results.json; run sbs evaluate" in said


def test_only_a_run_of_t5x_is_refused(folder, tmp_path):
    t5x_run.refuse(tmp_path)
    t5x_run.refuse(folder / "checkpoint_10")
    (folder / "run.json").write_text("{}")
    t5x_run.refuse(folder)
    (folder / "run.json").unlink()
    with pytest.raises(UserError, match="a run of T5X"):
        t5x_run.refuse(folder)


def test_a_bucket_is_not_asked_in_vain(monkeypatch):
    """Not for a public checkpoint, which is read without login, nor where nothing can be listed."""
    monkeypatch.setattr(t5x_run, "place", None)
    assert not t5x_run.is_one("gs://t5-data/pretrained_models/t5x/small/checkpoint_1000000/")
    monkeypatch.setattr(buckets, "can_list", lambda path: False)
    assert not t5x_run.is_one("gs://bucket/run")


def test_the_newest_checkpoint_is_that_of_the_largest_step(folder):
    """Unfinished ones have other names."""
    for name in ("checkpoint_200.orbax-checkpoint-tmp-3", "checkpoint_300.tmp-17", "checkpoint_x"):
        (folder / name).mkdir()
    assert t5x_run.steps(folder) == [9, 10, 100]
    assert t5x_run.checkpoint(folder) == (100, folder / "checkpoint_100")
    assert t5x_run.checkpoint(folder, 9) == (9, folder / "checkpoint_9")
    with pytest.raises(UserError, match="no checkpoint of step 11; has 9, 10, 100"):
        t5x_run.checkpoint(folder, 11)


@pytest.mark.slow
def test_one_update_of_a_rate_near_0_makes_a_run_of_its_student(tmp_path):
    """As docs/t5x.md says: every weight is the one in T5X's checkpoint, and the run is finished."""
    pytest.importorskip("jax")
    import numpy as np
    from helpers.runs import config_of, final_params

    from sbs_jax.checkpoints import convert
    from sbs_jax.configs import OptimizerConfig
    from sbs_jax.training import trainer

    trainer.train(config_of(tmp_path / "ours", train_steps=2, eval_period=2))
    theirs = tmp_path / "t5x" / "checkpoint_2"
    theirs.parent.mkdir()
    convert.convert(str(tmp_path / "ours"), str(theirs), "t5x")
    rate = OptimizerConfig(learning_rate=1e-30)
    changes = {"train_steps": 1, "optimizer": rate, "initial_checkpoint_path": str(theirs)}
    results = trainer.train(config_of(tmp_path / "made", **changes))
    for before, after in zip(
        final_params(tmp_path / "ours"), final_params(tmp_path / "made"), strict=True
    ):
        assert np.array_equal(before, after)
    assert {result["split"] for result in results["results"]} == {"validation", "test"}
