"""Student, then teacher: every number of `sbs cascade` recomputed from the predictions files."""

import pathlib

import numpy as np
import pytest
from helpers.studies import make_run, prediction, write_lines
from scipy import stats

from sbs_jax.cli import main
from sbs_jax.reporting import cascade
from sbs_jax.reporting.cascade import Scores

SURE = np.array([0.99, 0.85, 0.6, 0.3])
STUDENT, TEACHER = np.array([1.0, 1, 0, 0]), np.array([0.0, 1, 1, 0])


def test_a_cascade_worked_by_hand():
    found = {step.threshold: step for step in cascade.steps(Scores(SURE, STUDENT, TEACHER))}
    assert (found[0.0].kept, found[0.0].both.value) == (1, 0.5)
    assert (found[0.8].kept, found[0.8].student.value, found[0.8].both.value) == (0.5, 1, 0.75)
    assert (found[0.95].kept, found[0.95].both.value) == (0.25, 0.75 - 0.25 + 0.25)


def test_the_best_on_validation_is_chosen_and_of_equals_the_cheapest():
    assert cascade.choose(Scores(SURE, STUDENT, TEACHER), (0.0, 0.5, 0.7, 0.8, 1.0)) == 0.7


def answers(n: int, seed: int) -> list[dict]:
    """A student that is right as often as it says, a teacher that is right in 70%."""
    rng = np.random.default_rng(seed)
    sure = rng.uniform(0.3, 1, n).round(3)
    right, teacher = rng.random(n) < sure, rng.random(n) < 0.7
    return [
        prediction(i, bool(right[i]), bool(teacher[i]), confidence=float(sure[i])) for i in range(n)
    ]


@pytest.fixture
def run(tmp_path) -> pathlib.Path:
    made = make_run(tmp_path / "run", "mine_finetune", answers(300, 0))
    write_lines(made / "predictions-mine_finetune-validation-10.jsonl", answers(200, 1))
    return made


def tables(printed: str) -> dict[str, list[list[str]]]:
    """First word of a caption -> fields, which two spaces part."""
    blocks = (block.splitlines() for block in printed.strip().split("\n\n"))
    return {
        caption.split(":")[0]: [[f for f in line.split("  ") if f.strip()] for line in lines]
        for caption, _, *lines in blocks
    }


def columns(rows: list[dict]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    right = [
        [float(row[name] == row["gold"]) for row in rows] for name in ("label", "teacher_label")
    ]
    return np.array([row["confidence"] for row in rows]), *map(np.array, right)


def test_every_number_is_that_of_the_predictions(run, capsys):
    assert main(["cascade", f"--model_dir={run}", "--price=0.5"]) == 0
    shown = tables(capsys.readouterr().out)
    sure, student, teacher = columns(answers(300, 0))
    for line in shown["Cascade"][:-1]:
        threshold, kept, own, own_interval, both, interval, saved, cost = map(str.strip, line)
        keeps = sure >= float(threshold)
        assert int(kept) == keeps.sum() and saved == f"{keeps.mean():.1%}"
        assert cost == f"{500 * (~keeps).mean():.4g}"
        together = np.where(keeps, student, teacher)
        assert both == f"{together.mean():.3f}"
        for right, of in ((together, interval), (student[keeps], own_interval)):
            wilson = stats.binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
            assert of == f"[{wilson.low:.3f}, {wilson.high:.3f}]"
        assert own == f"{student[keeps].mean():.3f}"
    last = [field.strip() for field in shown["Cascade"][-1]]
    assert last[:4] == ["teacher alone", "0", "-", "-"] and last[4] == f"{teacher.mean():.3f}"


def test_the_threshold_is_chosen_on_validation_and_compared_on_test(run, capsys):
    assert main(["cascade", f"--model_dir={run}", "--thresholds=0.4,0.7,0.5,0.9"]) == 0
    printed = capsys.readouterr().out
    assert "the best of 4 on validation (n = 200)" in printed
    sure, student, teacher = columns(answers(200, 1))
    scores = {t: np.where(sure >= t, student, teacher).mean() for t in (0.4, 0.5, 0.7, 0.9)}
    best = max(scores, key=scores.__getitem__)
    ((threshold, _, n, both, ours, theirs, neither, difference, _, p),) = (
        [field.strip() for field in line]
        for line in tables(printed)["Cascade against the teacher alone"]
    )
    sure, student, teacher = columns(answers(300, 0))
    together = np.where(sure >= best, student, teacher)
    assert (float(threshold), int(n)) == (best, 300)
    counts = [(together * teacher).sum(), (together > teacher).sum(), (together < teacher).sum()]
    assert [int(both), int(ours), int(theirs)] == counts and int(neither) == 300 - sum(counts)
    assert difference == f"{together.mean() - teacher.mean():+.3f}"
    exact = stats.binomtest(int(counts[1]), int(counts[1] + counts[2])).pvalue
    assert p == (f"{exact:.4f}" if exact >= 0.0001 else "<0.0001")


def test_answers_of_predict_and_labels_of_annotate_are_joined_by_id(tmp_path, capsys):
    """Judged here: by text without, by value with --metric=equation."""
    rows = [
        {"id": i, "input": "?", "gold": "(2 + 3)", "label": f"(3 + {i % 2 + 1})", "confidence": 0.8}
        for i in range(10)
    ]
    write_lines(tmp_path / "out.jsonl", rows)
    labels = [{"id": str(i), "label": "(1 + 4)" if i < 7 else "(9 + 9)"} for i in range(10)]
    write_lines(tmp_path / "rationales.jsonl", labels)
    given = ["cascade", f"--predictions={tmp_path / 'out.jsonl'}"]
    given.append(f"--teacher={tmp_path / 'rationales.jsonl'}")
    assert main([*given, "--metric=equation", "--thresholds=0.5,0.9"]) == 0
    shown = tables(capsys.readouterr().out)["Cascade"]
    assert [line[4].strip() for line in shown] == ["0.500", "0.700", "0.700"]
    assert main([*given, "--thresholds=0.5"]) == 0
    assert [line[4].strip() for line in tables(capsys.readouterr().out)["Cascade"]] == ["0.000"] * 2
    (tmp_path / "out.jsonl.made_by.json").write_text('{"metric": "equation"}')
    assert main([*given, "--thresholds=0.5,0.9"]) == 0
    printed = capsys.readouterr()
    assert tables(printed.out)["Cascade"] == shown and printed.err == ""


def test_answers_that_the_teacher_has_no_label_for_are_counted(tmp_path, capsys):
    rows = [prediction(i, i < 4, confidence=0.9, teacher_label=None) for i in range(6)]
    write_lines(tmp_path / "out.jsonl", rows)
    write_lines(tmp_path / "r.jsonl", [{"id": row["id"], "label": "yes"} for row in rows[:4]])
    given = [f"--predictions={tmp_path / 'out.jsonl'}", f"--teacher={tmp_path / 'r.jsonl'}"]
    assert main(["cascade", *given]) == 0
    assert capsys.readouterr().err == f"{tmp_path}/r.jsonl: has no label for 2 of 6 answers\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give either --model_dir or --predictions"),
        (["--model_dir=RUN", "--predictions=x"], "give either --model_dir or --predictions"),
        (["--model_dir=RUN", "--teacher=x"], "--teacher and --metric belong to --predictions"),
        (["--model_dir=RUN", "--metric=text"], "--teacher and --metric belong to --predictions"),
        (["--predictions=own.jsonl"], "own.jsonl:1: field 'correct' is 'maybe'; give true, false"),
        (["--predictions=ours.jsonl"], "ours.jsonl: mine.exact is a function of the dataset's"),
        (["--model_dir=RUN", "--thresholds=0.5,x"], "--thresholds: could not convert"),
        (["--model_dir=RUN", "--thresholds=1.5"], "--thresholds: 1.5 is not from 0 to 1"),
        (["--model_dir=gone"], "no finished run with test predictions is there"),
        (["--predictions=bare.jsonl"], "bare.jsonl:1: field 'gold' is missing"),
        (["--predictions=unsure.jsonl"], "1 of 2 answers (first: id '1') have no field confidence"),
        (["--predictions=unjudged.jsonl"], "unjudged.jsonl: holds no answers with a gold label"),
        (["--predictions=alone.jsonl"], "no answer has a teacher_label"),
    ],
)
def test_what_is_missing_is_one_line(run, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    bare = {"id": "1", "input": "?", "label": "yes"}
    alone = bare | {"gold": "yes", "confidence": 0.5}
    for name, rows in (
        ("bare", [bare]),
        ("unsure", [alone | {"id": "0"}, bare | {"gold": "yes"}]),
        ("unjudged", []),
        ("alone", [alone]),
        ("own", [alone | {"correct": "maybe"}]),
        ("ours", [alone]),
    ):
        write_lines(tmp_path / f"{name}.jsonl", rows)
    (tmp_path / "ours.jsonl.made_by.json").write_text('{"metric": "mine.exact"}')
    assert main(["cascade", *(flag.replace("RUN", str(run)) for flag in flags)]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_questions_without_a_gold_label_are_left_out_and_counted(tmp_path, capsys, empty):
    rows = [prediction(i, i < 4, confidence=0.9, correct=None) for i in range(6)]
    rows += [prediction(i, True, confidence=0.9, correct=None, gold=empty) for i in range(6, 9)]
    write_lines(tmp_path / "out.jsonl", rows)
    path = tmp_path / "out.jsonl"
    assert main(["cascade", f"--predictions={path}", "--thresholds=0.5"]) == 0
    printed = capsys.readouterr()
    threshold, kept, own, *_ = (f.strip() for f in tables(printed.out)["Cascade"][0])
    assert (threshold, kept, own) == ("0.50", "6", "0.667")
    assert printed.err == f"{path}: 3 answers have an empty gold label; they are left out\n"
