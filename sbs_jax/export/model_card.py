"""The README.md of an exported student: what it is, how good it is, how to ask it."""

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sbs_jax.checkpoints.formats.hf_tokenizer import SPIECE
from sbs_jax.configs import TrainConfig
from sbs_jax.datasets import own_data
from sbs_jax.datasets.methods import ANSWER_PHRASE
from sbs_jax.inference.student import Asking, Student
from sbs_jax.input_pipeline import vocabularies
from sbs_jax.metrics.accuracy import Accuracy
from sbs_jax.runs import truncation
from sbs_jax.runs.layout import CONFIG_GIN

_PAPER = "[Distilling Step-by-Step](https://arxiv.org/abs/2305.02301)"
_AGAIN = "runs/again"

_TRANSFORMERS = """\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

folder = {folder}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSeq2SeqLM.from_pretrained(folder)


def ask(questions, prefix={prefix}, **generation):
    texts = [prefix + question for question in questions]
    inputs = tokenizer(texts, padding=True, truncation={cut}, return_tensors="pt")
    return tokenizer.batch_decode(model.generate(**inputs, **generation), skip_special_tokens=True)


answers = ask(["your question"]{label_length})
"""

_EXPLAIN = """\
rationales = ask(["your question"], prefix={prefix}, max_new_tokens={length}{start})
"""

_JAX = """\
import json
import pathlib

import jax
import numpy as np
from jax import export
from safetensors.numpy import load_file

folder = pathlib.Path({folder})
manifest = json.loads((folder / "manifest.json").read_text())
params = jax.device_put(load_file(folder / "model.safetensors"))


def load(program):  # -> a function of (params, tokens) for any number of rows
    exported = export.deserialize((folder / program["file"]).read_bytes())
    exported.mlir_module()  # fails here, not at the first call, where this jax cannot read it
    call, batch = jax.jit(exported.call), program["batch"]

    def in_parts(params, tokens, *more):
        arrays = [np.pad(x, ((0, -len(x) % batch), (0, 0))) for x in (tokens, *more)]
        starts = range(0, len(arrays[0]), batch)
        parts = [call(params, *(x[i : i + batch] for x in arrays)) for i in starts]
        return np.concatenate(parts)[: len(tokens)]

    return call if batch is None else in_parts


programs = {{}}
for program in manifest["programs"]:  # those for any batch come first
    key = program["computes"], program["input_length"]
    try:
        programs[key] = programs.get(key) or load(program)
    except Exception as error:  # a jax older than the writer's reads only the fixed batches
        print(f"{{program['file']}}: {{error}}")


{tokenizer}

def ask(questions, task="label"):
    prefix = manifest["prefixes"][task]
    longest = max(manifest["input_lengths"])
    rows = [encode(prefix + question)[: longest - 1] + [1] for question in questions]
    length = min(n for n in manifest["input_lengths"] if n >= max(map(len, rows)))
    tokens = np.array([row + [0] * (length - len(row)) for row in rows], np.int32)
    return [decode(row) for row in np.asarray(programs[task, length](params, tokens)).tolist()]


answers = ask(["your question"])
"""

_VERSIONS = """\
A file without `-batch` in its name takes any number of questions and needs the writer's version of
jax or a newer one; `-batchN` files take N rows and older versions read them too. Tried on CPU:
written by jax 0.10.2, read by 0.8.2, 0.9.2, 0.10.2, 0.11.2 and 0.12.0.1, not by 0.7.2 or 0.6.2;
written by 0.12.0.1, any batch was read by 0.11.2 and 0.12.0.1, fixed batches by 0.8.2 to 0.12.0.1.
jax promises to run such a program for six months after its release. After that, export again."""

_SENTENCEPIECE = """\
import sentencepiece

pieces = sentencepiece.SentencePieceProcessor(str(folder / "spiece.model"))


def encode(text):  # "</s>" in a text is the end-of-sequence id
    sides = [pieces.encode(side) for side in text.split("</s>")]
    return sides[0] + [i for side in sides[1:] for i in [1, *side]]


def decode(ids):
    ids = ids[: ids.index(1)] if 1 in ids else ids
    return pieces.decode([i for i in ids if 2 < i < pieces.get_piece_size()])
"""

_BYTES = """\
def encode(text):  # "</s>" in a text is the end-of-sequence id
    sides = [[byte + 3 for byte in side.encode()] for side in text.split("</s>")]
    return sides[0] + [i for side in sides[1:] for i in [1, *side]]


def decode(ids):
    ids = ids[: ids.index(1)] if 1 in ids else ids
    return bytes(i - 3 for i in ids if 2 < i < 259).decode(errors="ignore")
"""


def hugging_face(student: Student, name: str) -> str:
    """The model card for a folder that transformers loads; opens with the hub's YAML."""
    asking = student.asking
    code = _TRANSFORMERS.format(
        folder=json.dumps(name),
        prefix=json.dumps(asking.label_prefix if asking else ""),
        cut=bool(asking),
        label_length=f", max_new_tokens={asking.label_length}" if asking else "",
    )
    if asking and asking.rationale_prefix is not None:
        start = asking.rationale_start
        code += _EXPLAIN.format(
            prefix=json.dumps(asking.rationale_prefix),
            length=asking.rationale_length,
            start=f", decoder_start_token_id={start}" if start else "",
        )
    use = f"```python\n{code}```\n\n{_how_to_ask(student)}"
    return f"{_yaml(student, name)}\n{_body(student, name, use)}"


def stablehlo(student: Student, name: str, manifest: Mapping[str, Any]) -> str:
    """The page of a folder of programs for jax.export."""
    tokenizer = _BYTES if student.vocabulary.spec == "bytes" else _SENTENCEPIECE
    code = _JAX.format(folder=json.dumps(name), tokenizer=tokenizer)
    if student.asking and student.asking.rationale_prefix is not None:
        code += 'rationales = ask(["your question"], "rationale")\n'
    packages = stablehlo_packages(student)
    use = (
        "Programs of jax.export and their parameters; neither sbs_jax nor flax is needed:\n\n"
        f"    pip install {' '.join(packages)}\n\n```python\n{code}```\n\n{_how_to_ask(student)} "
        "`logits` programs take (params, tokens, decoder_input_tokens) and give the logits of "
        "every decoder position; `manifest.json` has all shapes.\n\n"
        f"Lowered for {', '.join(manifest['platforms'])} with jax {manifest['versions']['jax']}. "
        f"{_VERSIONS}"
    )
    return _body(student, name, use)


def stablehlo_packages(student: Student) -> list[str]:
    """What the code of the page imports, or jax imports for it: `export` needs flatbuffers."""
    tokenizer = [] if student.vocabulary.spec == "bytes" else ["sentencepiece"]
    return ["jax", "flatbuffers", "numpy", "safetensors", *tokenizer]


def _yaml(student: Student, name: str) -> str:
    """The hub's metadata. Every value is JSON, which YAML includes."""
    lines = ["library_name: transformers", 'tags: ["t5", "distilling-step-by-step", "sbs_jax"]']
    results = [_model_index(row) for row in _rows(student)]
    if results:
        index = [{"name": name, "results": results}]
        lines.append(f"model-index: {json.dumps(index, ensure_ascii=False)}")
    return "\n".join(["---", *lines, "---", ""])


def _model_index(row: Mapping[str, Any]) -> dict[str, Any]:
    low, high = row["ci95"]
    metric = {
        "type": "accuracy",
        "value": round(row["accuracy"], 4),
        "name": f"accuracy, n = {row['n']}, 95% interval [{low:.4f}, {high:.4f}]",
    }
    dataset = {"name": row["task"], "type": row["task"], "split": row["split"]}
    return {"task": {"type": "text2text-generation"}, "dataset": dataset, "metrics": [metric]}


def _rows(student: Student) -> list[Mapping[str, Any]]:
    return student.results["results"] if student.results else []


def _body(student: Student, name: str, use: str) -> str:
    version = importlib.metadata.version("sbs_jax")
    parts = [
        f"# {name}",
        f"{_what(student)} Exported by sbs_jax {version}.",
        "## Results",
        _results(student),
        "## Use",
        use,
        "## Training",
        _training(student),
    ]
    return "\n\n".join(parts) + "\n"


def _what(student: Student) -> str:
    size = f"{student.checkpoint.size:,} parameters"
    if student.run is None:
        return f"A T5 of {size}, from the checkpoint `{student.checkpoint.path}`."
    return (
        f"A T5 of {size}, trained by {_PAPER} on `{student.run.mixture_or_task_name}` "
        f"({Asking.of(student.run).method.description}); "
        f"the checkpoint of step {student.checkpoint.step}."
    )


def _results(student: Student) -> str:
    if not student.results:
        return "None: no results are known for this checkpoint. Score it before you rely on it."
    lines = [
        "| questions | student | teacher, where it has a label | most frequent label |",
        "|---|---|---|---|",
    ]
    for row in _rows(student):
        cells = [_accuracy(row), _accuracy(row.get("teacher")), _accuracy(row.get("majority"))]
        lines.append(f"| {row['task']} {row['split']} | {' | '.join(cells)} |")
    dtype = student.checkpoint.config.dtype
    note = (
        f"{_metric(student.results)} [95% Wilson interval] (right/n, or the mean of n scores from "
        "0 to 1), by greedy decoding. The checkpoint was chosen on validation, so that row "
        f"flatters it.{_test_scores(student.test_steps)}"
    )
    if dtype != "float32":
        note += f" Computed in {dtype}: in another arithmetic single answers may differ."
    cut = [f"- {cut}" for cut in truncation.cuts(student.results)]
    if cut:
        cut = ["", "Longer than the run allows:", "", *cut]
    return "\n".join([*lines, "", note, *cut])


def _test_scores(steps: Sequence[int]) -> str:
    """How often the run was scored on test, as far as its folder tells."""
    if len(steps) < 2:
        return " Test was scored at this step alone." if steps else ""
    named = ", ".join(map(str, steps))
    return (
        f" Test was scored at {len(steps)} steps of the run ({named}): whatever was decided by "
        "these scores flatters the test row too."
    )


def _accuracy(counts: Mapping[str, Any] | None) -> str:
    return str(Accuracy.from_json(counts)) if counts else "-"


def _metric(results: Mapping[str, Any]) -> str:
    """Accuracy, and what counts as right where that is not equal text."""
    name = results.get("metric", "text")
    return "Accuracy" if name == "text" else f"Accuracy by metric `{name}`"


def _how_to_ask(student: Student) -> str:
    asking = student.asking
    if asking is None:
        return "How it was trained is not known here: put before an input what it was trained with."
    prefix = f"with the prefix `{asking.label_prefix}`" if asking.label_prefix else "without prefix"
    sentences = [f"Ask a question {prefix}"]
    if asking.rationale_start:
        sentences.append(
            f" (the decoder gives the student's rationale where it starts with id "
            f"{asking.rationale_start} instead of 0)"
        )
    elif asking.rationale_prefix is not None:
        sentences.append(f" (`{asking.rationale_prefix}` gives the student's rationale)")
    sentences.append(
        f". It is truncated after {asking.input_length} tokens; a label has at most "
        f"{asking.label_length}"
    )
    if asking.rationale_prefix is not None:
        sentences.append(f", a rationale at most {asking.rationale_length}")
    sentences.append(". `</s>` in a question is the end-of-sequence id.")
    if asking.method.name == "pinto":
        sentences.append(" After the question follow a line break and the teacher's rationale.")
    if asking.method.name == "single_task":
        sentences.append(f" The label is what follows the last `{ANSWER_PHRASE}` of the output.")
    return "".join(sentences)


def _training(student: Student) -> str:
    run = student.run
    if run is None:
        return "Not known here."
    facts = {
        "mixture": run.mixture_or_task_name,
        "updates": f"{run.train_steps} of {run.batch_size} questions",
        "alpha": run.alpha,
        "optimizer": f"{run.optimizer.preset}, learning rate {run.optimizer.learning_rate:g}",
        "started from": run.initial_checkpoint_path or "random parameters",
        "share of the training questions": run.data_fraction,
        "seed": run.random_seed,
        "computed in": run.model.dtype,
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    versions = ", ".join(f"{k} {v}" for k, v in (student.results or {}).get("versions", {}).items())
    return f"| | |\n|---|---|\n{table}\n\n{_again(student, run)}" + (
        f"\n\nWith {versions}." if versions else ""
    )


def _again(student: Student, run: TrainConfig) -> str:
    """The commands that train the run again, and what they need that the folder lacks."""
    if not student.config_gin:
        return "The run left no config.gin for `sbs train`: it was not started by it."
    train = f"sbs train --gin_file={CONFIG_GIN} --gin.MODEL_DIR='\"{_AGAIN}\"'"
    if run.vocabulary not in vocabularies.NAMES:
        train += f" --gin.VOCABULARY='\"{SPIECE}\"'"
    commands, data = [train], "`--data_dir` says where they are, if not in the default folder"
    if "@own_data.registered()" in student.config_gin:
        copy = f"mkdir -p {_AGAIN} && cp -r RUN/{own_data.DATA} {_AGAIN}/"
        commands, data = [copy, train], "`RUN` is its MODEL_DIR, which holds them"
    lacks = f"This folder lacks the run's data: {data}."
    if run.initial_checkpoint_path:
        lacks += " It also lacks the checkpoint that the run started from."
    shown = "\n".join(f"    {command}" for command in commands)
    return f"The same run again, from this folder:\n\n{shown}\n\n{lacks}"
