"""The detailed tables of a report, each number recomputed from the files it was made of."""

import csv
import io
import json
import pathlib
import statistics

import numpy as np
import pytest
from helpers.studies import LABELS, add_row, make_run, prediction, write_lines
from scipy import optimize, stats

from sbs_jax.reporting import answers as reader_answers
from sbs_jax.reporting import figures, labels
from sbs_jax.reporting import page as report
from sbs_jax.runs import reader

PARAMETERS = {"small": 60_000_000, "base": 220_000_000}
TEACHER = 540e9


def answers(n: int, seed: int) -> list[dict]:
    """Answers with probabilities of all labels, too sure of them, and rationales."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        logits = rng.normal(0, 2, 3)
        true = np.exp(logits / 2) / np.exp(logits / 2).sum()
        shares = (np.exp(logits) / np.exp(logits).sum()).round(6)
        label, gold = LABELS[int(shares.argmax())], LABELS[rng.choice(3, p=true)]
        row = prediction(i, True, bool(rng.random() < 0.4), label=label, correct=label == gold)
        row |= {"gold": gold, "rationale": f"{label} because so"}
        row["teacher_label"] = gold if rng.random() < 0.4 else "neither"
        named = dict(zip(LABELS, shares.tolist(), strict=True))
        rows.append(row | {"confidence": float(shares.max()), "label_probabilities": named})
    return rows


def say(row: dict, label: str) -> None:
    """Another label in the place of the one that the student was surest of."""
    named = row["label_probabilities"]
    named[label], named[row["label"]] = named[row["label"]], named[label]
    row["label"], row["rationale"] = label, f"{label} because so"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> pathlib.Path:
    """A study of two sizes with three seeds each, and its report in out/."""
    folder = tmp_path_factory.mktemp("study")
    golds = answers(120, 7)
    for number, (size, parameters) in enumerate(PARAMETERS.items()):
        for seed in range(3):
            rows = answers(120, 10 * number + seed)
            for i, (row, other) in enumerate(zip(rows, golds, strict=True)):  # one test set for all
                row["gold"], row["teacher_label"] = other["gold"], other["teacher_label"]
                if size == "base" and i % 4:
                    say(row, row["gold"])
                row["correct"] = row["label"] == row["gold"]
            row = add_row(folder, f"step_by_step-{size}", 1.0, seed, rows)
            mixture = f"mine_step_by_step-{size}"
            run = make_run(folder / row["model_dir"], mixture, rows, "text", parameters)
            pace = [{"step": 10, "examples_per_second": 100.0 + seed}]
            pace += [{"step": 10, "test/seconds_per_question": (number + 1) / 1000 + seed / 5000}]
            with (run / "metrics.jsonl").open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in pace)
            validation = run / f"predictions-{mixture}-validation-10.jsonl"
            write_lines(validation, answers(80, 100 + 10 * number + seed))
    lines = map(json.loads, (folder / "study.jsonl").read_text().splitlines())
    rows = [
        line | dict(zip(("arm", "size"), line["arm"].split("-"), strict=True)) for line in lines
    ]
    write_lines(folder / "study.jsonl", rows)
    texts = {"teacher_parameters": TEACHER, "search": ["Search, step-by-step: 100% beats it."]}
    (folder / "study.json").write_text(json.dumps(texts))
    report.write([folder], folder / "out")
    return folder


def tables_of(made: pathlib.Path) -> dict[str, list[dict[str, str]]]:
    (section,) = json.loads((made / "out" / "results.json").read_text())
    return {
        table["caption"]: [dict(zip(table["heads"], line, strict=True)) for line in table["lines"]]
        for table in section["tables"]
    }


def read(made: pathlib.Path, size: str, seed: int, split: str) -> list[dict]:
    folder = made / "runs" / f"step_by_step-{size}-100pct-seed{seed}"
    (path,) = folder.glob(f"predictions-*-{split}-10.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def expected_error(sure: np.ndarray, right: np.ndarray) -> float:
    bins = np.minimum((sure * 10).astype(int), 9)
    return sum((bins == b).mean() * abs((sure - right)[bins == b].mean()) for b in set(bins))


def test_a_right_answer_counts_for_its_label_however_the_student_writes_it(tmp_path):
    """A vocabulary may write one space for two; the run says what is right."""
    rows = [
        prediction(i, True, gold=gold, label=" ".join(gold.split()), correct=True)
        for i, gold in enumerate(["no  deal", "deal"] * 10)
    ]
    made = make_run(tmp_path / "run", "mine_finetune", rows)
    scores, confusion = labels.label_tables("mine", [reader_answers.read(reader.read_run(made))])
    assert [line[1:4] for line in scores.lines] == [("1.000",) * 3] * 2
    assert confusion.heads[1:] == ("deal", "no  deal")


@pytest.mark.parametrize("size", PARAMETERS)
def test_calibration_is_that_of_the_prediction_files(made, size):
    start = f"Calibration: step-by-step, {size}, 400 (100%) labels, seed 0; "
    ((caption, lines),) = ((c, t) for c, t in tables_of(made).items() if c.startswith(start))
    rows = read(made, size, 0, "test")
    sure = np.array([row["confidence"] for row in rows])
    right = np.array([float(row["label"] == row["gold"]) for row in rows])
    assert sum(int(line["n"]) for line in lines) == len(rows)
    for line in lines:
        low, high = map(float, line["confidence"].split(" to "))
        inside = (sure >= low) & (sure < high if high < 1 else sure <= 1)
        assert [line["n"], line["mean"], line["accuracy"]] == [
            str(inside.sum()), f"{sure[inside].mean():.3f}", f"{right[inside].mean():.3f}"
        ]  # fmt: skip
    assert f"ECE {expected_error(sure, right):.3f}, " in caption

    def loss(temperature: float) -> float:
        shares = [list(row["label_probabilities"].values()) for row in validation]
        scaled = np.maximum(shares, 1e-12) ** (1 / temperature)
        gold = [LABELS.index(row["gold"]) for row in validation]
        return -np.log(scaled[np.arange(len(gold)), gold] / scaled.sum(1)).sum()

    validation = read(made, size, 0, "validation")
    best = optimize.minimize_scalar(loss, bounds=(0.1, 10), method="bounded").x
    assert best > 1.3, "the student was made too sure of itself"
    after, temperature = caption.split(", ")[-1].split(" at the temperature ")
    assert float(temperature.split()[0]) == pytest.approx(best, abs=0.03)
    scaled = np.array([list(r["label_probabilities"].values()) for r in rows]) ** (1 / best)
    error = expected_error((scaled / scaled.sum(1, keepdims=True)).max(1), right)
    assert float(after) == pytest.approx(error, abs=0.01)


@pytest.mark.parametrize("size", PARAMETERS)
def test_cascades_are_those_of_the_prediction_files(made, size):
    name = f"step-by-step, {size}, 400 (100%) labels, seed 0"
    shown = tables_of(made)
    (lines,) = (t for c, t in shown.items() if c.startswith(f"Cascade: {name}"))
    (chosen,) = (
        t for c, t in shown.items() if c.startswith(f"Cascade against the teacher alone: {name}")
    )
    scores = {}
    for split in ("validation", "test"):
        rows = read(made, size, 0, split)
        columns = [[r["confidence"] for r in rows]]
        columns += [[r[field] == r["gold"] for r in rows] for field in ("label", "teacher_label")]
        sure, student, teacher = (np.array(column, float) for column in columns)
        thresholds = [float(line["confidence from"]) for line in lines[:-1]]
        scores[split] = {t: np.where(sure >= t, student, teacher) for t in thresholds}
        kept = {t: sure >= t for t in thresholds}
    for line in lines[:-1]:
        t = float(line["confidence from"])
        assert int(line["kept by the student"]) == kept[t].sum()
        assert line["its accuracy"] == f"{student[kept[t]].mean():.3f}"
        assert line["student, then teacher"] == f"{scores['test'][t].mean():.3f}"
        assert line["cost saved"] == f"{kept[t].mean():.1%}"
    best = max(thresholds, key=lambda t: (round(scores["validation"][t].sum()), -t))
    (line,) = chosen
    assert float(line["threshold"]) == best
    together = scores["test"][best]
    counts = (together > teacher).sum(), (together < teacher).sum()
    assert (int(line["cascade only"]), int(line["teacher only"])) == counts
    p = stats.binomtest(int(counts[0]), int(sum(counts))).pvalue
    assert line["McNemar p"] == (f"{p:.4f}" if p >= 0.0001 else "<0.0001")


def test_rationales_are_those_of_the_prediction_files(made):
    pytest.importorskip("rouge_score")
    sacrebleu = pytest.importorskip("sacrebleu")
    (lines,) = (t for c, t in tables_of(made).items() if c.startswith("Rationales:"))
    assert len(lines) == 6
    for line in lines:
        size, seed = line["run"].split(", ")[1], int(line["run"][-1])
        rows = read(made, size, seed, "test")
        pairs = [(row["teacher_rationale"].split(), row["rationale"].split()) for row in rows]
        common = [len(set(a) & set(b)) for a, b in pairs]  # "because so" in order
        f1 = [2 * c / (len(a) + len(b)) for c, (a, b) in zip(common, pairs, strict=True)]
        assert (line["n"], line["ROUGE-L"]) == (str(len(rows)), f"{statistics.fmean(f1):.3f}")
        texts = [[row[name] for row in rows] for name in ("rationale", "teacher_rationale")]
        bleu = sacrebleu.corpus_bleu(texts[0], [texts[1]], force=True).score
        assert line["BLEU"] == f"{bleu:.1f}"
        assert (line["same text"], line["names its label"]) == ("0.000", "1.000")
        assert line["teacher's does"] == "0.000"


def test_costs_and_sizes_are_those_of_the_runs(made):
    shown = tables_of(made)
    (costs,) = (t for c, t in shown.items() if c.startswith("Cost of a run"))
    assert {line["examples/s"] for line in costs} == {"101"}  # the median of one, over 100 to 102
    assert {(line["updates"], line["CPU s"]) for line in costs} == {("10", "10.0")}
    sizes = {line["answers"]: line for line in shown["Size and time of an answer"]}
    for number, (size, count) in enumerate(PARAMETERS.items()):
        line = sizes[f"step-by-step, {size}"]
        assert line["parameters"] == f"{count:,}"
        assert line["float32 MB"] == f"{4 * count / 1e6:,.1f}"
        assert line["ms per answer"] == f"{number + 1 + (0 + 200 + 400) / 3 / 1000:.3g}"
        assert line["teacher is x times larger"] == f"{TEACHER / count:,.0f}"
        same = next(c for c in costs if c["arm"] == f"step-by-step, {size}")
        assert (same["parameters"], same["float32 MB"]) == (line["parameters"], line["float32 MB"])
    assert sizes["teacher"]["parameters"] == "540,000,000,000"


def test_the_smallest_winners_are_those_that_the_table_shows(made):
    to_teacher = tables_of(made)["Student minus teacher in test accuracy, on the same questions"]
    points = list(csv.DictReader(io.StringIO((made / "out" / "winners.csv").read_text())))
    assert len(points) == len(to_teacher) == 2
    for point, line in zip(points, to_teacher, strict=True):
        assert int(float(point["parameters"])) == PARAMETERS[point["arm"].split("@")[1]]
        wins = line["reading"] == "higher" and float(line["Holm p"].strip("<")) < 0.05
        assert point["train_examples"] == ("400" if wins else "")
    assert {point["train_examples"] for point in points} == {"400", ""}, "one wins, one does not"


def test_the_smallest_winner_is_named_in_the_verdict(made):
    (section,) = json.loads((made / "out" / "results.json").read_text())
    assert section["verdict"][-2] == (
        "Smallest student shown to beat the teacher: step-by-step, base (220M parameters, 1/2,455 "
        "of the teacher's) with 400 (100%) labels."
    )


def test_the_path_of_a_search_stands_under_the_verdict(made):
    (section,) = json.loads((made / "out" / "results.json").read_text())
    assert section["verdict"][-1] == "Search, step-by-step: 100% beats it."
    assert "100% beats it." in (made / "out" / "report.html").read_text()


def test_runs_without_a_row_are_listed_with_what_is_there_of_them(tmp_path):
    """A study that was killed: one run has a row, one a folder, one nothing."""
    for seed in range(2):
        add_row(tmp_path, "step_by_step", 1.0, seed, answers(60, 0))
    lines = (tmp_path / "study.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "study.jsonl").write_text(lines[0])
    planned = [
        {"arm": "step_by_step", "fraction": 1.0, "seed": seed,
         "model_dir": f"runs/step_by_step-100pct-seed{seed}"}
        for seed in range(3)
    ]  # fmt: skip
    (tmp_path / "study.json").write_text(json.dumps({"planned": planned}))
    text = report.write([tmp_path], tmp_path / "out")
    listed = text.split("missing or damaged")[1].split("\n\n")[0].splitlines()[2:]
    assert [line.split(maxsplit=3)[1:] for line in listed] == [
        ["100%", "1", "begun and not finished; sbs study continues"],
        ["100%", "2", "not begun; sbs study continues"],
    ]


def test_seeds_are_a_mean_in_a_band():
    plt = pytest.importorskip("matplotlib.pyplot")
    figure, axes = plt.subplots()
    seeds = [{1: 1.0, 2: 3.0}, {1: 3.0, 2: 8.0, 3: 9.0}]
    figures._draw_seeds(axes, seeds, {"color": "black"})
    ((line,), (band,)) = axes.lines, axes.collections
    assert line.get_xydata().tolist() == [[1, 2], [2, 5.5]]
    corners = band.get_paths()[0].vertices
    assert {tuple(corner) for corner in corners} == {(1, 1), (1, 3), (2, 3), (2, 8)}
    plt.close(figure)


def test_single_runs_are_those_of_their_files(tmp_path):
    rows = answers(90, 3)
    report.write([make_run(tmp_path / "run", "mine_finetune", rows)], tmp_path / "out")
    shown = tables_of(tmp_path)
    (line,) = next(t for c, t in shown.items() if c.startswith("Accuracy, 95% Wilson"))
    for head, field in (("student", "label"), ("teacher", "teacher_label")):
        right = sum(row[field] == row["gold"] for row in rows)
        low, high = stats.binomtest(right, 90).proportion_ci(method="wilson")
        assert line[head] == f"{right / 90:.4f} [{low:.4f}, {high:.4f}] ({right}/90)"
    (pair,) = shown["Student and teacher on the same test questions"]
    student, teacher = ([r[f] == r["gold"] for r in rows] for f in ("label", "teacher_label"))
    only = [sum(a and not b for a, b in zip(*of, strict=True))
            for of in ((student, teacher), (teacher, student))]  # fmt: skip
    assert [int(pair["student only"]), int(pair["teacher only"])] == only
    p = stats.binomtest(only[0], sum(only)).pvalue
    assert pair["McNemar p"] == (f"{p:.4f}" if p >= 0.0001 else "<0.0001")
