"""Folders that are not yet a checkpoint: what they hold, and the next step for each.

People point at what their training left behind: a LoRA adapter, the folder above a Trainer's
checkpoints, Flax or TensorFlow weights, a file for another runtime. Reading such a folder ends with
one line that names the file and the command that makes a checkpoint of it.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from sbs_jax.errors import UserError
from sbs_jax.utils.console import say

_SAVE = "then save_pretrained() writes a folder with model.safetensors"
_ADAPTER = (
    "a LoRA adapter holds only changes to a model: merge it first with PEFT, "
    f"AutoPeftModelForSeq2SeqLM.from_pretrained(FOLDER).merge_and_unload(), {_SAVE}"
)
_PROMPTS = (
    "an adapter of type {kind} holds learned inputs, which cannot be merged into a model: take the "
    "model alone, or a LoRA adapter"
)
_TYPES_OF_PROMPTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING")
_ORIGINAL = "it cannot be turned back: give the folder it was made from"

_TENSORFLOW = "*.ckpt-*.index"

# (file pattern, what it is and what to do); the first that matches is named, in the folder itself
# before those in its subfolders.
_FOREIGN = (
    (
        "model-*-of-*.safetensors",
        "a part of the weights: copy model.safetensors.index.json, which names all of them, too",
    ),
    ("*.safetensors", "under another name: give that file, or rename it model.safetensors"),
    (
        "flax_model*.msgpack",
        f"Flax weights: load them with from_flax=True in transformers, {_SAVE}",
    ),
    ("tf_model*.h5", f"TensorFlow weights: load them with from_tf=True in transformers, {_SAVE}"),
    (
        _TENSORFLOW,
        "a TensorFlow checkpoint, as the first T5 was published: take the model in T5X's or "
        "Hugging Face's format",
    ),
    ("saved_model.pb", f"a TensorFlow program: {_ORIGINAL}"),
    ("rust_model.ot", f"weights for rust-bert: {_ORIGINAL}"),
    ("*.gguf", f"weights for llama.cpp, often quantised: {_ORIGINAL}"),
    ("*.onnx", f"a program for ONNX runtimes: {_ORIGINAL}"),
    ("model.bin", f"a model for CTranslate2: {_ORIGINAL}"),
    ("*.stablehlo", f"programs written by sbs export --to=stablehlo: {_ORIGINAL}"),
    ("zero_to_fp32.py", "a DeepSpeed checkpoint: run its zero_to_fp32.py to gather the weights"),
    ("*.distcp", "a sharded PyTorch checkpoint: gather it with accelerate merge-weights first"),
    ("*.ckpt", f"a PyTorch Lightning checkpoint: load it with your module, {_SAVE}"),
    (
        "optimizer.pt",
        "the state of a Trainer without the weights: copy the model.safetensors next to it too",
    ),
    ("*.pt", f"a PyTorch file of unknown content: load it with your own script, {_SAVE}"),
    ("*.pth", f"a PyTorch file of unknown content: load it with your own script, {_SAVE}"),
)
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_ADAPTER_NAME = re.compile(r"(^|[._])lora_|\.base_layer\.|^prompt_(embeddings|encoder)|\.ia3_")
_TRAINERS = re.compile(r"checkpoint[-_](\d+)")
# The file that makes a subfolder a checkpoint: Hugging Face's, T5X's.
_READABLE = ("config.json", "checkpoint")
_POINTER = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(file: Path) -> None:
    """Raises UserError where Git LFS left its pointer in place of a large file."""
    try:
        with file.open("rb") as opened:
            pointer = opened.read(len(_POINTER)) == _POINTER
    except OSError:
        return  # its reader reports why it cannot be read
    if pointer:
        raise UserError(
            f"{file}: a pointer of Git LFS, not the file itself; run git lfs pull there, or "
            "download the file"
        )


def is_tensorflow(folder: Path) -> bool:
    """Whether a folder's file ``checkpoint``, which T5X has too, is TensorFlow's."""
    return any(folder.glob(_TENSORFLOW))


def refuse_adapter(folder: Path) -> None:
    """Raises UserError where an adapter lies in the folder or one below, alone or with its model.

    Those in a Trainer's checkpoint-N below a model may be merged into it already: prints a line.
    """
    with_model = any(folder.glob("model*.safetensors")) or any(folder.glob("pytorch_model*.bin"))
    for file in _adapters(folder):
        trainers = _TRAINERS.fullmatch(file.parent.name) and file.parent != folder
        if with_model and trainers:
            say(f"{file.parent}: an adapter, which is not read; merge it unless the model has it")
            continue
        if not with_model and file.parent != folder and _inside(folder):
            continue  # another folder below is a model, and is named
        also = "; to take the model without it, move the adapter's files away" if with_model else ""
        raise UserError(f"{file}: {_adapter(file)}{also}")


def _adapters(folder: Path) -> list[Path]:
    """A file of each adapter in the folder, then in the folders below it, the newest first."""
    below = sorted(folder.glob("*/"), key=lambda place: (-_number(place), place.name))
    return [
        next(file for name in _ADAPTER_FILES if (file := place / name).is_file())
        for place in (folder, *below)
        if any((place / name).is_file() for name in _ADAPTER_FILES)
    ]


def _number(place: Path) -> int:
    """N of a Trainer's checkpoint-N; else 0."""
    match = _TRAINERS.fullmatch(place.name)
    return int(match[1]) if match else 0


def _adapter(config: Path) -> str:
    """What an adapter's configuration says it is, and what to do with it."""
    try:
        kind = json.loads(config.read_text(encoding="utf-8-sig"))["peft_type"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return _ADAPTER
    return _PROMPTS.format(kind=kind) if kind in _TYPES_OF_PROMPTS else _ADAPTER


def refuse_adapter_names(names: Iterable[str], path: str) -> None:
    """Raises UserError where the tensors are those of an adapter that is not merged."""
    for name in names:
        if _ADAPTER_NAME.search(name):
            raise UserError(f"{path}: holds {name}; {_ADAPTER}")


def next_step(folder: Path) -> str | None:
    """What to do with a folder that holds no checkpoint, or None where nothing in it is known."""
    return _inside(folder) or _foreign(folder)


def _inside(folder: Path) -> str | None:
    """The checkpoint that a subfolder holds: a Trainer's newest, or else any, two levels deep."""
    below = [*sorted(folder.glob("*/")), *sorted(folder.glob("*/*/"))]
    readable = [place for place in below if any((place / name).is_file() for name in _READABLE)]
    trainers = [place for place in readable if _TRAINERS.fullmatch(place.name)]
    newest = max(trainers, key=_number, default=None)
    chosen = newest or next(iter(readable), None)
    if chosen is None:
        return None
    others = len(trainers) if newest else len(readable)
    word = "the newest" if newest else "one"
    of = f" ({word} of {others})" if others > 1 else ""
    return f"it holds {chosen.relative_to(folder)}{of}: give that folder"


def _foreign(folder: Path) -> str | None:
    for depth in ("", "*/"):
        for pattern, meaning in _FOREIGN:
            for file in sorted(folder.glob(depth + pattern)):
                return f"{file.relative_to(folder)} is {meaning}"
    return None


def describe_file(file: Path) -> str | None:
    """The same for one file."""
    if file.name in _ADAPTER_FILES:
        return _ADAPTER
    for pattern, meaning in _FOREIGN:
        if file.match(pattern):
            return f"this is {meaning}"
    return None
