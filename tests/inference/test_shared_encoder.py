"""A student with a shared encoder: trained, evaluated, asked and exported."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.runs import config_of, trained
from safetensors.numpy import load_file

from sbs_jax.cli import main
from sbs_jax.configs import OptimizerConfig
from sbs_jax.errors import UserError
from sbs_jax.inference.predictor import Predictor
from sbs_jax.inference.student import find_run
from sbs_jax.input_pipeline import pipeline

pytestmark = pytest.mark.slow

N = 12


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    """The MODEL_DIR of a short run."""
    return trained(
        tmp_path_factory.mktemp("shared") / "run",
        shared_encoder=True,
        train_steps=60,
        eval_period=60,
        eval_num_examples=N,
        output_rationale=True,
        row_lengths=(48, 64),
        task_feature_lengths={"inputs": 24, "targets": 16},
        optimizer=OptimizerConfig(learning_rate=2e-2),
    )


def evaluated(student: Path) -> list[dict]:
    (path,) = student.glob("predictions-demo_label-test-*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_learns_both_tasks_and_answers_as_in_its_evaluation(student, tmp_path):
    rows = [json.loads(line) for line in (student / "metrics.jsonl").read_text().splitlines()]
    losses = [row for row in rows if "loss" in row]
    for task in ("label", "rationale"):
        assert losses[-1][f"{task}/loss"] < 0.7 * losses[0][f"{task}/loss"]
    answers = evaluated(student)
    # A rationale of the demo has more words than a label: the decoder knows what it is asked for.
    words = [len(row["rationale"].split()) - len(row["label"].split()) for row in answers]
    assert min(words) > 0
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"input": row["input"]}) + "\n" for row in answers))
    flags = [f"--model_dir={student}", f"--input={source}", f"--output={tmp_path / 'out.jsonl'}"]
    assert main(["predict", *flags, "--output_rationale"]) == 0
    asked = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for ours, theirs in zip(asked, answers, strict=True):
        assert ours["label"] == theirs["label"] and ours["rationale"] == theirs["rationale"]


@pytest.mark.slow
def test_its_exported_programs_begin_as_its_tasks_do(student, tmp_path):
    out = tmp_path / "programs"
    flags = ["--to=stablehlo", "--platforms=cpu", "--input_lengths=24"]
    assert main(["export", *flags, str(student), str(out)]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["prefixes"] == {"label": "", "rationale": ""}
    assert manifest["start_ids"] == {"label": 0, "rationale": 1}
    found = find_run(student)
    questions = [row["input"] for row in evaluated(student)]
    tokens = np.zeros((N, 24), np.int32)
    for row, ids in enumerate(map(found.vocabulary.encode, questions)):
        tokens[row, : len(ids) + 1] = [*ids, found.vocabulary.eos_id]
    params = load_file(out / "model.safetensors")
    for task in ("label", "rationale"):
        program = next(p for p in manifest["programs"] if p["computes"] == task)
        call = jax.export.deserialize((out / program["file"]).read_bytes()).call
        texts = [found.vocabulary.decode(ids) for ids in np.asarray(call(params, tokens)).tolist()]
        assert texts == [row[task] for row in evaluated(student)]


def test_it_is_served_without_a_prefix(student):
    predictor = Predictor(find_run(student))
    assert predictor.explains and predictor._asking.label_prefix == ""


def test_a_single_task_or_a_prefix_is_refused(tmp_path):
    config = config_of(tmp_path, shared_encoder=True)
    alone = dataclasses.replace(config, mixture_or_task_name="demo_finetune")
    with pytest.raises(UserError, match="SHARED_ENCODER = True: demo_finetune is one task"):
        pipeline.Source.of(alone)
    with pytest.raises(UserError, match="LABEL_PREFIX = 'x': must be left out with SHARED_ENCODER"):
        dataclasses.replace(config, label_prefix="x")
