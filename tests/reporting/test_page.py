"""Reports of studies and runs, from files made here: rows with round, plainly invented numbers."""

import base64
import html.parser
import json
import pathlib
import re
import subprocess
import sys

import pytest

from sbs_jax.cli import main
from sbs_jax.errors import UserError
from sbs_jax.metrics.accuracy import Accuracy
from sbs_jax.reporting import page as report
from sbs_jax.runs import reader

N = 100
# arm -> fraction -> correct of 100 by seed
CORRECT = {
    "standard": {0.5: (60, 62, 64), 1.0: (80, 84, 94)},
    "standard_2x": {0.5: (60, 70, 80), 1.0: (90, 92, 94)},
    "step_by_step": {0.5: (80, 83, 86), 1.0: (90, 91, 92)},
}
TEACHER = (90, 92, 88)
TEXTS = {
    "title": "Invented rows, only to test the report",
    "intro": "Nothing here was measured.",
    "baseline": "always yes",
    "caveats": ["It shows nothing about <wombats>."],
}


def study_row(arm: str, fraction: float, seed: int, correct: int) -> dict:
    return {
        "arm": arm,
        "fraction": fraction,
        "seed": seed,
        "correct": correct,
        "n": N,
        "steps": 20 if arm.endswith("2x") else 10,
        "train_examples": int(400 * fraction),
        "cpu_seconds": 25.0 if arm == "step_by_step" else 10.0,
        "teacher": Accuracy(TEACHER[seed], N).to_json(),
        "majority": Accuracy(61, N).to_json(),
        "model_dir": f"runs/{arm}-{fraction}-{seed}",
    }


def prediction(number: int, correct: bool, rationale: str | None) -> dict:
    return {
        "id": str(number),
        "input": f"question {number} <b>?</b>",
        "gold": "yes",
        "label": "yes" if correct else "no",
        "correct": correct,
        "rationale": rationale,
        "teacher_label": " " if number == 0 else "yes",
        "teacher_rationale": "because so",
    }


def write_lines(path: pathlib.Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_run(
    folder: pathlib.Path, mixture: str, correct: int, rationales: bool, metric: str = "text"
) -> pathlib.Path:
    """A finished MODEL_DIR with 10 logged steps, an evaluation at 5 and 10, and 100 predictions."""
    losses = ("label/loss", "rationale/loss") if rationales else ("label/loss",)
    logged = [
        {"step": step, "loss": 1.0 / step, **dict.fromkeys(losses, 2.0 / step)}
        for step in range(1, 11)
    ]
    logged += [{"step": step, "validation/accuracy": step / 20} for step in (5, 10)]
    write_lines(folder / "metrics.jsonl", logged)
    result = {
        "task": f"{mixture}_label",
        "split": "test",
        **Accuracy(correct, N).to_json(),
        "teacher": Accuracy(90, N).to_json(),
        "majority": None,
    }
    results = {
        "mixture": mixture,
        "step": 10,
        "metric": metric,
        "results": [result],
        "model": {"parameters": 12345},
        "versions": {"jax": "0.0-test"},
    }
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    rows = [
        prediction(i, i >= N - correct, "because I say so" if rationales else None)
        for i in range(N)
    ]
    write_lines(folder / "predictions-demo_label-test-10.jsonl", rows)
    return folder


def make_study(folder: pathlib.Path, seeds: int = 3, runs: bool = True) -> pathlib.Path:
    rows = [
        study_row(arm, fraction, seed, correct)
        for arm, fractions in CORRECT.items()
        for fraction, by_seed in fractions.items()
        for seed, correct in enumerate(by_seed[:seeds])
    ]
    write_lines(folder / "study.jsonl", rows)
    (folder / "study.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    for row in rows if runs else []:
        mixture = "demo_step_by_step" if row["arm"] == "step_by_step" else "demo_finetune"
        rationales = row["arm"] == "step_by_step"
        make_run(folder / row["model_dir"], mixture, row["correct"], rationales)
    return folder


class Page(html.parser.HTMLParser):
    """The text of a page, the addresses it loads, and whether its tags are balanced."""

    VOID = ("meta", "img", "input", "br", "link")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
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


@pytest.fixture(scope="module")
def study_out(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, str]:
    folder = make_study(tmp_path_factory.mktemp("study"))
    return folder / "out", report.write([folder], folder / "out")


def test_a_study_gives_page_pictures_and_their_data(study_out):
    out, _ = study_out
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        "accuracy.json",
        "accuracy.png",
        "curves.json",
        "curves.png",
        "report.html",
    ]
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    cells = json.loads((out / "accuracy.json").read_text())["cells"]
    assert cells[0]["by_seed"] == {"0": 0.60, "1": 0.62, "2": 0.64}


def test_the_page_needs_no_other_file(study_out):
    out, _ = study_out
    addresses = read_page(out).addresses
    assert len(addresses) == 2
    for address, name in zip(addresses, ("accuracy.png", "curves.png"), strict=True):
        start = "data:image/png;base64,"
        assert address.startswith(start)
        assert base64.b64decode(address.removeprefix(start)) == (out / name).read_bytes()


def test_the_tables_are_in_the_text_and_on_the_page(study_out):
    out, text = study_out
    page = read_page(out).text
    # Worked by hand: 60, 62, 64 of 100: sd .02, t(2 df) 4.3027, half width .0497.
    for field in ("0.620", "[0.570, 0.670]", "200 (50%)", "standard (2x steps)", "(always yes)"):
        assert field in text
        assert field in page
    # The teacher: 90 + 92 + 88 of 300 different questions.
    assert re.search(r"teacher +0\.900 +\[0\.861, 0\.929\] +300", text)


def test_differences_are_paired_and_read_with_their_interval(study_out):
    _, text = study_out
    half = [line for line in text.splitlines() if line.startswith("200 (50%)")]
    assert any(
        "step-by-step minus standard " in line and "+0.210" in line and line.endswith("higher")
        for line in half
    )
    full = [line for line in text.splitlines() if line.startswith("400 (100%)")]
    # 10, 7 and -2 points: +.05 +- .155.
    assert any(
        "+0.050  [-0.105, +0.205]" in line and "no difference shown" in line for line in full
    )


def test_what_it_shows_and_does_not_show_is_said(study_out):
    out, text = study_out
    page = read_page(out).text
    assert "It shows nothing about <wombats>." in page
    assert "It shows nothing about <wombats>." in text
    assert "Not shown to be above the untrained guess (always yes): standard at 200 (50%)" in page
    assert "step-by-step cost 2.50 times standard" in page
    assert "not corrected for the 6 comparisons" in page


def test_rationales_stand_side_by_side(study_out):
    out, _ = study_out
    page = read_page(out).text
    assert "step-by-step, 400 (100%) labels, seed 0: 90 right and 10 wrong answers" in page
    assert "because I say so" in page
    assert "✗ (no readable answer)" in page
    assert "question 0 <b>?</b>" in page  # shown as text, not as HTML
    assert page.count("✗ no") == 10
    # 20 right and 10 wrong students; the teacher is right in all 30 rows but the unreadable one.
    assert page.count("✓ yes") == 20 + 29


def test_one_seed_has_no_interval_and_shows_nothing(tmp_path):
    text = report.write([make_study(tmp_path, seeds=1, runs=False)], tmp_path / "out")
    assert "one seed: no interval, nothing shown" in text
    assert "over one seed per cell" in text
    assert not (tmp_path / "out" / "curves.png").exists()


def test_a_shared_test_set_counts_once(tmp_path):
    rows = [study_row("standard", 1.0, seed, 80) for seed in range(3)]
    for row in rows:
        row["teacher"] = Accuracy(77, N).to_json()
    write_lines(tmp_path / "study.jsonl", rows)
    text = report.write([tmp_path], tmp_path / "out")
    assert re.search(r"teacher +0\.770 +\[.*\] +100\n", text)


def test_single_runs_are_compared_with_their_teacher(tmp_path):
    make_run(tmp_path / "runs" / "a", "demo_step_by_step", 85, rationales=True)
    make_run(tmp_path / "runs" / "b", "demo_finetune", 70, rationales=False)
    unfinished = tmp_path / "runs" / "c"
    write_lines(unfinished / "metrics.jsonl", [{"step": 1, "label/loss": 2.0}])
    with (unfinished / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "label/lo')  # torn: the run is writing
    text = report.write([tmp_path / "runs"], tmp_path / "out")
    assert re.search(r"a +demo_step_by_step_label +test +0\.8500 \[.*\] \(85/100\) +0\.9000", text)
    assert re.search(r"c +not finished", text)
    page = read_page(tmp_path / "out")
    assert "3 runs: a, b, c" in page.text
    assert len(page.addresses) == 1
    curves = json.loads((tmp_path / "out" / "curves.json").read_text())
    assert [curve["label"] for curve in curves] == ["a", "b", "c"]
    assert [curve["arm"] for curve in curves] == ["step_by_step", "standard", "c"]


def test_the_teacher_is_judged_by_the_metric_of_the_run(tmp_path):
    make_run(tmp_path, "svamp_step_by_step", 50, rationales=True, metric="equation")
    row = prediction(1, True, "a + b")
    row |= {"gold": "( 8.0 + 2.0 )", "teacher_label": "(8 + 2)"}
    write_lines(tmp_path / "predictions-demo_label-test-10.jsonl", [row])
    assert reader.read_run(tmp_path).test_predictions()[0]["teacher_correct"]


def test_a_second_report_replaces_the_first(tmp_path):
    study = make_study(tmp_path / "study", runs=False)
    report.write([study], tmp_path / "out")
    first = (tmp_path / "out" / "report.html").read_bytes()
    report.write([study], tmp_path / "out")
    assert (tmp_path / "out" / "report.html").read_bytes() == first
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"study.jsonl:2: not valid JSON"),
        ("[]", r"study.jsonl:2: expected a JSON object"),
        ('{"arm": "standard"}', r"study.jsonl:2: field 'fraction' is missing"),
        (json.dumps(study_row("standard", 1.0, 0, 101)), r"study.jsonl:2: 101 correct of 100"),
        (json.dumps(study_row("standard", 1.0, 0, 80)), r"two rows for arm standard, fraction 1"),
    ],
)
def test_a_bad_row_is_named_and_nothing_written(tmp_path, line, message):
    good = json.dumps(study_row("standard", 1.0, 0, 80))
    (tmp_path / "study.jsonl").write_text(f"{good}\n{line}\n")
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
        make_run(tmp_path / name, "demo_finetune", 70, rationales=False)
    out = tmp_path / "out"
    assert main(["report", "--runs", f"{tmp_path}/a", f"{tmp_path}/b", "--out", str(out)]) == 0
    assert "2 runs: a, b" in capsys.readouterr().out
    assert (out / "report.html").exists()


def test_the_verb_names_a_folder_without_runs(tmp_path, capsys):
    assert main(["report", "--runs", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert f"--runs {tmp_path}: neither it nor a folder in it holds" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("library", ["scipy", "matplotlib", "jinja2"])
def test_a_missing_library_names_the_extra(tmp_path, library):
    study = make_study(tmp_path / "study", runs=False)
    program = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "from sbs_jax import cli\n"
        "sys.exit(cli.main(['report', '--runs', sys.argv[1], '--out', sys.argv[2]]))"
    )
    command = [sys.executable, "-c", program, str(study), str(tmp_path / "o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"sbs: error: {library} is missing; pip install 'sbs_jax[report]'\n"
    assert not (tmp_path / "o").exists()
