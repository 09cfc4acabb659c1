"""Text to token ids and back, without TensorFlow: T5's SentencePiece vocabularies, and bytes.

Ids are SeqIO's: 0 pads, 1 ends a sequence, 2 is the unknown piece; 100 extra ids follow
the pieces, `<extra_id_0>` highest.
"""

import functools
import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from sbs_jax.datasets.records import SEPARATOR
from sbs_jax.errors import UserError
from sbs_jax.utils import buckets, paths
from sbs_jax.utils.buckets import AnyPath

PAD_ID, EOS_ID, UNK_ID = 0, 1, 2
EXTRA_IDS = 100
_EXTRA_PIECE = re.compile("▁?<extra_id_[0-9]+>")


class PublicModel(NamedTuple):
    """A SentencePiece model of the public T5 bucket, at `bucket_path`, checked by `sha256`."""

    bucket_path: str
    sha256: str

    @property
    def url(self) -> str:
        return self.bucket_path.replace("gs://", "https://storage.googleapis.com/")


# The files that T5X's own t5, t5_1_1 and mt5 configurations name. Both already hold their extra
# ids: 32,100 and 250,100 pieces.
PUBLIC = {
    "t5": PublicModel(
        "gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model",
        "839ffa4b9afae8d77834a88b87781849aa021975d6063dec6085633fcaf7171c",
    ),
    "mt5": PublicModel(
        "gs://t5-data/vocabs/mc4.250000.100extra/sentencepiece.model",
        "ef78f86560d809067d12bac6c09f19a462cb3af3f54d2b8acbba26e1433125d6",
    ),
}
NAMES = (*PUBLIC, "bytes", "demo")


@runtime_checkable
class Vocabulary(Protocol):
    """Text to ids and back.

    Attributes:
        size: the highest id + 1, which is how many embedding rows a model needs at least. Public
            checkpoints have a few more: 32,128 rows for 32,100 ids.
        fingerprint: sha256 that changes when any text could be encoded differently.
        spec: what `load` was given.
    """

    pad_id: int
    eos_id: int
    unk_id: int
    size: int
    fingerprint: str
    spec: str

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without EOS; `SEPARATOR` has no meaning here (see `encode_text`)."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of every text; much faster than one by one."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text up to the first EOS; drops padding, unknown and extra ids.

        As Hugging Face's ``skip_special_tokens``. (SeqIO shows the unknown id as ' ⁇ '.)
        """
        ...

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The piece of each id, for display."""
        ...


class SentencePieceVocabulary:
    """A SentencePiece model under T5's conventions.

    A model without extra ids gets `EXTRA_IDS` on top, as in SeqIO: a text's
    ``<extra_id_7>`` at the start of a word then becomes one id.

    Raises:
        UserError: the bytes are no SentencePiece model, or its pad, EOS and unknown ids are not
            0, 1 and 2.
    """

    pad_id, eos_id, unk_id = PAD_ID, EOS_ID, UNK_ID

    def __init__(self, model: bytes, spec: str) -> None:
        # Importing takes 50 ms, and byte vocabularies need neither.
        import sentencepiece
        from google.protobuf.message import DecodeError
        from sentencepiece import sentencepiece_model_pb2 as pb

        self.spec = spec
        self.fingerprint = hashlib.sha256(model).hexdigest()
        try:
            proto = pb.ModelProto.FromString(model)  # type: ignore[attr-defined]
            for number in reversed(range(missing_extra_ids(model))):
                proto.pieces.add(
                    piece=f"▁<extra_id_{number}>",
                    score=0.0,
                    type=pb.ModelProto.SentencePiece.USER_DEFINED,  # type: ignore[attr-defined]
                )
            self._processor = sentencepiece.SentencePieceProcessor(
                model_proto=proto.SerializeToString()
            )
        except (DecodeError, RuntimeError):
            raise UserError(f"VOCABULARY = {spec!r}: not a SentencePiece model") from None
        ids = (self._processor.pad_id(), self._processor.eos_id(), self._processor.unk_id())
        if ids != (PAD_ID, EOS_ID, UNK_ID):
            raise UserError(
                f"VOCABULARY = {spec!r}: its pad, EOS and unknown ids are {ids}, T5 needs "
                "(0, 1, 2); train it with --pad_id=0 --eos_id=1 --unk_id=2 --bos_id=-1"
            )
        self.size = self._processor.get_piece_size()
        self._text_ids = frozenset(
            number
            for number, piece in enumerate(proto.pieces)
            if number > UNK_ID and not _EXTRA_PIECE.fullmatch(piece.piece)
        )

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._processor.encode(list(texts))

    def decode(self, ids: Iterable[int]) -> str:
        return self._processor.decode([i for i in _until_eos(ids) if i in self._text_ids])

    def pieces(self, ids: Iterable[int]) -> list[str]:
        return self._processor.id_to_piece(list(ids))


def missing_extra_ids(model: bytes) -> int:
    """How many extra ids a SentencePiece model needs on top: `EXTRA_IDS`, or 0 if it has them."""
    from sentencepiece import sentencepiece_model_pb2 as pb

    pieces = pb.ModelProto.FromString(model).pieces  # type: ignore[attr-defined]
    return 0 if any(_EXTRA_PIECE.fullmatch(piece.piece) for piece in pieces) else EXTRA_IDS


class ByteVocabulary:
    """ByT5's vocabulary: id = byte + 3, and 125 extra ids (Xue et al. 2022, arXiv 2105.13626)."""

    pad_id, eos_id, unk_id = PAD_ID, EOS_ID, UNK_ID
    spec = "bytes"
    size = 3 + 256 + 125
    fingerprint = hashlib.sha256(b"utf-8 bytes + 3").hexdigest()

    def encode(self, text: str) -> list[int]:
        return [byte + 3 for byte in text.encode("utf-8")]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        known = bytes(i - 3 for i in _until_eos(ids) if 3 <= i < 259)
        return known.decode("utf-8", errors="ignore")

    def pieces(self, ids: Iterable[int]) -> list[str]:
        special = {PAD_ID: "<pad>", EOS_ID: "</s>", UNK_ID: "<unk>"}
        return [special.get(i, f"{i - 3:02x}") for i in ids]


def load(spec: str) -> Vocabulary:
    """The vocabulary called `spec`.

    Args:
        spec: "t5" or "mt5" (public models, downloaded once into the user's cache), "bytes",
            "demo" (packaged), or the path of a SentencePiece ``.model`` file.

    Raises:
        UserError: no such file, no T5-style SentencePiece model, or a failed download.
    """
    if spec == "bytes":
        return ByteVocabulary()
    path = model_path(spec)
    return _load_file(path, spec, *buckets.version(path))


def model_path(spec: str) -> AnyPath:
    """The SentencePiece file of a spec, downloaded first if need be; see `load`."""
    if spec == "demo":
        return paths.asset("demo.model")
    if spec in PUBLIC:
        return _fetch(spec)
    path = buckets.place(paths.expand(spec))
    if not path.is_file():
        raise UserError(
            f"VOCABULARY = {spec!r}: no such file; give the path of a SentencePiece .model file, "
            f"or one of {', '.join(NAMES)}"
        )
    return path


@functools.lru_cache(maxsize=8)
def _load_file(path: AnyPath, spec: str, size: int, mtime_ns: int) -> SentencePieceVocabulary:
    del size, mtime_ns  # in the key only: a changed file is read again
    return SentencePieceVocabulary(path.read_bytes(), spec)


def _fetch(name: str) -> AnyPath:
    from sbs_jax.utils import download

    public = PUBLIC[name]
    folder = paths.cache_home() / "vocabularies"
    try:
        return download.fetch(public.url, folder, f"sha256={public.sha256}", attempts=2)
    except UserError as error:
        raise UserError(
            f"VOCABULARY = {name!r}: {error}. Without a network give the path of a local copy: "
            "VOCABULARY = 'path/to/sentencepiece.model'"
        ) from None


def encode_text(vocabulary: Vocabulary, text: str) -> list[int]:
    """Ids of a text in which `SEPARATOR` is the EOS id; no EOS at the end.

    Each side of a separator is encoded as if it stood alone, as the original's tokenizer does:
    ``a</s>b`` -> ids of ``a``, 1, ids of ``b``.
    """
    return encode_texts(vocabulary, [text])[0]


def encode_texts(vocabulary: Vocabulary, texts: Sequence[str]) -> list[list[int]]:
    """`encode_text` of every text, in one call of the tokenizer."""
    parts = [text.split(SEPARATOR) for text in texts]
    encoded = iter(vocabulary.encode_batch(list(itertools.chain.from_iterable(parts))))
    joined = []
    for sides in parts:
        ids = next(encoded)
        for _ in sides[1:]:
            ids = [*ids, vocabulary.eos_id, *next(encoded)]
        joined.append(ids)
    return joined


def _until_eos(ids: Iterable[int]) -> Iterable[int]:
    return itertools.takewhile(lambda i: i != EOS_ID, ids)
