"""Folders that are not yet a checkpoint: what they hold, and the next step for each.

People point at what their training left behind: a LoRA adapter, the folder above a Trainer's
checkpoints, Flax or TensorFlow weights, a file for another runtime. Reading such a folder ends with
one line that names the file and the command that makes a checkpoint of it.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from sbs_jax.errors import UserError

_SAVE = "then save_pretrained() writes a folder with model.safetensors"
_ADAPTER = (
    "a LoRA adapter holds only changes to a model: merge it first with PEFT, "
    f"AutoPeftModelForSeq2SeqLM.from_pretrained(FOLDER).merge_and_unload(), {_SAVE}"
)
_ORIGINAL = "it cannot be turned back: give the folder it was made from"

# (file pattern, what it is and what to do); the first that matches is named.
_FOREIGN = (
    (
        "flax_model*.msgpack",
        f"Flax weights: load them with from_flax=True in transformers, {_SAVE}",
    ),
    ("tf_model*.h5", f"TensorFlow weights: load them with from_tf=True in transformers, {_SAVE}"),
    ("rust_model.ot", f"weights for rust-bert: {_ORIGINAL}"),
    ("*.gguf", f"weights for llama.cpp, often quantised: {_ORIGINAL}"),
    ("*.onnx", f"a program for ONNX runtimes: {_ORIGINAL}"),
    ("model.bin", f"a model for CTranslate2: {_ORIGINAL}"),
    ("*.stablehlo", f"programs written by sbs export --to=stablehlo: {_ORIGINAL}"),
    ("zero_to_fp32.py", "a DeepSpeed checkpoint: run its zero_to_fp32.py to gather the weights"),
    ("*.distcp", "a sharded PyTorch checkpoint: gather it with accelerate merge-weights first"),
    ("*.ckpt", f"a PyTorch Lightning checkpoint: load it with your module, {_SAVE}"),
    ("*.pt", f"a PyTorch file of unknown content: load it with your own script, {_SAVE}"),
    ("*.pth", f"a PyTorch file of unknown content: load it with your own script, {_SAVE}"),
)
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_ADAPTER_NAME = re.compile(r"(^|[._])lora_|\.base_layer\.|^prompt_(embeddings|encoder)|\.ia3_")
_TRAINERS = re.compile(r"checkpoint[-_](\d+)")


def refuse_adapter(folder: Path) -> None:
    """Raises UserError where a LoRA adapter lies in the folder, alone or next to its model."""
    for name in _ADAPTER_FILES:
        if (folder / name).is_file():
            with_model = any(folder.glob("model*.safetensors")) or any(
                folder.glob("pytorch_model*.bin")
            )
            also = (
                "; to take the model without it, move the adapter's files away"
                if with_model
                else ""
            )
            raise UserError(f"{folder / name}: {_ADAPTER}{also}")


def refuse_adapter_names(names: Iterable[str], path: str) -> None:
    """Raises UserError where the tensors are those of an adapter that is not merged."""
    for name in names:
        if _ADAPTER_NAME.search(name):
            raise UserError(f"{path}: holds {name}; {_ADAPTER}")


def next_step(folder: Path, readable: Mapping[str, str] | None = None) -> str | None:
    """What to do with a folder that holds no checkpoint, or None where nothing in it is known.

    Args:
        readable: {file that makes a subfolder a checkpoint: name of the format}; default: a
            Trainer's ``checkpoint-500/config.json`` and T5X's ``checkpoint_1000/checkpoint``.
    """
    readable = readable or {"config.json": "Hugging Face", "checkpoint": "T5X"}
    inside = [
        entry
        for entry in folder.iterdir()
        if _TRAINERS.fullmatch(entry.name) and any((entry / name).is_file() for name in readable)
    ]
    if inside:
        newest = max(inside, key=lambda entry: int(re.split("[-_]", entry.name)[-1]))
        others = f" (the newest of {len(inside)})" if len(inside) > 1 else ""
        return f"it holds {newest.name}{others}: give that folder"
    for pattern, meaning in _FOREIGN:
        for file in sorted(folder.glob(pattern)):
            return f"{file.name} is {meaning}"
    return None


def describe_file(file: Path) -> str | None:
    """The same for one file."""
    if file.name in _ADAPTER_FILES:
        return _ADAPTER
    for pattern, meaning in _FOREIGN:
        if file.match(pattern):
            return f"this is {meaning}"
    return None
