"""`sbs init` and `sbs vocabulary`: from a table to a project that trains."""

import json
from pathlib import Path

import pytest

from sbs_jax.cli import main
from sbs_jax.input_pipeline import vocabularies


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CSV file of 60 reviews in an empty working directory, with its own cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SBS_CACHE_DIR", str(tmp_path / "cache"))
    rows = [f"item {i} is {('bad', 'good')[i % 2]},{(1, 5)[i % 2]},the word" for i in range(60)]
    (tmp_path / "reviews.csv").write_text("\n".join(["review,stars,why", *rows]) + "\n")
    return tmp_path / "reviews.csv"


def _init(*flags: str) -> int:
    columns = ["--records=reviews.csv", "--text=review", "--label=stars"]
    return main(["init", "my-reviews", *columns, *flags])


@pytest.mark.parametrize(
    ("flags", "method"), [(["--rationale=why"], "step_by_step"), ([], "finetune")]
)
def test_a_project_resolves_and_says_what_it_holds(
    table: Path, capsys: pytest.CaptureFixture[str], flags: list[str], method: str
) -> None:
    assert _init(*flags) == 0
    out = capsys.readouterr().out
    assert "labels      2 classes in train: '5' " in out or "'1' " in out
    assert "0 of 60 truncated" in out
    assert out.splitlines()[-1].startswith("written: my-reviews; next: cd my-reviews && sbs train")
    for split, count in {"train": 48, "validation": 6, "test": 6}.items():
        lines = (table.parent / "my-reviews" / "data" / f"{split}.jsonl").read_text().splitlines()
        assert len(lines) == count and json.loads(lines[0])["label"] in ("1", "5")
    gin = (table.parent / "my-reviews" / "my_reviews.gin").read_text()
    assert f'"my_reviews_{method}"' in gin


def test_the_next_command_is_one_for_a_shell(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ["--records=reviews.csv", "--text=review", "--label=stars"]
    assert main(["init", "my proj-1", *columns]) == 0
    assert "written: my proj-1; next: cd 'my proj-1' && sbs train" in capsys.readouterr().out


@pytest.mark.slow
def test_the_next_command_trains(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _init("--rationale=why") == 0
    monkeypatch.chdir("my-reviews")
    small = ["--gin.TRAIN_STEPS=2", "--gin.EVAL_PERIOD=2", "--gin.configs.T5Config.emb_dim=16"]
    run = ["--gin_file=my_reviews.gin", "--gin.MODEL_DIR='run'", *small]
    assert main(["train", *run]) == 0
    results = json.loads(Path("run/results.json").read_text())
    assert results["mixture"] == "my_reviews_step_by_step"
    assert [entry["n"] for entry in results["results"]] == [6, 6]


def test_a_folder_with_files_and_a_wrong_column_are_refused(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", ".", "--records=reviews.csv"]) == 2
    assert "already holds files" in capsys.readouterr().err
    assert main(["init", "x", "--records=reviews.csv", "--text=reviw", "--label=stars"]) == 2
    assert "reviews.csv:2: no column 'reviw'; did you mean 'review'?" in capsys.readouterr().err
    assert not (table.parent / "x").exists()


def test_a_vocabulary_of_the_users_text(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--input=reviews.csv", "--fields=review,why", "--size=40", "--output=mine"]
    assert main(["vocabulary", *flags]) == 0
    vocabulary = vocabularies.load("mine.model")
    printed = capsys.readouterr().out
    assert f"VOCAB_SIZE to {vocabulary.size} or more" in printed
    assert f"mine.model, {vocabulary.size - 100} pieces" in printed
    assert ("of --size=40: the text gives no more" in printed) == (vocabulary.size < 140)
    before = Path("mine.model").read_bytes()
    assert main(["vocabulary", *flags, "--size=30"]) == 2
    complaint = "--output=mine: mine.model already exists; choose another name"
    assert complaint in capsys.readouterr().err and Path("mine.model").read_bytes() == before
    assert main(["vocabulary", *flags, "--size=4000", "--output=more"]) == 0
    assert " of --size=4000: the text gives no more" in capsys.readouterr().out
    text = "item 7 is good"
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert _init("--vocabulary=mine.model") == 0


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--fields=nothing"], "--fields=nothing: no text in reviews.csv"),
        (["--fields=review", "--size=16"], "--size=16: "),
    ],
)
def test_a_vocabulary_that_cannot_be_trained_is_one_line(
    table: Path, capsys: pytest.CaptureFixture[str], flags: list[str], problem: str
) -> None:
    assert main(["vocabulary", "--input=reviews.csv", "--output=mine", *flags]) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1
    assert not Path("mine.model").exists()
