"""No update is lost at an evaluation; scores of other questions do not compete."""

import json
from pathlib import Path

import pytest
from helpers.runs import config_of, metrics_of

from sbs_jax.datasets import registry
from sbs_jax.datasets.records import Record
from sbs_jax.errors import UserError
from sbs_jax.training import trainer

WORDS = ("vunch", "truvel", "lenzic", "can", "it", "is")
DATA: dict[str, list[Record]] = {}


def records(split: str) -> list[Record]:
    return DATA[split]


class Metric:
    """Equal texts; fails on answers while `fails` is set, but never on gold against itself."""

    fails = False

    def __call__(self, prediction: str, gold: str) -> bool:
        if self.fails and prediction != gold:
            raise ValueError("not a number")
        return prediction == gold


METRIC = Metric()
registry.add_dataset("scored", records=records, metric=METRIC)


@pytest.fixture(autouse=True)
def data(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    METRIC.fails = False
    for split, count in (("train", 24), ("validation", 6), ("test", 8)):
        DATA[split] = questions(split, count)
    refresh()


def questions(split: str, count: int) -> list[Record]:
    labels = ("yes", "no")
    return [
        Record(f"{split}-{n}", f"{WORDS[n % 6]} {WORDS[n % 5]} {n}", labels[n % 2])
        for n in range(count)
    ]


def refresh() -> None:
    """A function's records are read once; a changed file is read again."""
    registry.get("scored").source._known.clear()


def run(folder: Path, **changes: object) -> dict:
    settings = {
        "mixture_or_task_name": "scored_finetune",
        "max_decode_length": None,
        "eval_num_examples": None,
        "train_steps": 4,
        "eval_period": 2,
        "max_unknown": 1.0,
    }
    return trainer.train(config_of(folder, **{**settings, **changes}))


def scores(folder: Path) -> dict[int, str]:
    rows = json.loads((folder / "checkpoints" / "scores.json").read_text())
    return {int(step): row["fingerprint"] for step, row in rows.items()}


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").glob("[0-9]*"))


@pytest.mark.slow
def test_a_metric_that_fails_costs_no_update(tmp_path, capsys):
    METRIC.fails = True
    with pytest.raises(UserError, match=r"record 'validation-0'.* metric Metric raises ValueError"):
        run(tmp_path / "run")
    assert steps(tmp_path / "run") == [2]
    METRIC.fails = False
    run(tmp_path / "run")
    printed = capsys.readouterr().err
    assert "continues from step 2" in printed and "step 2  validation accuracy" in printed
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    logged = [row["step"] for row in map(json.loads, rows) if "validation/accuracy" in row]
    assert logged == [2, 4]
    assert metrics_of(tmp_path / "run")[-1]["step"] == 4


@pytest.mark.parametrize(
    ("split", "replacement", "message"),
    [
        ("test", [], "scored/test: the split is empty"),
        ("validation", [], "scored/validation: the split is empty"),
    ],
)
def test_a_split_that_cannot_be_scored_is_refused_before_the_first_update(
    tmp_path, split, replacement, message
):
    DATA[split] = replacement
    refresh()
    with pytest.raises(UserError, match=message):
        run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_new_scores_replace_the_old_ones_in_the_log(tmp_path):
    run(tmp_path / "run", keep_latest=2)
    DATA["validation"] = questions("validation", 5)
    refresh()
    run(tmp_path / "run", keep_latest=2)
    rows = list(map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()))
    logged = {r["step"]: r["validation/accuracy"] for r in rows if "validation/accuracy" in r}
    assert sum("validation/accuracy" in row for row in rows) == len(logged) == 2
    kept = json.loads((tmp_path / "run" / "checkpoints" / "scores.json").read_text())
    assert logged == {int(step): score["accuracy"] for step, score in kept.items()}


@pytest.mark.slow
def test_another_validation_split_is_scored_again(tmp_path, capsys):
    """Also what results.json holds depends on what is scored, and on nothing else."""
    first = run(tmp_path / "run")
    before = scores(tmp_path / "run")
    assert len(set(before.values())) == 1
    capsys.readouterr()

    assert run(tmp_path / "run") == first
    assert "already complete" in capsys.readouterr().err

    DATA["validation"] = questions("validation", 5)
    refresh()
    run(tmp_path / "run")
    printed = capsys.readouterr().err
    assert "validation: the questions, gold labels, metric or decoding length changed" in printed
    assert "the validation data changed since the last start; scores in metrics.jsonl" in printed
    assert "results.json: the validation questions or gold labels changed" in printed
    after = scores(tmp_path / "run")
    assert {after[step] for step in steps(tmp_path / "run")}.isdisjoint(before.values())

    for changes, reason in (
        ({"eval_num_examples": 4}, "the validation questions or gold labels changed"),
        ({"eval_num_examples": 4, "max_decode_length": 3}, "decoded with MAX_DECODE_LENGTH = "),
    ):
        run(tmp_path / "run", **changes)
        assert reason in capsys.readouterr().err

    path = tmp_path / "run" / "results.json"
    old = json.loads(path.read_text())
    for entry in old["results"]:
        del entry["fingerprint"], entry["questions"]
    path.write_text(json.dumps(old))
    summary = run(tmp_path / "run", **changes)
    assert (
        "written without a fingerprint of its questions; scoring again" in capsys.readouterr().err
    )
    assert all("fingerprint" in entry for entry in summary["results"])
    assert summary["truncated"]["train"]["finetune"]["examples"] == 24
