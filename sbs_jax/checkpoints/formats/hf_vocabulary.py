"""The vocabulary of a Hugging Face folder, and the tokens that a fine-tune added to it.

transformers keeps such tokens next to the SentencePiece model, in four files of different ages:
``added_tokens.json``, ``special_tokens_map.json`` (which gives no ids), ``tokenizer_config.json``
and ``tokenizer.json``.
A vocabulary of ours is the SentencePiece model alone, so a text with an added token would get other
ids than the model was trained with.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sbs_jax.checkpoints.formats import foreign_files
from sbs_jax.errors import UserError

SPIECE = "spiece.model"
_ADDED, _CONFIG, _TOKENIZER = "added_tokens.json", "tokenizer_config.json", "tokenizer.json"
_SPECIAL_MAP = "special_tokens_map.json"
_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_ROLE_FIELDS = (
    *(f"{role}_token" for role in _ROLES),
    "additional_special_tokens",
    "extra_special_tokens",
)
_SPECIAL = {"<pad>": 0, "</s>": 1, "<unk>": 2}
_EXTRA_ID = re.compile("▁?<extra_id_[0-9]+>")


# An added token's content -> its id; None where no file gives it.
Added = dict[str, int | None]


def read(folder: Path, settings: Mapping[str, Any]) -> tuple[str | None, Added]:
    """(what `vocabularies.load` takes, or None where the folder does not say; added tokens).

    Raises UserError for a tokenizer file that is not JSON.
    """
    config = json_object(folder / _CONFIG)
    classes = {str(source.get("tokenizer_class", "")) for source in (settings, config)}
    spiece = folder / SPIECE
    if any(name.startswith("ByT5Tokenizer") for name in classes):
        vocabulary, pieces = "bytes", []
    elif spiece.is_file():
        vocabulary, pieces = str(spiece), _pieces(spiece)
    else:
        vocabulary, pieces = None, []
    known = _SPECIAL | {piece: number for number, piece in enumerate(pieces)}
    added: Added = {}
    for token, number in _tokens(folder, config):
        same = token in known and number in (None, known[token])
        if not same and not _EXTRA_ID.fullmatch(token) and added.get(token) is None:
            added[token] = number
    return vocabulary, added


def refuse_added(added: Mapping[str, int | None], path: str) -> None:
    """Raises UserError, naming the tokens, where a fine-tune added some."""
    if added:
        raise UserError(
            f"{path}: {describe_added(added)}; a vocabulary here is a SentencePiece model without "
            "added tokens: give --vocabulary to convert without them, texts with them then get "
            "other ids than in training"
        )


def describe_added(added: Mapping[str, int | None]) -> str:
    """One phrase: how many tokens its tokenizer has besides its vocabulary, and which."""
    some = ", ".join(
        repr(token) if number is None else f"{token!r} = {number}"
        for token, number in list(added.items())[:3]
    )
    dots = ", ..." if len(added) > 3 else ""
    return f"its tokenizer has {len(added)} added token{'s'[: len(added) > 1]} ({some}{dots})"


def _tokens(folder: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, int | None]]:
    """(content, id) of every token that a file lists besides the SentencePiece model."""
    for token, number in json_object(folder / _ADDED).items():
        yield token, _id(number)
    decoder = config.get("added_tokens_decoder")
    for number, entry in (decoder if isinstance(decoder, dict) else {}).items():
        for content in _contents(entry):
            yield content, _id(number)
    entries = json_object(folder / _TOKENIZER).get("added_tokens")
    for entry in entries if isinstance(entries, list) else []:
        for content in _contents(entry):
            yield content, _id(entry.get("id") if isinstance(entry, dict) else None)
    for roles in (config, json_object(folder / _SPECIAL_MAP)):
        for field in _ROLE_FIELDS:
            for content in _contents(roles.get(field)):
                yield content, None


def _contents(entry: Any) -> Iterator[str]:
    """The tokens of an entry: text, an object with its content, a list of both, or by names."""
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict) and isinstance(entry.get("content"), str):
        yield entry["content"]
    elif isinstance(entry, list | dict):
        for inner in entry.values() if isinstance(entry, dict) else entry:
            yield from _contents(inner)


def _id(value: Any) -> int | None:
    """A token's id, which some files write as text; None for anything else."""
    return int(value) if str(value).isascii() and str(value).isdigit() else None


def _pieces(spiece: Path) -> list[str]:
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2 as pb

    foreign_files.refuse_pointer(spiece)
    try:
        proto = pb.ModelProto.FromString(spiece.read_bytes())  # type: ignore[attr-defined]
        pieces = [piece.piece for piece in proto.pieces]
    except (DecodeError, OSError):
        pieces = []
    if not pieces:  # an empty file too is a valid message
        raise UserError(f"{spiece}: not a SentencePiece model; copy it again")
    return pieces


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, a byte order mark before it removed; {} without the file.

    Raises UserError for a file that cannot be read or holds anything else.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path}: cannot be read as JSON; copy it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object; copy it again")
    return value
