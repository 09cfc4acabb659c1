"""INITIAL_CHECKPOINT_PATH: parameters to start from, in whatever format the path holds."""

import dataclasses
import re
from pathlib import Path

from sbs_jax.checkpoints.formats import foreign_files, hf, hf_vocabulary, hub, native, t5x
from sbs_jax.checkpoints.formats.params import Checkpoint, check_fits, read_all
from sbs_jax.configs import T5Config
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline.vocabularies import Vocabulary
from sbs_jax.runs import run_dir
from sbs_jax.utils import buckets, paths
from sbs_jax.utils.buckets import place
from sbs_jax.utils.console import say
from sbs_jax.utils.paths import is_remote

FORMATS = {"hf": "Hugging Face", "t5x": "T5X", "sbs": "sbs_jax"}
_READERS = {"hf": hf.read, "t5x": t5x.read, "sbs": native.read}

_ACCEPTED = (
    "give a Hugging Face folder with model.safetensors, a T5X checkpoint_STEP folder, or a "
    "MODEL_DIR of sbs train"
)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_params(path: str, config: T5Config, vocabulary: Vocabulary | None = None) -> dict:
    """Float32 parameters on the host; prints the format of the checkpoint.

    Raises UserError if the path holds no known checkpoint, one that does not fit `config` (naming
    the parameters that differ), or one of a run with another vocabulary than `vocabulary`.
    """
    try:
        checkpoint = find(path)
        say(
            f"INITIAL_CHECKPOINT_PATH {path}: {FORMATS[checkpoint.kind]} checkpoint of step "
            f"{checkpoint.step}, {checkpoint.size:,} parameters"
        )
        if checkpoint.added_tokens:
            added = hf_vocabulary.describe_added(checkpoint.added_tokens)
            say(f"INITIAL_CHECKPOINT_PATH {path}: {added}; VOCABULARY does not use them")
        if vocabulary is not None and not trained_with(checkpoint, vocabulary):
            raise UserError(
                f"{path}: was trained with another vocabulary than {vocabulary.spec!r}; set "
                f"VOCABULARY (with --records: --vocabulary) to {checkpoint.vocabulary!r}"
            )
        check_fits(checkpoint.params, config, path)
        return read_all(checkpoint)
    except UserError as error:
        raise UserError(f"INITIAL_CHECKPOINT_PATH {error}") from None


def find(path: str, kind: str | None = None) -> Checkpoint:
    """Opens the checkpoint at a path; reads names and shapes, not yet the numbers.

    Args:
        path: a folder, a file of weights, a ``gs://`` address of a T5X checkpoint, or a model of
            the Hugging Face hub, ``hf://OWNER/NAME``.
        kind: hf, t5x or sbs; None looks. With hf, OWNER/NAME is a model of the hub where there is
            no such folder.

    Raises UserError if there is none, it is damaged, or it is not a T5 this model can hold.
    """
    path = paths.expand(path)
    if kind == "hf" and _HUB_ID.fullmatch(path) and not Path(path).exists():
        path = hub.SCHEME + path
    if path.startswith(hub.SCHEME) and kind in (None, "hf"):
        checkpoint = hf.read(str(hub.fetch(path)))
        return dataclasses.replace(checkpoint, path=path)
    return _READERS[kind or _kind(path)](path)


def trained_with(checkpoint: Checkpoint, vocabulary: Vocabulary) -> bool:
    """Whether a run's checkpoint has this vocabulary; True where no run of ours says so."""
    if checkpoint.kind != "sbs":
        return True
    return run_dir.has_vocabulary(place(checkpoint.path).parent.parent, vocabulary.fingerprint)


def another_vocabulary(checkpoint: Checkpoint) -> UserError:
    """The error for a checkpoint whose `vocabulary` is not that of its run."""
    model_dir = place(checkpoint.path).parent.parent
    return UserError(
        f"--vocabulary {checkpoint.vocabulary!r}: not the vocabulary {model_dir} was trained with; "
        "give that one"
    )


def with_vocabulary(checkpoint: Checkpoint, spec: str | None) -> Checkpoint:
    """Adds a vocabulary to the checkpoint: `spec`, or else the one it names.

    Raises UserError where its own tokenizer has tokens that no vocabulary here can hold.
    """
    if spec:
        return dataclasses.replace(checkpoint, vocabulary=spec)
    hf_vocabulary.refuse_added(checkpoint.added_tokens, checkpoint.path)
    return checkpoint


def _kind_in_bucket(url: str) -> str:
    """Ours where the bucket holds what `sbs train` or `sbs convert` writes, else T5X's."""
    name = url.rstrip("/").rpartition("/")[2]
    if name.startswith("checkpoint_") or not buckets.can_list(url):
        return "t5x"
    buckets.reach(url, "checkpoint")
    folder = buckets.place(url)
    if name == native.CHECKPOINTS or (name.isdigit() and (folder / t5x.ORBAX).is_dir()):
        return "sbs"
    return "sbs" if (folder / native.CHECKPOINTS).is_dir() else "t5x"


def _kind(path: str) -> str:
    if is_remote(path):
        return _kind_in_bucket(path)
    place = Path(path)
    if place.is_file():
        if place.suffix in (".safetensors", ".bin"):
            return "hf"
        known = foreign_files.describe_file(place)
        raise UserError(f"{path}: no file of weights (.safetensors or .bin); {known or _ACCEPTED}")
    if not place.exists():
        hint = f"; a model of the hub is {hub.SCHEME}{path}" if _HUB_ID.fullmatch(path) else ""
        raise UserError(f"{path}: no checkpoint found; {_ACCEPTED}{hint}")
    if (place / t5x.INDEX).is_file() and not foreign_files.is_tensorflow(place):
        return "t5x"
    if native.CHECKPOINTS in (place.name, *(inside.name for inside in place.iterdir())):
        return "sbs"
    if (place / t5x.ORBAX).is_dir():
        return "sbs" if place.name.isdigit() else "t5x"
    foreign_files.refuse_adapter(place)
    if (place / hf.CONFIG).is_file() or any(place.glob("*.safetensors")):
        return "hf"
    raise UserError(f"{path}: no checkpoint found; {foreign_files.next_step(place) or _ACCEPTED}")
