"""A student as programs that jax.export reloads: no model code of ours is needed to run them.

A program is traced from shapes alone and takes the parameters as an argument, so that tracing a
large model takes little memory, and a program has 0.4 to 5 MB. The number of questions is open; the
length of the input is not (T5's relative positions become constants), so there is a program per
length. An open batch is a feature that older readers lack, so a program for `FIXED_BATCH` questions
lies next to each.
"""

import importlib.metadata
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from sbs_jax.checkpoints import convert
from sbs_jax.checkpoints.formats.hf_tokenizer import SPIECE
from sbs_jax.checkpoints.formats.hf_write import write_safetensors
from sbs_jax.checkpoints.formats.params import nested, read_arrays, shapes_of
from sbs_jax.configs import T5Config
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.errors import UserError
from sbs_jax.export import model_card
from sbs_jax.inference.student import Student
from sbs_jax.input_pipeline import vocabularies
from sbs_jax.models import decoding
from sbs_jax.models.t5 import Transformer
from sbs_jax.runs.layout import CONFIG_GIN
from sbs_jax.utils.files import atomic_folder

PLATFORMS = ("cpu", "cuda", "tpu")
MANIFEST, WEIGHTS = "manifest.json", "model.safetensors"
_FORMAT = 2  # 1 had no fixed batches
FIXED_BATCH = 16
_INPUT_LENGTH, _DECODE_LENGTH = 512, 63  # where no run says so
_SHORTEST = 16
_LIBRARIES = ("sbs_jax", "jax", "jaxlib", "flax")


def default_lengths(longest: int) -> list[int]:
    """The longest and up to three halvings of it: a short question need not pay for a long one."""
    halved = [longest // 2**power for power in (3, 2, 1)]
    return [length for length in halved if length >= _SHORTEST] + [longest]


def write(
    student: Student,
    destination: str,
    platforms: Sequence[str] = PLATFORMS,
    input_lengths: Sequence[int] = (),
) -> bool:
    """Writes programs, parameters, vocabulary, manifest and a page on how to use them.

    Args:
        platforms: of jax, on which the programs shall run.
        input_lengths: of tokenised questions; default: `default_lengths` of the run's.

    Returns:
        Whether a program was loaded again and gave the ids that we get: only models of at most
        `convert.LOGITS_BYTES` fit for that.

    Raises:
        UserError: the folder is there or cannot be written, or a program came out different.
    """
    asking = student.asking
    longest = asking.input_length if asking else _INPUT_LENGTH
    lengths = sorted(set(input_lengths)) or default_lengths(longest)
    with atomic_folder(destination) as partial:
        partial.mkdir(parents=True)
        programs = [
            _export(partial, task, length, decoded, batch, student, platforms)
            for batch in (None, FIXED_BATCH)
            for task, decoded in _tasks(student).items()
            for length in lengths
        ]
        manifest = _manifest(student, programs, lengths, platforms)
        _write_text(partial / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        name = Path(destination).resolve().name
        _write_text(partial / "README.md", model_card.stablehlo(student, name, manifest))
        if student.config_gin:
            _write_text(partial / CONFIG_GIN, student.config_gin)
        if student.vocabulary.spec != "bytes":
            spiece = vocabularies.model_path(student.vocabulary.spec)
            shutil.copyfile(spiece, partial / SPIECE)
        write_safetensors(partial / WEIGHTS, student.checkpoint.params)
        return _check(partial, student, programs[0])


def _tasks(student: Student) -> dict[str, int]:
    """What is computed, and the number of decoder positions of it."""
    asking = student.asking
    tasks = {"label": asking.label_length if asking else _DECODE_LENGTH}
    if asking and asking.rationale_prefix is not None:
        tasks["rationale"] = asking.rationale_length
    return {**tasks, "logits": tasks["label"]}


def _export(
    folder: Path,
    task: str,
    length: int,
    decoded: int,
    batch: int | None,
    student: Student,
    platforms: Sequence[str],
) -> dict[str, Any]:
    """Writes one program, for any number of questions or for `batch`.

    Returns its entry in the manifest.
    """
    (rows,) = export.symbolic_shape("batch") if batch is None else (batch,)
    inputs = [jax.ShapeDtypeStruct((rows, length), jnp.int32)]
    if task == "logits":
        inputs.append(jax.ShapeDtypeStruct((rows, decoded), jnp.int32))
    config = student.config
    start_id = _start_ids(student).get(task, decoding.PAD_ID)
    program = _logits(config) if task == "logits" else _ids(config, decoded, start_id)
    params = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes_of(config).items()
    }
    exported = export.export(jax.jit(program), platforms=tuple(platforms))(params, *inputs)
    file = f"{task}-{length}{'' if batch is None else f'-batch{batch}'}.stablehlo"
    (folder / file).write_bytes(exported.serialize())
    (output,) = exported.out_avals
    return {
        "file": file,
        "computes": task,
        "input_length": length,
        "batch": batch,
        "arguments": ["parameters", *(_described(tokens) for tokens in inputs)],
        "result": _described(output),
        "calling_convention": exported.calling_convention_version,
    }


def _start_ids(student: Student) -> dict[str, int]:
    """The decoder's first input by task."""
    starts = {"label": decoding.PAD_ID}
    asking = student.asking
    if asking and asking.rationale_prefix is not None:
        starts["rationale"] = asking.rationale_start
    return starts


def _described(array: Any) -> dict[str, Any]:
    sizes = [size if isinstance(size, int) else str(size) for size in array.shape]
    return {"shape": sizes, "dtype": np.dtype(array.dtype).name}


def _ids(
    config: T5Config, length: int, start_id: int = decoding.PAD_ID
) -> Callable[..., jax.Array]:
    """(params by name, tokens) -> the ids that `decoding.greedy` gives."""
    one_device = Partitioner(devices=jax.devices()[:1])

    def program(params: dict, tokens: jax.Array) -> jax.Array:
        return decoding.greedy(
            nested(params),
            tokens,
            config=config,
            partitioner=one_device,
            max_decode_length=length,
            start_id=start_id,
        )

    return program


def _logits(config: T5Config) -> Callable[..., jax.Array]:
    """(params by name, tokens, decoder_input_tokens) -> logits of every decoder position.

    The decoder's input begins with the start (manifest: start_ids), followed by the ids so far.
    """

    def program(params: dict, tokens: jax.Array, decoder_input_tokens: jax.Array) -> jax.Array:
        batch = {
            "encoder_input_tokens": tokens,
            "encoder_segment_ids": (tokens > 0).astype(jnp.int32),
            "decoder_input_tokens": decoder_input_tokens,
            "decoder_segment_ids": jnp.ones_like(decoder_input_tokens),
        }
        logits: Any = Transformer(config).apply({"params": nested(params)}, batch)
        return logits

    return program


def _manifest(
    student: Student,
    programs: Sequence[dict[str, Any]],
    lengths: Sequence[int],
    platforms: Sequence[str],
) -> dict[str, Any]:
    checkpoint, run, asking = student.checkpoint, student.run, student.asking
    prefixes = {"label": asking.label_prefix if asking else ""}
    if asking and asking.rationale_prefix is not None:
        prefixes["rationale"] = asking.rationale_prefix
    return {
        "format": _FORMAT,
        "mixture": run.mixture_or_task_name if run else None,
        "step": checkpoint.step,
        "prefixes": prefixes,
        "start_ids": _start_ids(student),
        "input_lengths": list(lengths),
        "pad_id": vocabularies.PAD_ID,
        "eos_id": vocabularies.EOS_ID,
        "vocab_size": checkpoint.config.vocab_size,
        "computed_in": checkpoint.config.dtype,
        "parameters": {"file": WEIGHTS, "dtype": "float32", "numbers": checkpoint.size},
        "programs": list(programs),
        "platforms": list(platforms),
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "results": student.results["results"] if student.results else None,
    }


def _check(folder: Path, student: Student, program: dict[str, Any]) -> bool:
    """Loads a program and the parameters again and asks both it and us two questions."""
    checkpoint = student.checkpoint
    if sum(array.nbytes for array in checkpoint.params.values()) > convert.LOGITS_BYTES:
        return False
    from safetensors.numpy import load_file

    loaded = load_file(folder / WEIGHTS)
    rng = np.random.default_rng(0)
    shape = (2, program["input_length"])
    tokens = rng.integers(3, checkpoint.config.vocab_size, shape).astype(np.int32)
    tokens[1, shape[1] // 2 :] = vocabularies.PAD_ID
    ids = export.deserialize((folder / program["file"]).read_bytes()).call(loaded, tokens)
    params = read_arrays(checkpoint)
    expected = jax.jit(_ids(checkpoint.config, ids.shape[1]))(params, jnp.asarray(tokens))
    same = all(np.array_equal(_bits(loaded[name]), _bits(params[name])) for name in params)
    if not same or not np.array_equal(ids, expected):
        raise UserError(f"{folder}: {program['file']} came out different; nothing was kept")
    return True


def _bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(np.uint32)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
