"""What the page of an exported student says of each way to train."""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import subprocess

import pytest
from helpers import made_checkpoints as made
from helpers.sentencepiece_models import train

from sbs_jax.checkpoints.formats import native
from sbs_jax.cli import main
from sbs_jax.configs import TrainConfig
from sbs_jax.export import model_card
from sbs_jax.inference import student
from sbs_jax.metrics.accuracy import Accuracy

COUNTS = {"correct": 7, "n": 8, "accuracy": 0.875, "ci95": [0.529, 0.978]}


def model_dir(folder, results=True, **changes):
    """A MODEL_DIR of three steps, without its training."""
    native.write(folder, made.checkpoint(step=3, vocabulary="demo"))
    run = TrainConfig(
        model_dir=str(folder),
        mixture_or_task_name=changes["mixture_or_task_name"],
        task_feature_lengths={"inputs": 1024, "targets": 256},
        train_steps=3,
        model=dataclasses.replace(made.UNTIED, **changes.pop("model", {})),
        vocabulary="demo",
    )
    fields = {**dataclasses.asdict(run), "fingerprints": {}}
    (folder / "run.json").write_text(json.dumps(fields | changes))
    row = {"task": "x_label", "split": "test", **COUNTS, "teacher": None, "majority": COUNTS}
    if results:
        summary = {"mixture": changes["mixture_or_task_name"], "step": 3, "results": [row]}
        (folder / "results.json").write_text(json.dumps(summary))
    return folder


def page(folder, **changes):
    found = student.find(str(model_dir(folder / "run", **changes)))
    return model_card.hugging_face(found, "stu`dent")


@pytest.mark.parametrize(
    ("mixture", "expected", "absent"),
    [
        ("x_step_by_step", ['prefix="[label] "', 'prefix="[rationale] "'], ["line break"]),
        ("x_step_by_step_llm", ["teacher's label and teacher's rationale"], []),
        ("x_finetune", ['prefix=""', "without prefix"], ["rationales ="]),
        ("x_distill", ['prefix=""', "teacher's label"], ["rationales ="]),
        ("x_single_task", ["what follows the last ` So the answer is `"], ["rationales ="]),
        ("x_pinto", ["follow a line break and the teacher's rationale"], ["rationales ="]),
    ],
)
def test_the_page_says_how_the_student_is_asked(tmp_path, mixture, expected, absent):
    text = page(tmp_path, mixture_or_task_name=mixture)
    assert [part for part in expected if part not in text] == []
    assert [part for part in absent if part in text] == []
    assert "| x_label test | 0.8750 [" in text and "(7/8) | - | 0.8750 [" in text
    assert "The run left no config.gin" in text


def test_a_mean_has_the_interval_of_a_mean_and_its_metric(tmp_path):
    folder = model_dir(tmp_path / "run", mixture_or_task_name="x_finetune")
    mean = Accuracy.of([0.33, 0.33, 0.5, 0.67])
    row = {"task": "x_label", "split": "test", **mean.to_json(), "majority": None}
    summary = {"mixture": "x_finetune", "metric": "share", "step": 3, "results": [row]}
    (folder / "results.json").write_text(json.dumps(summary))
    text = model_card.hugging_face(student.find(str(folder)), "student")
    assert f"| x_label test | {mean} | - | - |" in text and "(mean of 4)" in text
    assert "Accuracy by metric `share` [95% Wilson interval]" in text


def test_what_the_run_cut_off_is_on_the_page(tmp_path):
    folder = model_dir(tmp_path / "run", mixture_or_task_name="x_finetune")
    summary = json.loads((folder / "results.json").read_text())
    assert "Longer than the run allows" not in page(tmp_path / "b", mixture_or_task_name="x_pinto")
    summary["truncated"] = {"train": {"label": {"examples": 9, "inputs": 0, "targets": 4}}}
    summary["results"][0]["truncated_answers"] = 3
    summary["truncated"]["test"] = {"label": {"examples": 8, "inputs": 2, "targets": 0}}
    (folder / "results.json").write_text(json.dumps(summary))
    text = model_card.hugging_face(student.find(str(folder)), "student")
    assert "- train label: 4 targets truncated, of 9" in text
    assert "- test label: 2 inputs truncated, 3 answers truncated, of 8" in text


def test_a_shared_encoder_is_asked_for_a_rationale_by_the_decoders_start(tmp_path):
    text = page(tmp_path, mixture_or_task_name="x_step_by_step", shared_encoder=True)
    assert 'rationales = ask(["your question"], prefix="", max_new_tokens=256, ' in text
    assert "decoder_start_token_id=1)" in text and "[rationale]" not in text
    assert "without prefix (the decoder gives the student's rationale where it starts with" in text


def test_the_prefixes_and_lengths_are_the_runs(tmp_path):
    text = page(
        tmp_path,
        mixture_or_task_name="x_step_by_step",
        label_prefix='say "it": ',
        rationale_prefix="explain: ",
        max_decode_length=9,
        task_feature_lengths={"inputs": 77, "targets": 44},
    )
    assert 'prefix="say \\"it\\": "' in text
    assert 'prefix="explain: ", max_new_tokens=44' in text
    assert "truncated after 77 tokens; a label has at most 9, a rationale at most 44" in text


@pytest.mark.slow
def test_another_arithmetic_is_told(tmp_path):
    told = {"mixture_or_task_name": "x_finetune"}
    text = page(tmp_path / "a", **told, model={"dtype": "bfloat16"})
    assert "Computed in bfloat16: in another arithmetic single answers may differ" in text
    assert "Computed in" not in page(tmp_path / "b", **told)
    (tmp_path / "a" / "run" / "config.gin").write_text("ALPHA = 0.5\n")
    (tmp_path / "a" / "out").mkdir()
    target = tmp_path / "a" / "out" / "programs"
    flags = ["--to=stablehlo", "--input_lengths=8", "--platforms=cpu"]
    assert main(["export", *flags, str(tmp_path / "a" / "run"), str(target)]) == 0
    manifest = json.loads((target / "manifest.json").read_text())
    assert manifest["computed_in"] == "bfloat16"
    assert manifest["prefixes"] == {"label": ""}
    assert (target / "config.gin").read_text() == "ALPHA = 0.5\n", "which its page speaks of"
    # Each for any batch and for a fixed one.
    assert sorted(program["computes"] for program in manifest["programs"]) == [
        *("label", "label"),
        *("logits", "logits"),
    ]


def test_a_vocabulary_that_transformers_cannot_be_told_is_refused(tmp_path, capsys):
    train(tmp_path / "bpe.model", model_type="bpe", vocab_size=40, hard_vocab_limit=False)
    native.write(tmp_path / "run", made.checkpoint(vocabulary=str(tmp_path / "bpe.model")))
    there = sorted(tmp_path.iterdir())
    assert main(["export", "--to=hf", str(tmp_path / "run"), str(tmp_path / "out")]) == 2
    assert "no tokenizer for this kind of SentencePiece model" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == there
    arguments = ["convert", "--to=hf", str(tmp_path / "run"), str(tmp_path / "out")]
    assert main(arguments) == 0
    assert "no tokenizer.json: it cannot hold this kind" in capsys.readouterr().out


def test_a_converted_folder_holds_its_tokenizer(tmp_path, capsys):
    native.write(tmp_path / "run", made.checkpoint(vocabulary="demo"))
    assert main(["convert", "--to=hf", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert "tokenizer" not in capsys.readouterr().out
    assert {"tokenizer.json", "tokenizer_config.json", "spiece.model"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }


def test_without_results_the_page_says_so(tmp_path):
    text = page(tmp_path, results=False, mixture_or_task_name="x_finetune")
    assert "no results are known for this checkpoint" in text and "model-index" not in text


def test_the_hub_reads_the_metadata(tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(page(tmp_path, mixture_or_task_name="x_finetune"))
    (found,) = card.data.eval_results
    assert (found.dataset_name, found.metric_value) == ("x_label", 0.875)
    assert card.data.model_name == "stu`dent"


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ([], "flatters it.\n"),
        ([3], "flatters it. Test was scored at this step alone."),
        (
            [20, 3, 160],
            "Test was scored at 3 steps of the run (3, 20, 160): whatever was decided by",
        ),
    ],
)
def test_how_often_test_was_scored_is_counted(tmp_path, steps, sentence):
    folder = model_dir(tmp_path / "run", mixture_or_task_name="x_finetune")
    for step in steps:
        for split in ("test", "validation"):
            (folder / f"predictions-x_label-{split}-{step}.jsonl").touch()
    text = model_card.hugging_face(student.find(str(folder)), "student")
    assert sentence in text and "once, at the end" not in text


TINY = [
    *("TRAIN_STEPS=2", "EVAL_PERIOD=2", "BATCH_SIZE=8"),
    *(f"configs.T5Config.{name}=16" for name in ("emb_dim", "mlp_dim", "head_dim")),
    *(f"configs.T5Config.num_{name}_layers=1" for name in ("encoder", "decoder")),
]


@pytest.mark.parametrize(
    "source",
    [
        ["--records=reviews.csv", "--text=review", "--label=stars"],
        ["--gin_file=experiments/demo_step_by_step.gin", "--gin.MODEL_DIR='runs/reviews'"],
    ],
    ids=["records", "recipe"],
)
def test_the_pages_commands_train_the_run_again(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    rows = [f"item {i} is {('bad', 'good')[i % 2]},{i % 2}" for i in range(40)]
    pathlib.Path("reviews.csv").write_text("\n".join(["review,stars", *rows]) + "\n")
    assert main(["train", *source, *(f"--gin.{setting}" for setting in TINY)]) == 0
    run = tmp_path / "runs" / "reviews"
    assert main(["export", "--to=hf", str(run), "student"]) == 0
    monkeypatch.chdir("student")
    text = pathlib.Path("README.md").read_text()
    again = text.split("The same run again")[1]
    *copies, train = re.findall("^    (.+)$", again, re.MULTILINE)
    for command in copies:
        subprocess.run(command.replace("RUN", shlex.quote(os.fspath(run))), shell=True, check=True)
    assert main(shlex.split(train)[1:]) == 0
    first, second = (
        json.loads((folder / "results.json").read_text())
        for folder in (run, pathlib.Path("runs/again"))
    )
    assert first == second
