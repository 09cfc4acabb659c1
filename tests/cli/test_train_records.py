"""`sbs train --records`: from a table to a student that works from anywhere, no Python, no gin."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import xla
from helpers.schedulers import free_address

from sbs_jax.cli import main
from sbs_jax.datasets import own_data
from sbs_jax.datasets.records import read_jsonl
from sbs_jax.datasets.splits import SPLITS

COLUMNS = ["--text=review", "--label=stars"]
SMALL = [
    "--gin.TRAIN_STEPS=2",
    "--gin.EVAL_PERIOD=2",
    "--gin.BATCH_SIZE=8",
    *(f"--gin.configs.T5Config.{name}=16" for name in ("emb_dim", "mlp_dim", "head_dim")),
    *(f"--gin.configs.T5Config.num_{name}_layers=1" for name in ("encoder", "decoder")),
]
EXAMPLES = [(f"item {i} is {('bad', 'good')[i % 2]}", (1, 5)[i % 2]) for i in range(60)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """A working directory with a table of 60 reviews."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SBS_CACHE_DIR", str(cache))
    lines = [f"{text},{label},the word says so" for text, label in EXAMPLES]
    Path("reviews.csv").write_text("\n".join(["review,stars,why", *lines]) + "\n")
    return tmp_path


def _train(*flags: str) -> int:
    return main(["train", *SMALL, *flags])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Path, str]:
    """(MODEL_DIR that was moved after training, what training said)."""
    import contextlib
    import io

    place = tmp_path_factory.mktemp("first")
    rows = [f"{text},{label},the word says so" for text, label in EXAMPLES]
    with gzip.open(place / "reviews.csv.gz", "wt") as file:
        file.write("\n".join(["review,stars,why", *rows]) + "\n")
    before, said = os.getcwd(), io.StringIO()
    os.chdir(place)
    os.environ["SBS_CACHE_DIR"] = str(cache)
    try:
        with contextlib.redirect_stderr(said):
            assert _train("--records=reviews.csv.gz", *COLUMNS, "--rationale=why") == 0
    finally:
        os.chdir(before)
    moved = tmp_path_factory.mktemp("second") / "student"
    shutil.move(place / "runs" / "reviews", moved)
    shutil.rmtree(place)
    return moved, said.getvalue()


def test_the_data_are_described(trained: tuple[Path, str]) -> None:
    _, said = trained
    assert "train       48 records, 48 with a rationale" in said
    assert "labels      2 classes in train: " in said
    assert "inputs      at most " in said and "truncated at" in said
    assert "vocabulary  trained on the training records: runs/reviews/spiece.model" in said


def test_every_verb_works_on_the_moved_folder(
    trained: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    student, _ = trained
    assert main(["evaluate", f"--model_dir={student}"]) == 0
    assert "reviews_label test: student " in capsys.readouterr().err
    Path("new.jsonl").write_text('{"input": "item 61 is good"}\n')
    ask = ["--input=new.jsonl", "--output=out.jsonl", "--output_rationale"]
    assert main(["predict", f"--model_dir={student}", *ask]) == 0
    answer = json.loads(Path("out.jsonl").read_text())
    assert {"label", "rationale"} <= answer.keys()
    assert main(["export", "--to=hf", str(student), "hf"]) == 0
    assert (Path("hf") / "spiece.model").read_bytes() == (student / "spiece.model").read_bytes()


def test_what_a_run_is_scored_on_is_noted(trained: tuple[Path, str]) -> None:
    student, _ = trained
    noted = json.loads((student / "run.json").read_text())["fingerprints"]
    assert {"validation_fingerprint", "test_fingerprint", "metric_fingerprint"} <= noted.keys()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["runs/reviews", "elsewhere"])
def test_the_same_command_continues(trained: tuple[Path, str], folder: Path, place: str) -> None:
    student, _ = trained
    shutil.copytree(student, place)
    moved = [f"--model_dir={place}"] if place != "runs/reviews" else []
    flags = ["--records=reviews.csv", *COLUMNS, "--rationale=why", *moved]
    assert _train(*flags, "--gin.TRAIN_STEPS=4") == 0
    assert json.loads((Path(place) / "results.json").read_text())["train_steps"] == 4


def test_a_folder_of_other_records_is_refused(
    trained: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    student, _ = trained
    before = (student / "data" / "train.jsonl").read_bytes()
    flags = ["--records=reviews.csv", *COLUMNS, f"--model_dir={student}"]
    assert _train(*flags) == 2  # without rationales
    assert "holds a run on other records" in capsys.readouterr().err
    assert (student / "data" / "train.jsonl").read_bytes() == before


@pytest.mark.slow
def test_usual_columns_and_given_splits(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """{input, label, rationale} as forks of the original write it; a test question from train."""
    rows = [{"input": text, "label": str(label), "rationale": "so"} for text, label in EXAMPLES]
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("test.json").write_text(json.dumps(rows[:3]))
    flags = ["--records=train.jsonl", "--eval_records=test.json", "--model_dir=mine"]
    assert _train(*flags, "--vocabulary=bytes", "--gin.TRAIN_STEPS=1") == 0
    said = capsys.readouterr().err
    assert "3 of 3 test records have the same question as a train" in said
    assert not Path("mine/spiece.model").exists()
    results = json.loads(Path("mine/results.json").read_text())
    assert results["mixture"] == "mine_step_by_step"
    assert [entry["n"] for entry in results["results"]] == [6, 3]


def _ids(folder: Path) -> set[str]:
    files = (folder / "data").glob("*.jsonl")
    return {record.id for file in files for record in read_jsonl(file)}


@pytest.mark.parametrize(
    ("column", "flags", "ids"),
    [
        ("id", [], {f"r{i}" for i in range(60)}),
        ("key", ["--id=key"], {f"r{i}" for i in range(60)}),
        ("key", [], None),
        ("id", ["--eval_records=more.csv"], None),
    ],
)
def test_ids_of_the_users_survive(
    folder: Path, column: str, flags: list[str], ids: set[str] | None
) -> None:
    """Row numbers, and ids that two splits have, get the split's name."""
    lines = [f"{text},{label},r{i}" for i, (text, label) in enumerate(EXAMPLES)]
    for name in ("reviews.csv", "more.csv"):
        Path(name).write_text("\n".join([f"review,stars,{column}", *lines]) + "\n")
    own = ["--records=reviews.csv", *COLUMNS, *flags]
    assert main(["init", "project", *(flag.replace("eval_records", "test") for flag in own)]) == 0
    if ids:
        assert _ids(Path("project")) == ids
    else:
        assert {id.rpartition("-")[0] for id in _ids(Path("project"))} == set(SPLITS)


@pytest.mark.slow
def test_a_run_continues_with_the_ids_that_it_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an earlier version wrote them, the split's name in each."""
    lines = [f"{text},{label},r{i}" for i, (text, label) in enumerate(EXAMPLES)]
    Path("reviews.csv").write_text("\n".join(["review,stars,id", *lines]) + "\n")
    flags = ["--records=reviews.csv", *COLUMNS]
    with monkeypatch.context() as earlier:
        earlier.setattr(own_data, "have_ids", lambda paths: False)
        assert _train(*flags) == 0
    before = _ids(Path("runs/reviews"))
    assert _train(*flags, "--gin.TRAIN_STEPS=4") == 0
    assert _ids(Path("runs/reviews")) == before
    assert json.loads(Path("runs/reviews/results.json").read_text())["train_steps"] == 4


def test_a_rationale_column_without_text_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{text},{label}, " for text, label in EXAMPLES]
    Path("reviews.csv").write_text("\n".join(["review,stars,why", *lines]) + "\n")
    flags = ["--records=reviews.csv", *COLUMNS, "--rationale=why"]
    assert _train(*flags, "--dry_run") == 0
    assert "reviews.csv: no training record has text in the column 'why'" in capsys.readouterr().err


def test_nothing_is_written_before_the_run(folder: Path) -> None:
    assert _train("--records=reviews.csv", *COLUMNS, "--dry_run") == 0
    assert not Path("runs").exists()


@pytest.mark.slow
def test_several_processes_read_the_table_and_share_the_run(folder: Path) -> None:
    flags = ["--records=reviews.csv", *COLUMNS, *SMALL]
    together = [f"--coordinator_address={free_address()}", "--process_count=2"]
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "sbs_jax", "train", *flags, *together, f"--process_index={n}"],
            env=os.environ | {"XLA_FLAGS": xla.flags(1)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in (0, 1)
    ]
    errors = [child.communicate(timeout=300)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], errors
    assert "2 processes x 1 devices" in errors[0]
    assert len(list(read_jsonl("runs/reviews/data/train.jsonl"))) == 48
    assert Path("runs/reviews/results.json").is_file()


@pytest.mark.slow
def test_saved_datasets(folder: Path) -> None:
    """A folder of Hugging Face's DatasetDict.save_to_disk: splits are those it holds."""
    pyarrow = pytest.importorskip("pyarrow")
    for split, rows in {"train": EXAMPLES, "test": [("item 99 is bad", 1)]}.items():
        place = folder / "saved" / split
        place.mkdir(parents=True)
        table = pyarrow.table({"review": [r for r, _ in rows], "stars": [s for _, s in rows]})
        with pyarrow.ipc.new_stream(place / "data-00000-of-00001.arrow", table.schema) as file:
            file.write_table(table)
    (folder / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert _train("--records=saved", *COLUMNS, "--gin.TRAIN_STEPS=1") == 0
    sizes = {s: len(list(read_jsonl(f"runs/saved/data/{s}.jsonl"))) for s in ("train", "test")}
    assert sizes == {"train": 54, "test": 1}


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ([], "--gin_file is required, or --records with a table"),
        (["--gin_file=x.gin", "--text=review"], "--text: has an effect only with --records"),
        (["--records=reviews.csv", "--label=x"], "no column 'input'"),
        (["--records=none.csv"], "none.csv"),
        (["--records=empty.jsonl"], "empty.jsonl: holds no record"),
        (
            ["--records=reviews.csv", "--model_dir=s3://x/y"],
            "error: --model_dir s3://x/y: only local folders and gs:// work here",
        ),
        (
            ["--records=reviews.csv", "--model_dir=reviews.csv"],
            "--model_dir=reviews.csv: is a file; give the folder of the run",
        ),
        (
            ["--records=two.csv"],
            "two.csv: 2 records of 2 different questions are too few to draw test and validation",
        ),
        *(
            (
                ["--records=reviews.csv", f"--fraction={fraction}"],
                f"--fraction={fraction}: must be more than 0 and less than 1",
            )
            for fraction in ("0.0", "1.0", "nan", "-1.0")
        ),
        (
            [
                *(f"--{name}=reviews.csv" for name in ("records", "validation_records")),
                "--eval_records=reviews.csv",
                "--fraction=0.5",
                *COLUMNS,
            ],
            "--fraction: has an effect only where a split is drawn; drop it",
        ),
        (
            ["--records=reviews.csv", *COLUMNS, "--gin.MODEL_DIR='x'"],
            "--gin.MODEL_DIR: with --records, give --model_dir instead",
        ),
        (
            ["--records=reviews.csv", *COLUMNS, "--gin.MIXTURE_OR_TASK_NAME='x_distill'"],
            "--gin.MIXTURE_OR_TASK_NAME: with --records, the dataset is the table's; --gin.METHOD=",
        ),
        (
            ["--records=reviews.csv", *COLUMNS, "--dry_run", "--plan"],
            "has not yet written its records to runs/reviews; give --plan_shape=",
        ),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: list[str], problem: str
) -> None:
    Path("empty.jsonl").write_text("")
    Path("two.csv").write_text("input,label\nq,a\nr,b\n")
    assert _train(*flags) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("sbs: error: ") and problem in error
    assert not Path("runs").exists()


def test_a_run_of_another_method_continues(folder: Path) -> None:
    lines = [f"{text},{label},{label}" for text, label in EXAMPLES]
    Path("reviews.csv").write_text("\n".join(["review,stars,llm_label", *lines]) + "\n")
    flags = ["--records=reviews.csv", *COLUMNS, "--gin.METHOD='distill'"]
    assert _train(*flags) == 0
    assert _train(*flags, "--gin.TRAIN_STEPS=4") == 0
    run = json.loads(Path("runs/reviews/run.json").read_text())
    assert run["mixture_or_task_name"] == "reviews_distill"
    assert json.loads(Path("runs/reviews/results.json").read_text())["train_steps"] == 4


def test_the_vocabulary_of_another_run_is_refused(
    trained: tuple[Path, str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its rows of the embedding belong to other pieces."""
    student, _ = trained
    lines = [f"{text} of the shop,{label}" for text, label in EXAMPLES]
    Path("other.csv").write_text("\n".join(["review,stars", *lines]) + "\n")
    start = ["--records=other.csv", *COLUMNS, f"--gin.INITIAL_CHECKPOINT_PATH='{student}'"]
    assert _train(*start) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"INITIAL_CHECKPOINT_PATH {student}: was trained with another vocabulary than" in error
    assert f"(with --records: --vocabulary) to '{student}/spiece.model'" in error
    pieces = json.loads((student / "run.json").read_text())["model"]["vocab_size"]
    own = [f"--vocabulary={student}/spiece.model", f"--gin.VOCAB_SIZE={pieces}"]
    assert _train(*start, *own) == 0


def test_no_verb_takes_the_vocabulary_of_another_run(
    trained: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    student, _ = trained
    assert main(["convert", "--to=hf", "--vocabulary=bytes", str(student), "hf"]) == 2
    assert "--vocabulary 'bytes': not the vocabulary" in capsys.readouterr().err
    assert not Path("hf").exists()
    assert (
        main(["convert", "--to=hf", f"--vocabulary={student}/spiece.model", str(student), "hf"])
        == 0
    )


def test_a_score_follows_corrected_labels(
    trained: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained[0], "run")
    test = Path("run/data/test.jsonl")
    rows = [json.loads(line) for line in test.read_text().splitlines()]
    (predictions,) = Path("run").glob("predictions-*-test-*.jsonl")
    answers = [json.loads(line)["label"] for line in predictions.read_text().splitlines()]
    changed = [row | {"label": label} for row, label in zip(rows, answers, strict=True)]
    test.write_text("".join(json.dumps(row) + "\n" for row in changed))
    before = json.loads(Path("run/results.json").read_text())
    assert main(["evaluate", "--model_dir=run"]) == 0
    assert "run/results.json: the test score was" in capsys.readouterr().err
    after = json.loads(Path("run/results.json").read_text())
    (old,), (new,) = (
        [row for row in results["results"] if row["split"] == "test"] for results in (before, after)
    )
    right = sum(json.loads(line)["correct"] for line in predictions.read_text().splitlines())
    assert new["correct"] == right != old["correct"]
    assert after | {"results": []} == before | {"results": []}
    assert main(["evaluate", "--model_dir=run"]) == 0
    assert "is replaced" not in capsys.readouterr().err
