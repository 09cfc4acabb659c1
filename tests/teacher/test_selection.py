"""`--select=uncertain`: what a student is least sure of, and as many questions at random."""

import functools
import json

import pytest
from helpers import annotate_cli
from helpers.runs import config_of
from helpers.serving import serving
from helpers.stub_server import StubServer

from sbs_jax.cli import main
from sbs_jax.datasets import demo
from sbs_jax.datasets.records import read_jsonl, write_jsonl
from sbs_jax.errors import UserError
from sbs_jax.inference import uncertainty
from sbs_jax.teacher import selection
from sbs_jax.training import trainer

POOL = {("train", str(i)): (i * 37 % 100) / 100 for i in range(100)}


def test_the_least_sure_and_a_random_arm_of_one_size():
    made = selection.choose(POOL, 10, "student")
    least, chance = made.arms["uncertain"], made.arms["random"]
    assert len(least) == len(chance) == 10
    assert sorted(least.values()) == [i / 100 for i in range(10)]
    assert 0.2 < sum(chance.values()) / 10 < 0.8
    assert made == selection.choose(dict(reversed(POOL.items())), 10, "student")
    with pytest.raises(UserError, match="--budget=100: the pool has 100 questions"):
        selection.choose(POOL, 100, "student")


@pytest.fixture
def annotate(tmp_path, monkeypatch):
    pytest.importorskip("openai")
    records = demo.questions("train")[:40]
    write_jsonl(tmp_path / "train.jsonl", records)
    sure = {("train", r.id): i / 40 for i, r in enumerate(records)}
    # The student's own part is tested with a real one below.
    monkeypatch.setattr(uncertainty, "confidences", lambda model_dir, inputs: dict(sure))
    with serving(StubServer(annotate_cli.oracle)) as stub:
        run = functools.partial(annotate_cli.run, stub, tmp_path, select="uncertain", student="s")
        yield run, stub


def test_only_both_arms_are_asked_and_written(annotate, tmp_path, capsys):
    run, stub = annotate
    assert run(budget=6) == 0
    out = tmp_path / "out"
    asked = [record.id for record in read_jsonl(tmp_path / "train.jsonl")]
    arms = {arm: list(read_jsonl(out / arm / "train.jsonl")) for arm in ("uncertain", "random")}
    assert [record.id for record in arms["uncertain"]] == asked[:6]
    assert len(arms["random"]) == 6
    union = {record.id for arm in arms.values() for record in arm}
    assert len(stub.calls) == len(union) < 13
    assert all(record.llm_label for arm in arms.values() for record in arm)
    assert "arm uncertain: 6 questions, mean confidence 0.062" in capsys.readouterr().err
    assert run(budget=6) == 0 and len(stub.calls) == len(union)
    assert run(budget=7) == 2
    assert "--budget was 6, now 7; choose another --out" in capsys.readouterr().err


def test_a_dry_run_keeps_no_choice(annotate, tmp_path, capsys):
    run, stub = annotate
    assert run(budget=5, dry_run=True) == 0
    assert "arm uncertain: 5 questions" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(budget=6) == 0
    calls = len(stub.calls)
    assert run(budget=6, dry_run=True) == 0 and len(stub.calls) == calls
    assert "requests to send: 0" in capsys.readouterr().out
    assert run(budget=5, dry_run=True) == 2


def test_a_persons_decisions_reach_both_arms(annotate, tmp_path):
    run, _ = annotate
    assert run(budget=6) == 0
    out = tmp_path / "out"
    first = {arm: next(read_jsonl(out / arm / "train.jsonl")).id for arm in ("uncertain", "random")}
    row = {"split": "train", "action": "edit", "rationale": "better .", "label": "no"}
    edits = [json.dumps(row | {"id": record}) + "\n" for record in set(first.values())]
    (tmp_path / "edits.jsonl").write_text("".join(edits))
    assert main(["review", str(out), f"--edits={tmp_path / 'edits.jsonl'}"]) == 0
    for arm, record in first.items():
        held = {r.id: r for r in read_jsonl(out / arm / "train.jsonl")}
        assert (held[record].rationale, held[record].llm_label) == ("better .", "no")


def test_a_flag_alone_is_refused(annotate, capsys):
    run, stub = annotate
    assert run() == 2 and not stub.calls
    assert "belong together" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_students_confidence_chooses(tmp_path):
    """As `sbs predict --confidence` says it, question by question."""
    model_dir = tmp_path / "run"
    trainer.train(config_of(model_dir))
    records = demo.questions("validation")[:30]
    write_jsonl(tmp_path / "in.jsonl", records)
    sure = uncertainty.confidences(str(model_dir), {"in": lambda: records})
    flags = [f"--model_dir={model_dir}", f"--input={tmp_path / 'in.jsonl'}", "--confidence"]
    assert main(["predict", *flags, f"--output={tmp_path / 'out.jsonl'}"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {("in", row["id"]): row["confidence"] for row in rows} == sure
