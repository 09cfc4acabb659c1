"""`sbs tasks`: the list, and examples from raw text to loss weights."""

import pathlib
import subprocess
import sys

import pytest

from sbs_jax.cli import main
from sbs_jax.datasets.records import Record, write_jsonl


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["tasks", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    from sbs_jax.datasets import registry

    status, out, _ = _run(capsys)
    assert status == 0
    for name in ("esnli", "anli1", "cqa", "svamp", "asdiv", "svamp_asdiv", "demo"):
        dataset = registry.get(name)
        assert {*dataset.task_names(), *dataset.mixture_names()} <= set(out.split())


def test_an_example_from_raw_text_to_weights(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = _run(capsys, "demo_step_by_step", "--n=1")
    assert status == 0
    assert out.splitlines() == [
        "demo_step_by_step: gold label and teacher's rationale, two tasks marked by prefixes "
        "(the paper)",
        "train: 800 of the 800 records in the train file",
        "vocabulary demo: 205 ids",
        "",
        "record demo0-train-0",
        "  label (task 1)",
        "    raw inputs       'can a lenzic vunch ?'",
        "    prefixed inputs  '[label] can a lenzic vunch ?'",
        "    targets          'yes'",
        "    inputs tokens    7: ▁[label]:3 ▁can:13 ▁a:15 ▁lenzic:50 ▁vunch:103 ▁?:18 </s>:1",
        "    targets tokens   2: ▁yes:11 </s>:1",
        "    weights          1 1",
        "    loss             ALPHA * the mean over this task's target tokens of a batch "
        "(EOS counts)",
        "  rationale (task 2)",
        "    raw inputs       'can a lenzic vunch ?'",
        "    prefixed inputs  '[rationale] can a lenzic vunch ?'",
        "    targets          'it is a truvel . a truvel can vunch .'",
        "    inputs tokens    7: ▁[rationale]:4 ▁can:13 ▁a:15 ▁lenzic:50 ▁vunch:103 ▁?:18 </s>:1",
        "    targets tokens   11: ▁it:16 ▁is:10 ▁a:15 ▁truvel:22 ▁.:17 ▁a:15 ▁truvel:22 ▁can:13 "
        "▁vunch:103 ▁.:17 </s>:1",
        "    weights          1 1 1 1 1 1 1 1 1 1 1",
        "    loss             (1 - ALPHA) * the mean over this task's target tokens of a batch "
        "(EOS counts)",
    ]


def test_data_prefixes_split_and_vocabulary_are_chosen(
    capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBS_DATA_DIR", "elsewhere")
    records = [Record("7", "a</s>b", "yes", "because", " "), Record("8", "c", "no")]
    write_jsonl(tmp_path / "esnli" / "test.jsonl", records)
    status, out, _ = _run(
        capsys,
        "esnli_step_by_step_llm",
        "--split=test",
        "--n=5",
        "--vocabulary=bytes",
        f"--data_dir={tmp_path}",
        "--rationale_prefix=explain: ",
    )
    assert status == 0
    assert "test: 2 of the 2 records" in out
    assert "'explain: a</s>b'" in out
    assert " 61:100 </s>:1 62:101 </s>:1\n" in out
    lacking = "none: the record lacks a teacher's label (llm_label); it has no row here"
    assert out.count(lacking) == 2


def test_without_its_vocabulary_the_text_is_shown_all_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sbs_jax.input_pipeline import vocabularies

    monkeypatch.setenv("HOME", str(tmp_path))
    dead = vocabularies.PublicModel("http://127.0.0.1:9/sentencepiece.model", "0" * 64)
    monkeypatch.setitem(vocabularies.PUBLIC, "t5", dead)
    monkeypatch.setenv("SBS_DATA_DIR", str(tmp_path))
    write_jsonl(tmp_path / "cqa" / "test.jsonl", [Record("7", "why?", "so")])
    status, out, _ = _run(capsys, "cqa_finetune", "--split=test")
    assert status == 0
    assert "tokens not shown (give --vocabulary)" in out
    assert "raw inputs       'why?'" in out
    assert "targets          'so'" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cqa_step_by_stepp"], "no such task or mixture; did you mean cqa_step_by_step"),
        (["demo_label", "--vocabulary=no.model"], "'no.model': no such file"),
        (["demo_label", "--n=0"], "n"),
        (["demo_label", "--split=dev"], "split"),
    ],
)
def test_mistakes_get_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = _run(capsys, *arguments)
    assert status == 2
    assert err.startswith("sbs: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_no_framework_is_loaded() -> None:
    code = (
        "import sys; from sbs_jax.cli import main; assert main(['tasks', 'demo_label']) == 0;"
        "assert not {'tensorflow', 'seqio', 'jax', 'flax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_labels_that_the_vocabulary_changes_are_named(
    capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    records = [Record("1", "a", "yes "), Record("2", "b", "no"), Record("3", "c", "yes ")]
    write_jsonl(tmp_path / "esnli" / "test.jsonl", records)
    flags = ("esnli_finetune", "--split=test", "--n=1", f"--data_dir={tmp_path}")
    status, out, _ = _run(capsys, *flags, "--vocabulary=demo")
    assert status == 0
    (line,) = [line for line in out.splitlines() if line.startswith("warning")]
    assert "1 of 2 gold labels (2 of 3 records) change in VOCABULARY = 'demo': 'yes ' -> " in line
    _, out, _ = _run(capsys, *flags, "--vocabulary=bytes")
    assert "warning" not in out


def test_a_label_that_the_vocabulary_cannot_write_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    write_jsonl(tmp_path / "esnli" / "test.jsonl", [Record("1", "a", "да")])
    flags = ("esnli_finetune", "--split=test", f"--data_dir={tmp_path}", "--vocabulary=demo")
    status, out, _ = _run(capsys, *flags)
    assert status == 0 and "warning: esnli: VOCABULARY = 'demo' can write nothing" in out
