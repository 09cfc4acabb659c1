"""The vocabulary of a Hugging Face folder, and the tokens that a fine-tune added to it.

transformers keeps such tokens next to the SentencePiece model, in three files of different ages:
``added_tokens.json``, ``tokenizer_config.json`` (``added_tokens_decoder``) and ``tokenizer.json``.
A vocabulary of ours is the SentencePiece model alone, so a text with an added token would get other
ids than the model was trained with.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sbs_jax.errors import UserError

SPIECE = "spiece.model"
_ADDED, _CONFIG, _TOKENIZER = "added_tokens.json", "tokenizer_config.json", "tokenizer.json"
_SPECIAL = {"<pad>": 0, "</s>": 1, "<unk>": 2}
_EXTRA_ID = re.compile("▁?<extra_id_[0-9]+>")


def read(folder: Path, settings: Mapping[str, Any]) -> tuple[str | None, dict[str, int]]:
    """(what `vocabularies.load` takes, or None where the folder does not say; {added token: id}).

    Raises UserError for a tokenizer file that is not JSON.
    """
    config = _json(folder / _CONFIG)
    classes = {str(source.get("tokenizer_class", "")) for source in (settings, config)}
    spiece = folder / SPIECE
    if any(name.startswith("ByT5Tokenizer") for name in classes):
        vocabulary, pieces = "bytes", []
    elif spiece.is_file():
        vocabulary, pieces = str(spiece), _pieces(spiece)
    else:
        vocabulary, pieces = None, []
    known = _SPECIAL | {piece: number for number, piece in enumerate(pieces)}
    added = {
        token: number
        for token, number in _tokens(folder, config)
        if known.get(token) != number and not _EXTRA_ID.fullmatch(token)
    }
    return vocabulary, added


def refuse_added(added: Mapping[str, int], path: str) -> None:
    """Raises UserError, naming the tokens, where a fine-tune added some."""
    if added:
        raise UserError(
            f"{path}: {describe_added(added)}; a vocabulary here is a SentencePiece model without "
            "added tokens: give --vocabulary to convert without them, texts with them then get "
            "other ids than in training"
        )


def describe_added(added: Mapping[str, int]) -> str:
    """One phrase: how many tokens its tokenizer has besides its vocabulary, and which."""
    some = ", ".join(f"{token!r} = {number}" for token, number in list(added.items())[:3])
    dots = ", ..." if len(added) > 3 else ""
    return f"its tokenizer has {len(added)} added token{'s'[: len(added) > 1]} ({some}{dots})"


def _tokens(folder: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """(content, id) of every token that a file lists besides the SentencePiece model."""
    for token, number in _json(folder / _ADDED).items():
        if isinstance(number, int):
            yield token, number
    decoder = config.get("added_tokens_decoder")
    for number, entry in (decoder if isinstance(decoder, dict) else {}).items():
        content = entry.get("content") if isinstance(entry, dict) else entry
        if str(number).isdigit() and isinstance(content, str):
            yield content, int(number)
    entries = _json(folder / _TOKENIZER).get("added_tokens")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("content"), str):
            yield entry["content"], int(entry.get("id", -1))


def _pieces(spiece: Path) -> list[str]:
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2 as pb

    try:
        proto = pb.ModelProto.FromString(spiece.read_bytes())  # type: ignore[attr-defined]
        return [piece.piece for piece in proto.pieces]
    except (DecodeError, OSError):
        raise UserError(f"{spiece}: not a SentencePiece model; copy it again") from None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path}: cannot be read as JSON; copy it again") from None
    return value if isinstance(value, dict) else {}
