"""Reports of studies and runs, from invented files; every number of every table recomputed."""

import base64
import collections
import csv
import html.parser
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers.studies import add_row, make_run, prediction, random_study, write_lines
from scipy import stats

from sbs_jax.cli import main
from sbs_jax.errors import UserError
from sbs_jax.reporting import figures, study_files
from sbs_jax.reporting import page as report
from sbs_jax.runs import reader

TEXTS = {
    "title": "Invented rows, only to test the report",
    "intro": "Nothing here was measured.",
    "baseline": "always yes",
    "caveats": ["It shows nothing about <wombats>."],
}


class Page(html.parser.HTMLParser):
    """A page's text, the addresses it loads, its pictures; tags must be balanced."""

    VOID = ("meta", "img", "input", "br", "link")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.alternatives: list[str] = []
        self.open: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        self.alternatives += [value for name, value in attrs if tag == "img" and name == "alt"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)


def read_page(out: pathlib.Path) -> Page:
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    return page


@pytest.fixture(scope="module", params=[False, True], ids=["shared", "own questions"])
def made(request, tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path, str, bool]:
    """(study, report, text, whether every seed has questions of its own)."""
    folder = random_study(tmp_path_factory.mktemp("study"), own_questions=request.param)
    (folder / "study.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    out = folder / "out"
    return folder, out, report.write([folder], out), request.param


@pytest.fixture
def pictures() -> None:
    """Asks for pictures in the test's own reports; `made` has them."""


@pytest.fixture(autouse=True)
def _words(request, monkeypatch) -> None:
    if "pictures" not in request.fixturenames:  # most of a report's time
        monkeypatch.setattr(figures, "available", lambda: False)


def answers_of(folder: pathlib.Path, arm: str, fraction: float) -> list[list[dict]]:
    """The predictions of every seed of a cell, from the files alone."""
    found = []
    for line in (folder / "study.jsonl").read_text().splitlines():
        row = json.loads(line)
        if (row["arm"], row["fraction"]) == (arm, fraction):
            (path,) = (folder / row["model_dir"]).glob("predictions-*-test-*.jsonl")
            found.append([json.loads(line) for line in path.read_text().splitlines()])
    return found


def right(seeds: list[list[dict]], teacher: bool = False) -> np.ndarray:
    field = "teacher_label" if teacher else "label"
    return np.array([[float(row[field] == row["gold"]) for row in rows] for rows in seeds])


def tables_of(out: pathlib.Path) -> dict[str, list[dict[str, str]]]:
    """Caption -> lines by head, as results.json shows them."""
    (section,) = json.loads((out / "results.json").read_text())
    return {
        table["caption"]: [dict(zip(table["heads"], line, strict=True)) for line in table["lines"]]
        for table in section["tables"]
    }


def interval(scores: np.ndarray, own_questions: bool) -> tuple[float, float]:
    """By the formulas of the docstring of `significance.crossed`, from sums of squares."""
    seeds, n = scores.shape
    means = scores.mean(1)
    if own_questions:
        half = stats.t.ppf(0.975, seeds - 1) * means.std(ddof=1) / seeds**0.5
        return scores.mean() - half, scores.mean() + half
    correction = scores.sum() ** 2 / scores.size
    of_seed = ((scores.sum(1) ** 2).sum() / n - correction) / (seeds - 1)
    of_question = ((scores.sum(0) ** 2).sum() / seeds - correction) / (n - 1)
    rest = (scores**2).sum() - correction - of_seed * (seeds - 1) - of_question * (n - 1)
    shared = max(of_question - rest / ((seeds - 1) * (n - 1)), 0)
    total = of_seed + shared
    t_seed, t_question = stats.t.ppf(0.975, seeds - 1), stats.t.ppf(0.975, n - 1)
    cochran = (of_seed * t_seed + shared * t_question) / total
    hillis = stats.t.ppf(0.975, total**2 / (of_seed**2 / (seeds - 1)))
    half = (2 * hillis + cochran) / 3 * (total / scores.size) ** 0.5
    return scores.mean() - half, scores.mean() + half


CELLS = {
    ("200 (50%)", "standard"): ("standard", 0.5),
    ("200 (50%)", "step-by-step"): ("step_by_step", 0.5),
    ("400 (100%)", "standard"): ("standard", 1.0),
    ("400 (100%)", "step-by-step"): ("step_by_step", 1.0),
}


def test_accuracies_are_those_of_the_prediction_files(made):
    folder, out, _, own = made
    lines = {(t["labels"], t["arm"]): t for t in tables_of(out)["Test accuracy: mean over seeds"]}
    for key, cell in CELLS.items():
        scores = right(answers_of(folder, *cell))
        assert lines[key]["accuracy"] == f"{scores.mean():.3f}"
        assert lines[key]["95% interval"] == "[{:.3f}, {:.3f}]".format(*interval(scores, own))
        assert (lines[key]["seeds"], lines[key]["test n"]) == ("3", "200")
        assert lines[key]["CPU s"] == ("25.0" if cell[0] == "step_by_step" else "10.0")
    teacher = np.unique(right(answers_of(folder, "standard", 1.0), teacher=True), axis=0)
    assert lines["", "teacher"]["accuracy"] == f"{teacher.mean():.3f}"
    assert lines["", "teacher"]["test n"] == str(teacher.size)


def test_differences_are_those_of_the_prediction_files(made):
    folder, out, _, own = made
    shown = tables_of(out)
    to_teacher = shown["Student minus teacher in test accuracy, on the same questions"]
    between = shown["Differences in test accuracy, paired by seed and question"]
    assert (len(to_teacher), len(between)) == (4, 2)
    for line in to_teacher:
        seeds = answers_of(folder, *CELLS[line["labels"], line["student"]])
        check_difference(line, right(seeds) - right(seeds, teacher=True), own)
        assert line["teacher"] == f"{right(seeds, teacher=True).mean():.3f}"
    for line in between:
        fraction = 0.5 if "50%" in line["labels"] else 1.0
        one, other = (answers_of(folder, arm, fraction) for arm in ("step_by_step", "standard"))
        check_difference(line, right(one) - right(other), own)
    for lines in (to_teacher, between):  # Holm: the smallest p times their number, and so on
        ps = sorted(float(line["p"].strip("<")) for line in lines)
        assert float(min(lines, key=lambda t: t["p"])["Holm p"].strip("<")) == pytest.approx(
            min(1, ps[0] * len(ps)), abs=5e-4
        )


def check_difference(line: dict[str, str], scores: np.ndarray, own: bool) -> None:
    low, high = interval(scores, own)
    assert line["mean"] == f"{scores.mean():+.3f}"
    assert line["95% interval"] == f"[{low:+.3f}, {high:+.3f}]"
    word = "higher" if low > 0 else "lower" if high < 0 else "no difference shown"
    assert line["reading"].startswith(word)
    assert (float(line["p"].strip("<")) < 0.05) == (low > 0 or high < 0)


def test_pair_tables_are_those_of_the_prediction_files(made):
    folder, out, _, _ = made
    lines = tables_of(out)["Each student against the teacher: who is right"]
    assert len(lines) == 12
    for line in lines:
        seeds = answers_of(folder, *CELLS[line["labels"], line["student"]])
        one, other = (right(seeds, t)[int(line["seed"])].astype(bool) for t in (False, True))
        counts = [(one & other).sum(), (one & ~other).sum(), (~one & other).sum()]
        heads = ("both right", "student only", "teacher only")
        assert [int(line[head]) for head in heads] == counts
        assert int(line["neither"]) == 200 - sum(counts)
        p = stats.binomtest(int(counts[1]), int(counts[1] + counts[2])).pvalue
        assert line["McNemar p"] == (f"{p:.4f}" if p >= 0.0001 else "<0.0001")
        assert line["difference"] == f"{one.mean() - other.mean():+.3f}"
        expected = stats.bootstrap(
            (one * 1.0 - other,), np.mean, method="percentile", rng=np.random.default_rng(1)
        ).confidence_interval
        low, high = map(float, line["95% bootstrap"].strip("[]").split(","))
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.012)


def test_label_scores_and_confusion_are_those_of_the_prediction_files(made):
    folder, out, _, _ = made
    shown = tables_of(out)
    (caption,) = (c for c in shown if c.startswith("Each label: step-by-step"))
    (confusion,) = (c for c in shown if c.startswith("Confusion, counts: step-by-step"))
    rows = [row for seed in answers_of(folder, "step_by_step", 1.0) for row in seed]
    counts = collections.Counter((row["gold"], row["label"]) for row in rows)
    for line in shown[caption]:
        label = line["label"]
        gold = sum(row["gold"] == label for row in rows)
        given = sum(row["label"] == label for row in rows)
        precision, recall = counts[label, label] / given, counts[label, label] / gold
        f1 = 2 * precision * recall / (precision + recall)
        assert [line[h] for h in ("precision", "recall", "F1")] == [
            f"{x:.3f}" for x in (precision, recall, f1)
        ]
    for line in shown[confusion]:
        assert all(
            int(line[a]) == counts[line["gold \\ answer"], a] for a in ("yes", "no", "maybe")
        )


def test_the_verdict_comes_first(made):
    _, out, text, own = made
    page = read_page(out).text
    assert text.index("The student beats the teacher: step-by-step with 400 (100%) labels") < 200
    assert "3 seeds, n = 200" in page
    assert "Least data with which a student is shown to beat the teacher" in page
    design = "each seed has different test questions" if own else "the same test questions"
    assert design in page


def test_files_of_a_report(made):
    _, out, _, _ = made
    drawn = ("accuracy", "curves", "winners")
    pictures = [f"{name}.{end}" for name in drawn for end in ("csv", "json", "png", "svg")]
    names = [*pictures, "report.html", "results.json", "results.md"]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    points = list(csv.DictReader(io.StringIO((out / "accuracy.csv").read_text())))
    assert len(points) == 4 and {point["seeds"] for point in points} == {"3"}
    markdown = (out / "results.md").read_text()
    assert markdown.startswith("# Invented rows") and "| labels | arm | accuracy |" in markdown
    assert "| 200 (50%) | standard |" in markdown


def test_the_page_needs_no_other_file(made):
    _, out, _, _ = made
    page = read_page(out)
    assert len(page.addresses) == len(page.alternatives) == 3
    names = ("accuracy.png", "winners.png", "curves.png")
    for address, name in zip(page.addresses, names, strict=True):
        start = "data:image/png;base64,"
        assert address.startswith(start)
        assert base64.b64decode(address.removeprefix(start)) == (out / name).read_bytes()
    assert all(len(text) > 40 for text in page.alternatives)
    assert "default-src 'none'" in (out / "report.html").read_text()


def test_what_it_shows_and_does_not_show_is_said(made):
    _, out, text, _ = made
    page = read_page(out).text
    assert "It shows nothing about <wombats>." in page
    assert "It shows nothing about <wombats>." in text
    assert "Not shown to be above the untrained guess (always yes): standard at 200 (50%)" in page
    assert "step-by-step cost 2.50 times standard" in page
    assert "Holm p for all 4 with the teacher, or all 2 between arms, at once" in page


def embedded(out: pathlib.Path) -> dict:
    source = (out / "report.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', source, re.S)
    return json.loads(data)


def test_every_answer_of_every_run_is_embedded(made):
    folder, out, _, own = made
    data = embedded(out)
    assert len(data["runs"]) == 12 and len(data["sets"]) == (3 if own else 1)
    names = [run["name"] for run in data["runs"]]
    run = data["runs"][names.index("step-by-step, 200 (50%) labels, seed 1")]
    rows = answers_of(folder, "step_by_step", 0.5)[1]
    assert run["labels"] == [row["label"] for row in rows]
    assert run["right"] == [int(row["correct"]) for row in rows]
    assert run["rationales"] == [row["rationale"] for row in rows]
    questions = data["sets"][run["set"]]
    assert [q[:4] for q in questions] == [
        [row["id"], row["input"], row["gold"], row["teacher_label"]] for row in rows
    ]
    assert [q[4] for q in questions] == [int(row["teacher_label"] == row["gold"]) for row in rows]


def test_an_answer_cannot_end_the_script_or_become_a_tag(tmp_path):
    evil = "</script><script>document.title='x'</script><!-- \u2028"
    run = make_run(tmp_path / "a", "mine_finetune", [prediction(0, True, input=evil)])
    report.write([run], tmp_path / "out")
    assert embedded(tmp_path / "out")["sets"][0][0][1] == evil
    assert "document.title='x'</script>" not in (tmp_path / "out" / "report.html").read_text()


def test_other_test_questions_refuse_to_share_a_table(tmp_path):
    same = [prediction(i, True) for i in range(30)]
    for change, message in (
        ({"gold": "other"}, r"the gold label of id '3' is 'yes' and 'other'"),
        ({"input": "another"}, r"the input of id '3' is 'question 3 <b>\?</b>' and 'another'"),
        ({"id": "new"}, r"id '3' is in the first alone"),
    ):
        folder = tmp_path / message[:20]
        folder.mkdir()
        add_row(folder, "standard", 1.0, 0, same)
        add_row(folder, "standard", 1.0, 1, [*same[:3], same[3] | change, *same[4:]])
        with pytest.raises(UserError, match=f"different test questions: {message}"):
            report.write([folder], folder / "out")
    (tmp_path / "n").mkdir()
    add_row(tmp_path / "n", "standard", 1.0, 0, same)
    add_row(tmp_path / "n", "standard", 1.0, 1, same[:20])
    with pytest.raises(
        UserError, match=r"30 test questions \(standard, seed 0\) and 20 \(st.*differ"
    ):
        report.write([tmp_path / "n"], tmp_path / "out")


def test_scores_of_other_metrics_or_lengths_are_not_averaged(tmp_path):
    rows = [prediction(i, i > 3) for i in range(30)]
    for seed, fingerprint in enumerate(("aaaa", "aaaa", "bbbb")):
        add_row(tmp_path, "standard", 1.0, seed, rows, fingerprint=fingerprint)
    with pytest.raises(
        UserError, match=r"seeds of standard at fraction 1 were scored on different"
    ):
        report.write([tmp_path], tmp_path / "out")


def test_rows_in_another_order_are_the_same_questions(tmp_path):
    rows = [prediction(i, i % 3 > 0, i % 4 > 0) for i in range(40)]
    for seed, order in enumerate((rows, rows[::-1], rows)):
        add_row(tmp_path, "standard", 1.0, seed, order)
    text = report.write([tmp_path], tmp_path / "out")
    assert "the same test questions" in text


def test_the_teacher_is_compared_where_it_answered(tmp_path):
    """10 of 40 questions have no teacher's label: n is 30, for the student too."""
    rows = [
        prediction(i, i >= 10, False, **({"teacher_label": None} if i < 10 else {}))
        for i in range(40)
    ]
    for seed in range(3):
        add_row(tmp_path, "step_by_step", 1.0, seed, rows)
    report.write([tmp_path], tmp_path / "out")
    (line,) = tables_of(tmp_path / "out")[
        "Student minus teacher in test accuracy, on the same questions"
    ]
    assert (line["n"], line["accuracy"], line["teacher"]) == ("30", "1.000", "0.000")


def covered(numbers: range, seed: int) -> list[dict]:
    """90 answers; the teacher has labels for some."""
    return [
        prediction(i, i % 7 > seed, i % 2 > 0, **({} if i in numbers else {"teacher_label": None}))
        for i in range(90)
    ]


@pytest.mark.parametrize(
    ("coverage", "kept"),
    [
        ((range(60), range(60), range(90)), range(60)),
        ((range(60), range(20, 80), range(60)), range(20, 60)),
    ],
)
def test_seeds_are_compared_where_the_teacher_answered_in_all_of_them(tmp_path, coverage, kept):
    for seed, numbers in enumerate(coverage):
        add_row(tmp_path, "step_by_step", 1.0, seed, covered(numbers, seed))
    report.write([tmp_path], tmp_path / "out")
    (line,) = tables_of(tmp_path / "out")[
        "Student minus teacher in test accuracy, on the same questions"
    ]
    students = np.array([[float(i % 7 > seed) for i in kept] for seed in range(3)])
    check_difference(line, students - np.array([i % 2 for i in kept]), own=False)
    assert (line["n"], line["accuracy"]) == (str(len(kept)), f"{students.mean():.3f}")
    (teacher,) = (
        t
        for t in tables_of(tmp_path / "out")["Test accuracy: mean over seeds"]
        if t["arm"] == "teacher"
    )
    assert teacher["test n"] == str(max(map(len, coverage))), "each question counts once"


def own_questions(folder: pathlib.Path) -> None:
    """A dataset per seed; the teacher is right as often on each."""
    for seed in range(3):
        rows = [prediction(100 * seed + i, i > seed, i > 9) for i in range(40)]
        identity = {"dataset": f"mine_seed{seed}", "fingerprint": f"of seed {seed}"}
        add_row(folder, "step_by_step", 1.0, seed, rows, **identity)


def test_datasets_of_their_own_add_up_the_teachers_questions(tmp_path):
    own_questions(tmp_path)
    report.write([tmp_path], tmp_path / "out")
    lines = tables_of(tmp_path / "out")["Test accuracy: mean over seeds"]
    assert [line["test n"] for line in lines if line["arm"] == "teacher"] == ["120"]


def test_datasets_of_their_own_are_reported_without_predictions_too(tmp_path):
    own_questions(tmp_path)
    next(tmp_path.glob("runs/*-seed1/predictions-*")).unlink()
    text = report.write([tmp_path], tmp_path / "out")
    assert "has no test predictions now" in text and "no reading: they differ on 0" in text


def test_the_table_of_runs_says_which_questions_the_teacher_has(tmp_path):
    rows = [prediction(i, True, **({"teacher_label": None} if i < 6 else {})) for i in range(40)]
    make_run(tmp_path / "a", "mine_finetune", rows)
    text = report.write([tmp_path / "a"], tmp_path / "out")
    assert "(40/40)" in text and "(34/34)" in text
    assert "the teacher on those that it has a label for" in text


def test_a_teacher_that_only_the_users_metric_can_judge_is_not_compared(tmp_path):
    for seed in range(3):
        rows = [prediction(i, i % 3 > 0, i % 2 > 0) for i in range(40)]
        row = add_row(tmp_path, "step_by_step", 1.0, seed, rows)
        path = tmp_path / row["model_dir"] / "results.json"
        results = json.loads(path.read_text())
        results["metric"], results["results"][0]["teacher"]["correct"] = "my_metric", 35
        path.write_text(json.dumps(results))
    text = report.write([tmp_path], tmp_path / "out")
    assert "No verdict: the runs do not tell which test questions the teacher answered" in text


def test_what_runs_cut_off_is_a_table(tmp_path):
    predictions = [prediction(i, i % 2 == 0) for i in range(6)]
    run = make_run(tmp_path / "runs" / "a", "mine_finetune", predictions)
    make_run(tmp_path / "runs" / "b", "mine_finetune", predictions)
    results = json.loads((run / "results.json").read_text())
    results["results"][0]["truncated_answers"] = 5
    results["truncated"] = {"test": {"finetune": {"examples": 6, "inputs": 1, "targets": 2}}}
    (run / "results.json").write_text(json.dumps(results))
    text = report.write([tmp_path / "runs"], tmp_path / "out")
    (line,) = [line for line in text.splitlines() if line.startswith("a    test")]
    assert line.split() == ["a", "test", "finetune", "1", "2", "5", "6"]
    report.write([tmp_path / "runs" / "b"], tmp_path / "other")
    assert "Truncated" not in (tmp_path / "other" / "results.md").read_text()


def test_without_predictions_nothing_is_read(tmp_path):
    for seed in range(3):
        rows = [prediction(i, i >= 5 + seed, i < 50) for i in range(100)]
        row = add_row(tmp_path, "step_by_step", 1.0, seed, rows)
        for path in (tmp_path / row["model_dir"]).glob("predictions-*"):
            path.unlink()
    text = report.write([tmp_path], tmp_path / "out")
    assert "no reading: they differ on 0 questions" in text
    assert "predictions are missing, so intervals are over seeds alone" in text
    assert "higher" not in text.split("Over 3 seeds")[0].replace("is higher", "")


def test_one_seed_reads_nothing(tmp_path):
    text = report.write([random_study(tmp_path, seeds=1)], tmp_path / "out")
    assert "no reading: one seed, at least 3 are needed" in text
    assert "intervals are over questions and say nothing about other seeds" in text
    assert text.count("beats the teacher") == 0


def test_an_interval_of_differences_stays_within_what_can_be(tmp_path):
    """One seed is always right, two are never; the teacher is right, another arm half the time."""
    for seed in range(3):
        rows = [prediction(i, seed == 0, True) for i in range(30)]
        add_row(tmp_path, "step_by_step", 1.0, seed, rows)
        half = [prediction(i, i % 2 > 0, True) for i in range(30)]
        add_row(tmp_path, "standard", 1.0, seed, half)
    report.write([tmp_path], tmp_path / "out")
    shown = tables_of(tmp_path / "out")
    (teacher,) = (
        line
        for line in shown["Student minus teacher in test accuracy, on the same questions"]
        if line["student"] == "step-by-step"
    )
    assert teacher["95% interval"].startswith("[-1.000, ")
    (between,) = shown["Differences in test accuracy, paired by seed and question"]
    assert between["95% interval"] == "[-1.000, +1.000]"
    assert float(between["detectable"]) > 1, "computed from the interval before it is cut"


def test_failed_runs_are_listed_with_their_reason(tmp_path):
    random_study(tmp_path)
    failed = {"arm": "steep", "fraction": 1.0, "seed": 0, "error": "step 2: the loss is not finite"}
    with (tmp_path / "study.jsonl").open("a") as file:
        file.write(json.dumps(failed) + "\n")
    text = report.write([tmp_path], tmp_path / "out")
    assert re.search(r"steep +100% +0 +step 2: the loss is not finite", text)
    (tmp_path / "study.jsonl").write_text(json.dumps(failed) + "\n")
    text = report.write([tmp_path], tmp_path / "out")
    assert "No run has finished." in text and "the loss is not finite" in text


def test_a_missing_or_half_written_run_is_listed(tmp_path):
    random_study(tmp_path, n=60)
    torn = tmp_path / "runs" / "standard-50pct-seed1" / "predictions-mine_finetune-test-10.jsonl"
    torn.write_text(torn.read_text()[:-30])
    shutil.rmtree(tmp_path / "runs" / "step_by_step-100pct-seed2")
    text = report.write([tmp_path], tmp_path / "out")
    listed = text.split("missing or damaged")[1].split("\n\n")[0]
    assert f"{torn}:60" in listed
    assert "step_by_step-100pct-seed2/results.json is missing now" in listed
    assert len(listed.strip().splitlines()) == 3, "the heads and two runs"
    assert "higher" not in text.split("missing or damaged")[0], "nothing is read without answers"


def cut(path: pathlib.Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:20]))


def tear(path: pathlib.Path) -> None:
    path.write_text(path.read_text()[:-30])


def empty(path: pathlib.Path) -> None:
    path.write_text("")


def turn(path: pathlib.Path) -> None:
    path.write_text(path.read_text().replace('"correct": true', '"correct": false', 3))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            cut,
            "16 of 20 answers are right, results.json says 36 of 40; run sbs evaluate",
        ),
        (empty, "0 of 0 answers are right, results.json says 36 of 40"),
        (turn, "33 of 40 answers are right, results.json says 36 of 40"),
        (tear, "not valid JSON"),
    ],
)
@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_file_that_is_not_the_one_scored_is_left_out_alone(tmp_path, split, damage, reason):
    rows = [prediction(i, i >= 4, confidence=0.9, teacher_correct=True) for i in range(40)]
    for name in ("a", "b"):
        run = make_run(tmp_path / "runs" / name, "demo_finetune", rows)
        results = json.loads((run / "results.json").read_text())
        results["results"].append(results["results"][0] | {"split": "validation"})
        (run / "results.json").write_text(json.dumps(results))
        write_lines(run / "predictions-demo_finetune-validation-10.jsonl", rows)
    path = tmp_path / "runs" / "b" / f"predictions-demo_finetune-{split}-10.jsonl"
    damage(path)
    text = report.write([tmp_path / "runs"], tmp_path / "out")
    (line,) = [line for line in text.splitlines() if str(path) in line]
    assert line.startswith("b ") and reason.replace("SPLIT", split) in line
    calibrated = (tmp_path / "out" / "results.md").read_text()
    assert ("Calibration: b" in calibrated) == (split == "validation")
    assert calibrated.count("Cascade against the teacher alone") == 1


def test_a_damaged_validation_file_of_a_study_is_listed(tmp_path):
    random_study(tmp_path, n=60)
    torn = tmp_path / "runs" / "standard-100pct-seed0"
    (torn / "predictions-mine_finetune-validation-10.jsonl").write_text('{"id": "1", "inp')
    text = report.write([tmp_path], tmp_path / "out")
    assert "validation-10.jsonl:1: not valid JSON" in text.split("missing or damaged")[1]


def test_sizes_and_alphas_are_arms_with_a_picture(pictures, tmp_path):
    for seed in range(3):
        for size, parameters in (("small", 60_000_000), ("base", 220_000_000)):
            rows = [prediction(i, (i + seed) % 5 > 0, i % 3 > 0) for i in range(60)]
            row = add_row(tmp_path, "standard", 1.0, seed, rows, size=size)
            renamed = row | {"model_dir": f"runs/{size}-{seed}"}
            make_run(tmp_path / f"runs/{size}-{seed}", "mine_finetune", rows, parameters=parameters)
            lines = (tmp_path / "study.jsonl").read_text().splitlines()[:-1]
            write_lines(tmp_path / "study.jsonl", [*map(json.loads, lines), renamed])
    text = report.write([tmp_path], tmp_path / "out")
    assert "standard, small" in text and "standard, base" in text
    points = list(csv.DictReader(io.StringIO((tmp_path / "out" / "size.csv").read_text())))
    assert [float(p["parameters of the student"]) for p in points] == [220e6, 60e6]


def test_the_papers_numbers_stand_beside_matching_runs_only(tmp_path):
    for dataset, parameters in (("cqa", 247_577_856), ("cqa2", 247_577_856), ("svamp", 1000)):
        folder = tmp_path / dataset
        folder.mkdir()
        for seed in range(3):
            rows = [prediction(i, i % 4 > 0) for i in range(40)]
            row = add_row(folder, "step_by_step", 1.0, seed, rows, dataset)
            make_run(folder / row["model_dir"], f"{dataset}_step_by_step", rows, "text", parameters)
        report.write([folder], folder / "out")
        page = read_page(folder / "out").text
        matches = dataset == "cqa"
        assert ("63.29" in page and "Table 1" in page) == matches
        assert ("63.30" in page and "rerun" in page) == matches
        assert ("77.23" in page and "recomputed" in page) == matches


def test_every_number_of_others_has_its_provenance(shared):
    """Logs of the original code end where the file says; the teacher's are those of the data."""
    from sbs_jax.reporting import paper

    logs = json.loads((shared / "vectors" / "reference_runs_t5base.json").read_text())
    file = paper.numbers()
    assert {number["kind"] for number in file["numbers"]} == {"reported", "rerun", "recomputed"}
    for number in file["numbers"]:
        if number["kind"] == "rerun":
            last = logs[number["dataset"]]["eval_acc"][-1]
            assert number["accuracy"] == round(100 * last, 1)
    recomputed = {n["dataset"]: n["accuracy"] for n in file["numbers"] if n["arm"] == "teacher"}
    assert recomputed["cqa"] == round(100 * 943 / 1221, 2)
    assert recomputed["svamp"] == round(100 * 148 / 200, 2)


def test_single_runs_are_compared_with_their_teacher(pictures, tmp_path):
    rows = [prediction(i, i >= 15, i < 90) for i in range(100)]
    make_run(tmp_path / "runs" / "a", "demo_step_by_step", rows)
    make_run(tmp_path / "runs" / "b", "demo_finetune", rows)
    unfinished = tmp_path / "runs" / "c"
    write_lines(unfinished / "metrics.jsonl", [{"step": 1, "label/loss": 2.0}])
    with (unfinished / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "label/lo')  # torn: the run is writing
    write_lines(tmp_path / "runs" / "d" / "metrics.jsonl", [])
    (tmp_path / "runs" / "d" / "results.json").write_text('{"mixture": "x", "st')
    text = report.write([tmp_path / "runs"], tmp_path / "out")
    assert re.search(r"a +demo_step_by_step_label +test +0\.8500 \[.*\] \(85/100\) +0\.9000", text)
    assert re.search(r"c +not finished", text)
    assert re.search(r"d +\S+results.json: not valid JSON", text)
    assert re.search(r"a +100 +75 +10 +15 +0 +-0\.050 +\[.*\] +0\.4244", text)  # binom(25, .5)
    assert "3 runs: a, b, c" in read_page(tmp_path / "out").text
    curves = json.loads((tmp_path / "out" / "curves.json").read_text())
    assert [curve["label"] for curve in curves] == ["a", "b", "c"]
    assert [curve["arm"] for curve in curves] == ["step_by_step", "standard", "c"]


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["base/final", "large/final"], ["base/final", "large/final"]),
        (["a", "b"], ["a", "b"]),
        (["x/one/run", "y/one/run", "y/two"], ["x/one/run", "y/one/run", "two"]),
        (["m/1", "n/1", "n/2"], ["m/1", "n/1", "2"]),
        (["p/s/1", "q/s/1", "q/t/1"], ["p/s/1", "q/s/1", "t/1"]),
    ],
)
def test_runs_have_the_shortest_names_that_differ(folders, names):
    paths = [pathlib.Path("study", folder) for folder in folders]
    assert list(study_files.short_names(paths).values()) == names


def test_a_folder_given_twice_counts_once_and_one_without_a_run_is_listed(tmp_path):
    rows = [prediction(i, i > 3) for i in range(20)]
    run = make_run(tmp_path / "a", "demo_finetune", rows)
    (tmp_path / "empty").mkdir()
    text = report.write([run, tmp_path / "a" / "..", run, tmp_path / "empty"], tmp_path / "out")
    assert text.startswith("1 run: a\n")
    assert re.search(r"empty +neither it nor a folder in it holds study.jsonl", text)


def test_the_teacher_is_judged_by_the_metric_of_the_run(tmp_path):
    row = prediction(1, True) | {"gold": "( 8.0 + 2.0 )", "teacher_label": "(8 + 2)"}
    make_run(tmp_path, "svamp_step_by_step", [row], metric="equation")
    assert reader.read_run(tmp_path).predictions("test")[0]["teacher_correct"]


@pytest.mark.slow
def test_a_second_report_is_the_same(pictures, tmp_path):
    study = random_study(tmp_path / "study", n=40)
    report.write([study], tmp_path / "out")
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    report.write([study], tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first


GOOD = {"arm": "standard", "fraction": 1.0, "seed": 0, "correct": 80, "n": 100, "steps": 10}
GOOD |= {"train_examples": 400}
BAD = {"arm": "standard", "fraction": 1.0, "seed": 0, "error": "out of memory"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"study.jsonl:2: not valid JSON"),
        ("[]", r"study.jsonl:2: expected a JSON object"),
        ('{"arm": "standard"}', r"study.jsonl:2: not a row of a study: field 'fraction' must be a"),
        (json.dumps(GOOD | {"alpha": "0.5"}), r"jsonl:2: .* field 'alpha' must be a number"),
        (json.dumps(GOOD | {"alpha": [1]}), r"jsonl:2: .* field 'alpha' must be a number"),
        (json.dumps(BAD | {"alpha": "0.5"}), r"jsonl:2: .* field 'alpha' must be a number"),
        (json.dumps(BAD | {"fraction": None}), r"jsonl:2: .* field 'fraction' must be a number"),
        (json.dumps(BAD | {"seed": "x"}), r"jsonl:2: .* field 'seed' must be a whole number"),
        (json.dumps(GOOD | {"correct": 101}), r"study.jsonl:2: 101 correct of 100"),
        (json.dumps(GOOD), r"two rows for arm standard, fraction 1"),
    ],
)
def test_a_bad_row_is_named_and_nothing_written(tmp_path, line, message):
    (tmp_path / "study.jsonl").write_text(f"{json.dumps(GOOD)}\n{line}\n")
    with pytest.raises(UserError, match=message):
        report.write([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_empty_study_and_an_unknown_text_are_named(tmp_path):
    (tmp_path / "study.jsonl").write_text("")
    with pytest.raises(UserError, match="no finished run yet"):
        report.write([tmp_path], tmp_path / "out")
    (tmp_path / "study.json").write_text('{"titel": "x"}')
    with pytest.raises(UserError, match=r"study.json: unknown field 'titel'; known: baseline"):
        report.write([tmp_path], tmp_path / "out")


def test_the_verb_takes_several_folders(tmp_path, capsys):
    for name in ("a", "b"):
        make_run(tmp_path / name, "demo_finetune", [prediction(i, i > 3) for i in range(20)])
    out = tmp_path / "out"
    assert main(["report", "--runs", f"{tmp_path}/a", f"{tmp_path}/b", "--out", str(out)]) == 0
    assert "2 runs: a, b" in capsys.readouterr().out
    assert (out / "report.html").exists()


def test_the_verb_names_a_folder_without_runs(tmp_path, capsys):
    assert main(["report", "--runs", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert f"--runs {tmp_path}: neither it nor a folder in it holds" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def report_without(library: str, study: pathlib.Path, out: pathlib.Path):
    program = (
        "import sys, importlib.abc\n"
        "class Block(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] == {library!r}: raise ModuleNotFoundError(name)\n"
        "import importlib.util as u\n"
        "found = u.find_spec\n"
        f"u.find_spec = lambda n, p=None: None if n == {library!r} else found(n, p)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from sbs_jax.cli import main\n"
        "sys.exit(main(['report', '--runs', sys.argv[1], '--out', sys.argv[2]]))"
    )
    command = [sys.executable, "-c", program, str(study), str(out)]
    return subprocess.run(command, capture_output=True, text=True)


def test_without_matplotlib_all_but_the_pictures_is_made(tmp_path):
    done = report_without("matplotlib", random_study(tmp_path / "s", n=40), tmp_path / "o")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Without matplotlib there are no pictures; pip install 'sbs_jax[report]'" in done.stdout
    names = sorted(path.name for path in (tmp_path / "o").iterdir())
    assert names == ["report.html", "results.json", "results.md"]
    assert "Without matplotlib" in read_page(tmp_path / "o").text


def test_without_jinja2_the_tables_are_made(tmp_path):
    done = report_without("jinja2", random_study(tmp_path / "s", n=40), tmp_path / "o")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Without jinja2 there is no report.html; pip install" in done.stdout
    assert (tmp_path / "o" / "results.md").exists() and (tmp_path / "o" / "accuracy.png").exists()
    assert not (tmp_path / "o" / "report.html").exists()


def test_without_scipy_the_extra_is_named(tmp_path):
    done = report_without("scipy", random_study(tmp_path / "s", n=40), tmp_path / "o")
    assert done.returncode == 2
    assert done.stderr == "sbs: error: scipy is missing; pip install 'sbs_jax[report]'\n"
    assert not (tmp_path / "o").exists()
