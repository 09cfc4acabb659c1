"""New questions to a trained student: the same answers as in evaluation, in order, resumable."""

import contextlib
import dataclasses
import datetime
import decimal
import importlib
import json
import math
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from helpers import annotate_cli
from helpers.serving import serving
from helpers.stub_server import StubServer
from pyarrow import parquet

from sbs_jax.cli import main
from sbs_jax.configs import OptimizerConfig, T5Config, TrainConfig
from sbs_jax.datasets import records, registry
from sbs_jax.errors import UserError
from sbs_jax.inference import predict, prediction_files, scoring
from sbs_jax.inference.predictor import Predictor
from sbs_jax.inference.student import find_run
from sbs_jax.input_pipeline import vocabularies
from sbs_jax.metrics.accuracy import Accuracy
from sbs_jax.training import trainer
from sbs_jax.utils import paths

importlib.import_module("sbs_jax.tasks")

ROOT = Path(__file__).resolve().parents[2]
N = 20
MODEL = T5Config(
    vocab_size=256,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=8,
    mlp_dim=32,
)


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    """The MODEL_DIR of a short run."""
    model_dir = tmp_path_factory.mktemp("student") / "run"
    config = TrainConfig(
        model_dir=str(model_dir),
        mixture_or_task_name="demo_step_by_step",
        task_feature_lengths={"inputs": 24, "targets": 12},
        train_steps=100,
        model=MODEL,
        vocabulary="demo",
        optimizer=OptimizerConfig(learning_rate=2e-2),
        batch_size=8,
        eval_period=100,
        eval_batch_size=4,
        eval_num_examples=N,
        output_rationale=True,
        row_lengths=(48, 48),
    )
    trainer.train(config)
    return model_dir


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """The first questions of the demo's test split, with gold labels and teacher outputs."""
    return [
        {
            name: value
            for name, value in dataclasses.asdict(record).items()
            if value not in (None, ())
        }
        for record in list(registry.get("demo").read("test"))[:N]
    ]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(student: Path, source: str, target: Path, *flags: str) -> int:
    given = [f"--model_dir={student}", f"--input={source}", f"--output={target}"]
    return main(["predict", *given, *flags])


def test_answers_are_those_of_the_evaluation(student, rows, tmp_path):
    source = write(tmp_path / "in.jsonl", rows)
    assert run(student, source, tmp_path / "out.jsonl", "--output_rationale", "--confidence") == 0
    (evaluated,) = map(lines, student.glob("predictions-demo_label-test-*.jsonl"))
    for row in evaluated:
        del row["correct"], row["teacher_correct"]
    expected = [{k: v for k, v in row.items() if v is not None} for row in evaluated]
    assert lines(tmp_path / "out.jsonl") == expected
    assert len({row["rationale"] for row in expected}) > 1, "a constant student tests nothing"


def test_answers_to_questions_with_a_label_are_scored(student, rows, tmp_path, capsys):
    questions = [*rows, {"input": rows[0]["input"]}, {"input": rows[1]["input"], "label": ""}]
    out = tmp_path / "out.jsonl"
    assert run(student, write(tmp_path / "in.jsonl", questions), out) == 0
    results = json.loads((student / "results.json").read_text())["results"]
    (test,) = (Accuracy.from_json(row) for row in results if row["split"] == "test")
    assert f"{out}: accuracy {test} of the questions with a label (metric text)" in (
        capsys.readouterr().err.splitlines()
    )


def test_without_labels_or_ids_other_fields_travel_along(student, rows, tmp_path):
    questions = [{"input": row["input"], "note": {"page": i}} for i, row in enumerate(rows[:3])]
    source = write(tmp_path / "in.jsonl", questions)
    assert run(student, source, tmp_path / "out.jsonl") == 0
    answers = lines(tmp_path / "out.jsonl")
    assert [list(row) for row in answers] == [["id", "input", "note", "label"]] * 3
    assert [(row["id"], row["note"]["page"]) for row in answers] == [("1", 0), ("2", 1), ("3", 2)]


def test_csv_and_every_batch_size_give_the_same_answers(student, rows, tmp_path):
    source = write(tmp_path / "in.jsonl", [{"input": row["input"]} for row in rows])
    table = "\ufeffnr,input\r\n" + "".join(
        f'{i},"{row["input"]}"\r\n' for i, row in enumerate(rows)
    )
    (tmp_path / "in.csv").write_text(table, encoding="utf-8", newline="")
    assert run(student, source, tmp_path / "a.jsonl") == 0
    assert run(student, str(tmp_path / "in.csv"), tmp_path / "b.jsonl", "--batch_size=7") == 0
    labels = [[row["label"] for row in lines(tmp_path / name)] for name in ("a.jsonl", "b.jsonl")]
    assert labels[0] == labels[1]
    assert [row["nr"] for row in lines(tmp_path / "b.jsonl")] == [str(i) for i in range(N)]


def test_the_column_of_the_question_is_a_flag(student, rows, tmp_path):
    source = write(tmp_path / "in.jsonl", [{"input": row["input"]} for row in rows[:3]])
    other = write(tmp_path / "other.jsonl", [{"review": row["input"]} for row in rows[:3]])
    assert run(student, source, tmp_path / "a.jsonl") == 0
    assert run(student, other, tmp_path / "b.jsonl", "--text=review") == 0
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "b.jsonl").read_text()


@pytest.mark.parametrize("kept", [0, 5, N - 1, N])
def test_a_stopped_file_goes_on_and_ends_the_same(student, rows, tmp_path, kept, monkeypatch):
    source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert run(student, source, out) == 0
    whole = out.read_bytes()
    begun = whole.splitlines(keepends=True)
    out.write_bytes(b"".join(begun[:kept]) + (begun[kept][:9] if kept < N else b""))
    asked = []
    real = Predictor.answer
    monkeypatch.setattr(
        Predictor,
        "answer",
        lambda self, records, *rest: asked.extend(records) or real(self, records, *rest),
    )
    assert run(student, source, out) == 0
    assert out.read_bytes() == whole
    assert len(asked) == N - kept


def test_what_was_answered_is_on_disk_when_a_later_batch_fails(
    student, rows, tmp_path, monkeypatch
):
    monkeypatch.setattr(predict, "_BATCHES_AT_ONCE", 1)
    real, calls = Predictor.answer, []

    def fails_third(self, records, *rest):
        calls.append(records)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, records, *rest)

    monkeypatch.setattr(Predictor, "answer", fails_third)
    source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert run(student, source, out) == 130
    assert len(lines(out)) == 8


BAD = ["{", "[1]", '{"question": "x"}', '{"input": " "}', '{"input": 3}', '{"input": "\\ud800"}']


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_row_is_named_before_anything_is_written(student, rows, tmp_path, capsys, bad):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps(rows[0]) + "\n\n" + bad + "\n")
    assert run(student, str(source), out) == 2
    assert f"{source}:3: " in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_bad_rows_are_skipped_counted_and_do_not_hinder_going_on(student, rows, tmp_path, capsys):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    good = [json.dumps({"input": row["input"]}) for row in rows[:4]]
    raw = "\n".join([good[0], *BAD, good[1], good[2], "{", good[3]]).encode()
    source.write_bytes(raw + b'\n{"input": "\xff"}\n')
    assert run(student, str(source), out, "--skip_bad_rows") == 0
    told = capsys.readouterr().err
    assert f"skipped: {source}:10: not valid JSON" in told
    assert f"skipped: {source}:12: not UTF-8" in told
    assert f"{source}: {len(BAD) + 2} bad rows skipped, 4 rows left" in told
    whole = out.read_text()
    out.write_text("".join(whole.splitlines(keepends=True)[:2]))
    assert run(student, str(source), out, "--skip_bad_rows") == 0
    assert out.read_text() == whole
    assert [row["id"] for row in lines(out)] == ["1", "8", "9", "11"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question\nx\n", "in.csv:1: the header must name a column input"),
        ("question\nx\n", "it has question; give the column of the question with --text"),
        ("input,input\nx,y\n", "none twice"),
        ("", "it has nothing"),
        ("input,n\nfine,1\nx\n", "in.csv:3: 1 cells under 2 columns"),
        ('input,n\n"two\nlines",1\n,2\n', "in.csv:4: field 'input' is missing"),
    ],
)
def test_csv_mistakes_name_the_line(student, tmp_path, capsys, text, message):
    (tmp_path / "in.csv").write_text(text)
    assert run(student, str(tmp_path / "in.csv"), tmp_path / "out.jsonl") == 2
    assert message in capsys.readouterr().err


def refused(capsys, student: Path, source: str, out: Path, *flags: str) -> str:
    before = out.read_bytes() if out.exists() else None
    capsys.readouterr()
    assert run(student, source, out, *flags) == 2
    assert (out.read_bytes() if out.exists() else None) == before
    return capsys.readouterr().err


def test_answers_of_others_are_never_continued(student, rows, tmp_path, capsys):
    source, out = write(tmp_path / "in.jsonl", rows[:3]), tmp_path / "out.jsonl"
    out.write_text('{"id": "1"}\n')
    assert "does not say from which student" in refused(capsys, student, source, out)
    out.unlink()
    assert run(student, source, out) == 0
    assert "output_rationale was False" in refused(
        capsys, student, source, out, "--output_rationale"
    )
    other = write(tmp_path / "other.jsonl", [rows[0], {**rows[1], "input": "x"}])
    message = refused(capsys, student, other, out)
    assert f"out.jsonl:2: not the answer to {other}:2" in message
    fewer = write(tmp_path / "fewer.jsonl", rows[:2])
    assert "out.jsonl:3: not the answer to any row" in refused(capsys, student, fewer, out)
    note = out.with_name("out.jsonl.made_by.json")
    note.write_text(note.read_text().replace('"step": 100', '"step": 10'))
    assert "step was 10, now 100" in refused(capsys, student, source, out)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--step=7"], "no usable checkpoint of step 7"),
        (["--batch_size=0"], "--batch_size=0: must be at least 1"),
        (["--vocabulary=bytes"], "not the vocabulary"),
        (["--input=nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
        (["--model_dir=nowhere"], "nowhere: no run.json"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(student, rows, tmp_path, capsys, flags, message):
    source = write(tmp_path / "in.jsonl", rows[:1])
    assert message in refused(capsys, student, source, tmp_path / "out.jsonl", *flags)


@pytest.mark.parametrize(
    "labels", [[], ["--labels=yes,no"], ["--labels=no,yes no"], ["--labels=yes yes,no no"]]
)
def test_confidence_changes_no_label(student, rows, tmp_path, capsys, labels):
    source = write(tmp_path / "in.jsonl", [{"input": row["input"]} for row in rows])
    assert run(student, source, tmp_path / "free.jsonl") == 0
    assert run(student, source, tmp_path / "sure.jsonl", "--confidence", *labels) == 0
    free, sure = lines(tmp_path / "free.jsonl"), lines(tmp_path / "sure.jsonl")
    names = labels[0].removeprefix("--labels=").split(",") if labels else ["no", "yes"]
    for row, answer in zip(free, sure, strict=True):
        assert row.items() <= answer.items()
        shares = answer["label_probabilities"]
        assert set(shares) == set(names)
        if answer["label"] in shares:
            assert 0 < answer["confidence"] == shares[answer["label"]] == max(shares.values())
            assert sum(shares.values()) == pytest.approx(1.0, abs=1e-5)
        else:
            assert answer["confidence"] == 0 and sum(shares.values()) < 1
    outside = sum(answer["label"] not in names for answer in sure)
    warning = f"warning: {outside} of {len(sure)} answers are none of the labels"
    assert (outside > 0) == ("--labels=yes yes,no no" in labels)
    assert (outside > 0) == (warning in capsys.readouterr().err)


@pytest.mark.parametrize("label", ["maybe not", " "])
def test_a_label_that_the_vocabulary_cannot_write_is_refused(student, rows, tmp_path, label):
    source = write(tmp_path / "in.jsonl", rows[:1])
    flags = ["--confidence", f"--labels=yes,{label}"]
    with pytest.raises(UserError, match=r"label .*: the run's vocabulary cannot write it"):
        Predictor(find_run(student), labels=["yes", label])
    assert run(student, source, tmp_path / "out.jsonl", *flags) == 2
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--ask_teacher_below=0.5"], "belong together"),
        (["--out=x.jsonl"], "belong together"),
        (["--labels=yes,no"], "--labels has an effect only with --confidence"),
        (["--ask_teacher_below=2", "--out=x.jsonl"], "--ask_teacher_below"),
        (["--ask_teacher_below=0.5", "--out=x.jsonl", "--output=-"], "needs a file"),
    ],
)
def test_flags_of_confidence_that_do_not_fit_are_refused(tmp_path, capsys, given, message):
    assert run(tmp_path, "in.jsonl", tmp_path / "out.jsonl", *given) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "\u092f\u0939 \u0938\u091a \u0939\u0948",
            "in 1 of 3 questions more than 10% of the ids are unknown",
        ),
        ("\U0001f44d", "in 1 of 3 questions more than 10% of the ids are unknown"),
        ("is it a " * 40, "1 questions were longer than the run's inputs"),
    ],
)
def test_questions_that_the_student_cannot_read_are_counted(
    student, rows, tmp_path, capsys, text, said
):
    asked = [*rows[:2], {"input": text}]
    out = tmp_path / "out.jsonl"
    assert run(student, write(tmp_path / "in.jsonl", asked), out, "--output_rationale") == 0
    printed = capsys.readouterr().err
    assert said in printed
    assert "1 of 3 rationales were truncated after 12 tokens" in printed


def test_questions_without_the_rationale_that_a_student_reads_are_counted(student):
    ours = find_run(student)
    assert ours.run is not None
    run = dataclasses.replace(ours.run, mixture_or_task_name="demo_pinto")
    predictor = Predictor(dataclasses.replace(ours, run=run))
    texts = ["it is so .", None, " "]
    predictor.answer([records.Record("0", "is it so ?", "", text) for text in texts], False)
    (line,) = (line for line in predictor.remarks() if "rationale" in line)
    assert line.startswith("warning: 2 of 3 questions have no rationale")


def test_questions_that_it_can_read_are_not_mentioned(student, rows, tmp_path, capsys):
    assert run(student, write(tmp_path / "in.jsonl", rows[:3]), tmp_path / "out.jsonl") == 0
    assert "unknown" not in capsys.readouterr().err


def test_unsure_questions_without_labels_go_to_the_teacher(student, rows, tmp_path):
    pytest.importorskip("openai")
    source = write(tmp_path / "in.jsonl", [{"input": rows[0]["input"]}])
    out, unsure = tmp_path / "out.jsonl", tmp_path / "unsure.jsonl"
    flags = ["--confidence", "--ask_teacher_below=1", f"--out={unsure}"]
    assert run(student, source, out, *flags) == 0
    assert lines(unsure) == [{"id": "1", "input": rows[0]["input"]}]
    with serving(StubServer(annotate_cli.oracle)) as stub:
        assert annotate_cli.run(stub, tmp_path, input=unsure) == 0
    (answer,) = lines(tmp_path / "out" / "rationales.jsonl")
    assert answer["label"] in ("yes", "no") and "correct" not in answer


def test_unsure_questions_go_to_the_teacher_and_both_are_a_cascade(student, rows, tmp_path, capsys):
    """predict, annotate, cascade: each reads what the one before it wrote."""
    pytest.importorskip("openai")
    asked = [{name: row[name] for name in ("id", "input", "label")} for row in rows]
    source, out = write(tmp_path / "in.jsonl", asked), tmp_path / "out.jsonl"
    assert run(student, source, out, "--confidence") == 0
    below = sorted(row["confidence"] for row in lines(out))[N // 2]
    flags = [f"--ask_teacher_below={below}", f"--out={tmp_path / 'unsure.jsonl'}"]
    assert run(student, source, out, *flags) == 0
    answers = lines(out)
    unsure = [row["id"] for row in answers if row["confidence"] < below]
    assert f"{len(unsure)} questions with a confidence below" in capsys.readouterr().out
    assert [row["id"] for row in lines(tmp_path / "unsure.jsonl")] == unsure
    assert 0 < len(unsure) < N, "one of the two would do all the work"
    with serving(StubServer(annotate_cli.oracle)) as stub:
        assert annotate_cli.run(stub, tmp_path, input=tmp_path / "unsure.jsonl") == 0
    labels = tmp_path / "out" / "rationales.jsonl"
    capsys.readouterr()
    given = [f"--predictions={out}", f"--teacher={labels}"]
    assert main(["cascade", *given, f"--thresholds={below}"]) == 0
    answered = {line["id"]: line["label"] for line in lines(labels)}
    right = [answered[row["id"]] == row["gold"] for row in answers if row["id"] in answered]
    (line,) = [t for t in capsys.readouterr().out.splitlines() if "teacher alone" in t]
    assert f"{sum(right) / len(right):.3f}" in line


def test_stdin_is_answered_while_it_is_open(student, rows, tmp_path):
    """A program asks one question, waits for its answer, and asks the next."""
    arguments = ["predict", f"--model_dir={student}", "--input=-", "--batch_size=4"]
    asked = subprocess.Popen(
        [sys.executable, "-m", "sbs_jax", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        for row in rows[:2]:
            asked.stdin.write(json.dumps({"input": row["input"]}) + "\n")
            asked.stdin.flush()
            ready, _, _ = select.select([asked.stdout], [], [], 120)
            assert ready, "no answer while stdin was open"
            assert json.loads(asked.stdout.readline())["input"] == row["input"]
        asked.stdin.close()
        assert asked.wait(timeout=60) == 0
    finally:
        asked.kill()
        asked.stdout.close()
        asked.stdin.close()
        asked.wait()


def test_a_full_disk_behind_stdout_is_named(student, rows, tmp_path):
    source = write(tmp_path / "in.jsonl", rows[:1])
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sbs_jax", "predict", f"--model_dir={student}",
             f"--input={source}"],
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "sbs: error: stdout: cannot be written (No space"
    )


def test_a_moved_run_and_its_vocabulary_are_enough(student, rows, tmp_path):
    """Stdin to stdout, in a process that knows neither the dataset nor TensorFlow."""
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copytree(student / "checkpoints", moved / "checkpoints")
    settings = json.loads((student / "run.json").read_text())
    settings |= {"mixture_or_task_name": "theirs_step_by_step", "vocabulary": "gone.model"}
    (moved / "run.json").write_text(json.dumps(settings))
    shutil.copy(paths.asset("demo.model"), tmp_path / "here.model")
    code = (
        "import sys; from sbs_jax.cli.main import main; status = main(sys.argv[1:]); "
        "assert not {'tensorflow', 'seqio', 'sbs_jax.tasks'} & set(sys.modules); sys.exit(status)"
    )
    arguments = ["predict", "--model_dir=moved", "--input=-", "--vocabulary=here.model"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        input="".join(json.dumps(row) + "\n" for row in rows[:3]),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    (evaluated,) = map(lines, student.glob("predictions-demo_label-test-*.jsonl"))
    labels = [json.loads(line)["label"] for line in done.stdout.splitlines()]
    assert labels == [row["label"] for row in evaluated[:3]]


@pytest.mark.parametrize(
    ("name", "views", "explains"),
    [
        ("my_data_step_by_step", ("label", "rationale"), True),
        ("my_data_step_by_step_llm", ("llm_label", "rationale"), True),
        ("x_llm_label", ("llm_label",), False),
        ("x_rationale", ("rationale",), True),
        ("x_single_task", ("single_task",), False),
    ],
)
def test_a_name_tells_its_method_without_its_dataset(name, views, explains):
    method = registry.method_of(name)
    assert method.views == views
    assert (method.rationale_view is not None) == explains


def test_names_of_the_demo_mean_the_same_with_and_without_the_registry():
    demo = registry.get("demo")
    for name in (*demo.task_names(), *demo.mixture_names()):
        assert registry.method_of(name) == registry.resolve(name).method
    with pytest.raises(UserError, match="no name of a task"):
        registry.method_of("demo")


def test_a_field_under_two_names_is_a_bad_row(tmp_path):
    source = write(tmp_path / "in.jsonl", [{"input": "x", "label": "a", "gold": "b"}])
    (row,) = prediction_files.read(source)
    assert "field 'gold' under two names" in str(row)


@pytest.mark.parametrize(
    ("label", "gold"), [(5, "5"), (0.5, "0.5"), (True, "true"), ("5", "5"), (math.nan, None)]
)
def test_labels_that_are_numbers_are_compared_as_text(tmp_path, label, gold):
    source = write(tmp_path / "in.jsonl", [{"input": "x", "label": label}])
    (question,) = prediction_files.read(source)
    assert question.fields["gold"] == gold


def test_rows_are_records_without_the_gold_label():
    question = prediction_files.Question("f:1", {"id": 7, "input": "x", "teacher_rationale": "y"})
    assert question.record == records.Record("7", "x", "", "y")


def _parquet(path: Path, rows: list[dict]) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("t.csv", lambda p: p.write_text('id;input\r\n7;"a; b"\r\n8;c\r\n')),
        (
            "t.csv",
            lambda p: p.write_text("sep=;\nid;input\n7;a; b\n".replace("a; b", '"a; b"') + "8;c\n"),
        ),
        ("t.tsv", lambda p: p.write_text("id\tinput\n7\ta; b\n8\tc\n")),
        (
            "t.json",
            lambda p: p.write_text('[{"id": "7", "input": "a; b"}, {"id": "8", "input": "c"}]'),
        ),
        (
            "t.parquet",
            lambda p: _parquet(p, [{"id": "7", "input": "a; b"}, {"id": "8", "input": "c"}]),
        ),
    ],
)
def test_tables_of_other_formats_are_asked_too(tmp_path, name, make):
    make(tmp_path / name)
    rows = list(prediction_files.read(str(tmp_path / name)))
    assert [row.fields for row in rows] == [{"id": "7", "input": "a; b"}, {"id": "8", "input": "c"}]


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("t.csv", lambda p: p.write_text("id,review,stars\n7,fine,5\n")),
        ("t.jsonl", lambda p: p.write_text('{"id": "7", "review": "fine", "stars": "5"}\n')),
        ("t.parquet", lambda p: _parquet(p, [{"id": "7", "review": "fine", "stars": "5"}])),
    ],
)
def test_the_question_may_be_in_another_column(tmp_path, name, make):
    make(tmp_path / name)
    (row,) = prediction_files.read(str(tmp_path / name), "review")
    assert row.fields == {"id": "7", "input": "fine", "stars": "5"}


def test_the_question_of_stdin_may_be_in_another_field(monkeypatch):
    arrived = contextlib.nullcontext(['{"review": "fine"}\n'])
    monkeypatch.setattr(prediction_files, "_open", lambda path: arrived)
    (question,) = predict._questions("-", ("review", "label"), False)
    assert (question.where, question.fields) == ("stdin:1", {"id": "1", "input": "fine"})


def test_a_second_field_of_questions_is_a_bad_row(tmp_path):
    source = write(tmp_path / "in.jsonl", [{"review": "x", "input": "y"}, {"input": "y"}])
    both, neither = prediction_files.read(source, "review")
    assert "field 'input' under two names" in str(both)
    assert "field 'review' is missing" in str(neither) and "--text names another" in str(neither)


def test_a_bad_row_of_a_parquet_file_is_named(tmp_path):
    _parquet(tmp_path / "t.parquet", [{"input": "a"}, {"input": None}])
    good, bad = prediction_files.read(str(tmp_path / "t.parquet"))
    assert good.fields["id"] == "1"
    assert str(bad).startswith(f"{tmp_path}/t.parquet: row 2: field 'input' is missing")
    when = [{"input": "a", "when": datetime.date(2026, 1, 2)}]
    _parquet(tmp_path / "t.parquet", when)
    (good,) = prediction_files.read(str(tmp_path / "t.parquet"))
    assert good.fields["when"] == "2026-01-02"
    _parquet(tmp_path / "t.parquet", [{"input": "a", "image": b"x"}])
    (bad,) = prediction_files.read(str(tmp_path / "t.parquet"))
    assert "row 1: field 'image' holds what JSON cannot" in str(bad)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "[NaN, 1]", '{"a": NaN}'])
def test_numbers_that_json_has_not_are_written_as_null_and_the_file_continues(tmp_path, number):
    (tmp_path / "in.jsonl").write_text(f'{{"input": "a", "score": {number}}}\n')
    (question,) = prediction_files.read(str(tmp_path / "in.jsonl"))
    out = str(tmp_path / "out.jsonl")
    with prediction_files.Answers(out, {}) as answers:
        answers.write([question], [{"label": "yes"}])
    text = Path(out).read_text()
    assert "null" in text and "NaN" not in text and "Infinity" not in text
    with prediction_files.Answers(out, {}) as answers:
        assert answers.pass_over(prediction_files.read(str(tmp_path / "in.jsonl"))) == 1


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.json", "t.jsonl", "t.parquet"])
def test_rows_without_ids_have_the_ids_of_the_teachers_questions(tmp_path, name):
    """Else the labels of `sbs annotate` join other questions."""
    texts = ["one", "two\nlines", "three", "four"]
    rows = [{"input": text, "label": "a"} for text in texts]
    cells = ["input,label", *(f'"{text}",a' for text in texts[:3]), "", "four,a"]
    path = tmp_path / name
    match path.suffix:
        case ".parquet":
            _parquet(path, rows)
        case ".json":
            path.write_text(json.dumps(rows))
        case ".jsonl":
            path.write_text("\n\n".join(map(json.dumps, rows)))
        case _:
            path.write_text("\n".join(cells).replace(",", "," if name == "t.csv" else "\t"))
    asked = {row.fields["id"]: row.fields["input"] for row in prediction_files.read(str(path))}
    assert asked == {row.id: row.input for row in records.read_table(path)}
    assert len(asked) == 4


def test_a_bad_row_of_a_csv_file_leaves_the_others_their_ids(tmp_path):
    (tmp_path / "t.csv").write_text("input,label\na,x\nb\n\nc,x\n")
    first, bad, last = prediction_files.read(str(tmp_path / "t.csv"))
    assert (first.fields["id"], last.fields["id"]) == ("1", "3")
    assert str(bad) == f"{tmp_path}/t.csv:3: 1 cells under 2 columns"
    assert last.where == f"{tmp_path}/t.csv:5"


def test_an_empty_cell_is_no_label_of_the_teacher(tmp_path):
    (tmp_path / "t.csv").write_text('input,llm_label\na,\nb,yes\nc," "\n')
    rows = prediction_files.read(str(tmp_path / "t.csv"))
    assert [row.fields["teacher_label"] for row in rows] == [None, "yes", " "]


def test_the_gold_label_may_be_in_another_column(tmp_path):
    (tmp_path / "t.csv").write_text("input,verdict,label,correct\na,good,mine,0\n")
    (row,) = prediction_files.read(str(tmp_path / "t.csv"), label="verdict")
    expected = {"id": "1", "input": "a", "gold": "good", "own_label": "mine", "own_correct": "0"}
    assert row.fields == expected
    with pytest.raises(
        UserError, match=r"t.csv:1: .* name a column verdit, .*of the label with --label"
    ):
        list(prediction_files.read(str(tmp_path / "t.csv"), label="verdit"))


def test_maps_decimals_and_times_of_a_table_are_continued(tmp_path):
    kinds = pyarrow.schema(
        [
            ("input", pyarrow.string()),
            ("tags", pyarrow.map_(pyarrow.string(), pyarrow.int64())),
            ("price", pyarrow.decimal128(5, 2)),
            ("at", pyarrow.timestamp("s")),
        ]
    )
    at = datetime.datetime(2026, 1, 2, 3, 4)
    row = {"input": "a", "tags": [("x", 1)], "price": decimal.Decimal("1.50"), "at": at}
    parquet.write_table(pyarrow.Table.from_pylist([row], kinds), tmp_path / "t.parquet")
    (question,) = prediction_files.read(str(tmp_path / "t.parquet"))
    assert question.fields["tags"] == [["x", 1]]
    assert (question.fields["price"], question.fields["at"]) == ("1.50", "2026-01-02T03:04:00")
    out = str(tmp_path / "out.jsonl")
    with prediction_files.Answers(out, {}) as answers:
        answers.write([question], [{"label": "yes"}])
    with prediction_files.Answers(out, {}) as answers:
        assert answers.pass_over(prediction_files.read(str(tmp_path / "t.parquet"))) == 1


def test_the_metric_is_noted_and_may_change_as_the_run_ends(tmp_path):
    out = tmp_path / "out.jsonl"
    question = prediction_files.Question("f:1", {"id": "1", "input": "x"})
    for metric in ("text", "equation"):
        with prediction_files.Answers(str(out), {prediction_files.METRIC: metric}) as answers:
            answers.write([question], [{"label": "yes"}])
    assert prediction_files.metric_of(out) == "text"  # when the file was begun
    assert prediction_files.metric_of(tmp_path / "none.jsonl") is None


def test_labels_are_compared_as_the_student_writes_them(tmp_path):
    """SentencePiece's vocabularies write one space for two."""
    rows = [{"label": "yes no", "gold": "yes  no"}, {"label": "1", "gold": "1.0"}]
    (tmp_path / "a.jsonl").write_text(json.dumps(rows[0]) + "\n")
    (tmp_path / "b.jsonl").write_text(json.dumps(rows[1]) + "\n")
    assert "(1/1)" in scoring.summary(tmp_path / "a.jsonl", "text", vocabularies.load("demo"))
    line = scoring.summary(tmp_path / "b.jsonl", "text", vocabularies.load("bytes"))
    assert "(0/1)" in line and line.endswith("an answer is '1', its label '1.0'")
