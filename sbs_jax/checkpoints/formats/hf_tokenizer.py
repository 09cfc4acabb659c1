"""Writes a vocabulary as tokenizer files from which transformers' AutoTokenizer makes our ids.

``tokenizer.json`` describes the whole pipeline (the format of Hugging Face's tokenizers library),
and ``tokenizer_config.json`` names the class that takes it unchanged. ``T5Tokenizer`` of
transformers 5 does not: it always builds a Unigram model without byte fallback, which is wrong for
mT5's vocabulary and for one of whole words. ``spiece.model`` is for programs that use
SentencePiece.

Own code: `tokenizers` could build the same file, but a training install does not bring it, and
`sbs convert --to=hf` works there. transformers' converter needs torch, and cannot
read a model of whole words.
"""

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

from sbs_jax.input_pipeline import vocabularies

SPIECE = "spiece.model"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
_SPACE = "▁"
_SPECIAL = ("<pad>", "</s>", "<unk>")  # by id
_TOKENS = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
_EXTRA_PIECE = re.compile("▁?(<extra_id_([0-9]+)>)")
_BYTE_EXTRA_IDS = 125
_MOST_SPACES = 2**16


def write(folder: Path, vocabulary: str, input_length: int | None = None) -> bool:
    """Writes the tokenizer's files into a folder that exists.

    Args:
        vocabulary: what `vocabularies.load` takes.
        input_length: where the tokenizer truncates on request, EOS kept; None: nowhere.

    Returns:
        Whether AutoTokenizer can load them: not for a SentencePiece model of BPE pieces or of
        characters, whose `SPIECE` alone is written.

    Raises:
        UserError: the vocabulary cannot be found or downloaded.
    """
    truncation = {} if input_length is None else {"model_max_length": input_length}
    if vocabulary == "bytes":
        added = {str(number): _added(piece) for number, piece in enumerate(_SPECIAL)}
        settings = {
            "tokenizer_class": "ByT5Tokenizer",
            "extra_ids": _BYTE_EXTRA_IDS,
            "added_tokens_decoder": added,
            **_TOKENS,
            **truncation,
        }
        _write_json(folder / TOKENIZER_CONFIG, settings)
        return True
    path = vocabularies.model_path(vocabulary)
    if vocabularies.missing_extra_ids(path.read_bytes()):
        # Otherwise those that read it with Hugging Face's T5 classes would get 100 ids too many.
        shutil.copyfile(path, folder / SPIECE)
    described = _describe(path)
    if described is None:
        return False
    _write_json(folder / TOKENIZER, described)
    extra = [t["content"] for t in described["added_tokens"] if t["id"] > vocabularies.UNK_ID]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "extra_special_tokens": extra,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        **_TOKENS,
        **truncation,
    }
    _write_json(folder / TOKENIZER_CONFIG, settings)
    return True


def _describe(path: Path) -> dict[str, Any] | None:
    """The content of tokenizer.json, or None for a kind of model it cannot hold here."""
    from sentencepiece import sentencepiece_model_pb2 as pb

    proto = pb.ModelProto.FromString(path.read_bytes())  # type: ignore[attr-defined]
    missing = vocabularies.missing_extra_ids(path.read_bytes())
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    pieces += [(f"<extra_id_{number}>", 0.0) for number in reversed(range(missing))]
    # An extra id is found in a text by its bare name, as Hugging Face's T5 does.
    pieces = [(_EXTRA_PIECE.sub(r"\1", piece), score) for piece, score in pieces]
    model = _model(proto, pieces)
    if model is None:
        return None
    special = [
        (number, piece)
        for number, (piece, _) in enumerate(pieces)
        if number <= vocabularies.UNK_ID or _EXTRA_PIECE.fullmatch(piece)
    ]
    spaces = {
        "type": "Split",
        "pattern": {"Regex": " +"},
        "behavior": "Removed",
        "invert": False,
    }
    metaspace = {
        "type": "Metaspace",
        "replacement": _SPACE,
        "prepend_scheme": "always",
        "split": True,
    }
    normalizers = [_charsmap(proto)]
    if model["type"] == "WordLevel":
        normalizers.append(_one_unknown(pieces))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, **_added(piece)} for number, piece in special],
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [spaces, metaspace],
        },
        "post_processor": _with_eos(),
        "decoder": _decoder(proto.trainer_spec.byte_fallback),
        "model": model,
    }


def _model(proto: Any, pieces: list[tuple[str, float]]) -> dict[str, Any] | None:
    kinds = type(proto.trainer_spec)
    kind = proto.trainer_spec.model_type
    if kind == kinds.WORD:
        vocabulary = {piece: number for number, (piece, _) in enumerate(pieces)}
        return {"type": "WordLevel", "vocab": vocabulary, "unk_token": _TOKENS["unk_token"]}
    if kind == kinds.UNIGRAM:
        return {
            "type": "Unigram",
            "unk_id": vocabularies.UNK_ID,
            "vocab": pieces,
            "byte_fallback": proto.trainer_spec.byte_fallback,
        }
    return None


def _charsmap(proto: Any) -> dict[str, Any]:
    charsmap = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
    return {"type": "Precompiled", "precompiled_charsmap": charsmap}


def _one_unknown(pieces: list[tuple[str, float]]) -> dict[str, Any]:
    """Makes one word of several unknown ones in a row, as SentencePiece gives them one id."""
    known = "|".join(re.escape(piece[1:]) for piece, _ in pieces if piece.startswith(_SPACE))
    run = rf"(?<![^ ])(?:(?!(?:{known})(?![^ ]))[^ ]+(?: +|$))+"
    return {"type": "Replace", "pattern": {"Regex": run}, "content": f"{_TOKENS['unk_token']} "}


def _decoder(byte_fallback: bool) -> dict[str, Any]:
    """As SentencePiece: strips all leading spaces, not only that of the first piece."""
    fallback = [{"type": "ByteFallback"}] if byte_fallback else []
    spaces = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": _MOST_SPACES, "stop": 0}
    return {"type": "Sequence", "decoders": [*fallback, spaces, {"type": "Fuse"}, strip]}


def _added(piece: str) -> dict[str, Any]:
    return {
        "content": piece,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _with_eos() -> dict[str, Any]:
    eos = _TOKENS["eos_token"]
    end = {"SpecialToken": {"id": eos, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [first, end],
        "pair": [first, end, second, end],
        "special_tokens": {eos: {"id": eos, "ids": [vocabularies.EOS_ID], "tokens": [eos]}},
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
