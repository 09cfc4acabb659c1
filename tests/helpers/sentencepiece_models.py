"""Trains small SentencePiece models."""

import io
import pathlib

import sentencepiece

from sbs_jax.datasets import demo


def train(path: pathlib.Path, texts: list[str] | None = None, **settings: object) -> str:
    """A small SentencePiece model of the kind the settings name; default: of the demo's text."""
    if texts is None:
        texts = [record.input for split in ("train", "test") for record in demo.questions(split)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts * 3),
        model_writer=model,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        **settings,
    )
    path.write_bytes(model.getvalue())
    return str(path)
