"""Trains a SentencePiece vocabulary on a user's text, under T5's conventions."""

import io
from collections.abc import Iterable, Iterator

from sbs_jax.datasets.methods import Prefixes
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import vocabularies

# Their number decides which pieces are found (findings/sentencepiece_threads.sh): the same on every
# machine. 16 is SentencePiece's default.
_THREADS = 16


def train(texts: Iterable[str], size: int, always: Iterable[str] = ()) -> bytes:
    """A unigram model (Kudo 2018) with T5's ids for padding, EOS and unknown pieces.

    Args:
        texts: to train on; a text of several lines is several texts.
        size: maximum number of pieces, without the 100 extra ids; a small text gives fewer.
        always: texts whose characters all get a piece, however rare, as those of the default task
            prefixes do.

    Raises:
        UserError: the text is empty, or has too many different characters for the size.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=model,
            vocab_size=size,
            hard_vocab_limit=False,
            required_chars=_characters([Prefixes.label, Prefixes.rationale, *always]),
            pad_id=vocabularies.PAD_ID,
            eos_id=vocabularies.EOS_ID,
            unk_id=vocabularies.UNK_ID,
            bos_id=-1,
            num_threads=_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(f"{size} pieces: {str(error).splitlines()[-1][:200]}") from None
    return model.getvalue()


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from text.splitlines()


def _characters(texts: Iterable[str]) -> str:
    return "".join(sorted({character for text in texts for character in "".join(text.split())}))
