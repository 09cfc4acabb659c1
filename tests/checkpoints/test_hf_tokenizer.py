"""What AutoTokenizer makes of a vocabulary written by us: our ids, text by text."""

import json
import os
import pathlib
import random

import pytest
from helpers import transformers_python
from helpers.sentencepiece_models import train
from sentencepiece import sentencepiece_model_pb2 as pb

from sbs_jax.checkpoints.formats import hf_tokenizer
from sbs_jax.datasets import demo
from sbs_jax.input_pipeline import vocabularies

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(os.environ.get("SBS_SHARED", ROOT.parent / "shared"))

ODD = [
    "",
    " ",
    "[label] can a bavik trosk ?",
    " two  spaces and a trailing one ",
    "new\nline\ttab\r\n",
    "unknown words in a row, then can",
    "ünïcödé Ωmega 漢字 😀 नमस्ते สวัสดี 日本語テスト",
    "ﬁne ½ ² ™ e\u0301 \u200bzero \ufeffbom a\u00a0b\u3000c\u2028d",
    "premise one. </s>hypothesis two",
    "a </s> b",
    "100,000 $5.50 {}[]<>|~^` can't CamelCase",
    "▁ under ▁score",
    "<extra_id_0> and <extra_id_7>",
]


def texts() -> list[str]:
    rng = random.Random(0)
    questions = [f"[label] {record.input}" for record in demo.questions("test")[:100]]
    kinds = [range(32, 127)] * 4 + [range(0xA0, 0x250), range(0x391, 0x3C9), range(0x4E00, 0x4F00)]
    drawn = [
        "".join(chr(rng.choice(rng.choice([*kinds, [32], [32]]))) for _ in range(rng.randrange(40)))
        for _ in range(200)
    ]
    return ODD + questions + [text for text in drawn if "<" not in text]


def with_extra_ids(path: pathlib.Path, source: str) -> str:
    """As T5X's public models are: their extra ids are pieces of their own."""
    proto = pb.ModelProto.FromString(pathlib.Path(source).read_bytes())
    for number in reversed(range(100)):
        proto.pieces.add(piece=f"▁<extra_id_{number}>", score=0.0, type=4)
    path.write_bytes(proto.SerializeToString())
    return str(path)


SCRIPT = """
import json, pathlib, sys
from transformers import AutoTokenizer
folder = pathlib.Path(sys.argv[1])
texts = json.loads((folder / "texts.json").read_text())
found = {}
for place in folder.iterdir():
    if not place.is_dir():
        continue
    tokenizer = AutoTokenizer.from_pretrained(place)
    ids = tokenizer(texts).input_ids
    cut = tokenizer(texts, truncation=True).input_ids
    decoded = [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    found[place.name] = {"ids": ids, "cut": cut, "texts": decoded, "size": len(tokenizer)}
(folder / "found.json").write_text(json.dumps(found))
"""
LENGTH = 12


@pytest.fixture(scope="module")
def specs(tmp_path_factory) -> dict[str, str]:
    """Vocabularies of every kind there is here, by name."""
    folder = tmp_path_factory.mktemp("models")
    unigram = train(folder / "u.model", model_type="unigram", vocab_size=100)
    specs = {
        "words": "demo",
        "bytes": "bytes",
        "pieces": unigram,
        "extra": with_extra_ids(folder / "e.model", unigram),
        "fallback": train(
            folder / "f.model", model_type="unigram", vocab_size=350, byte_fallback=True
        ),
    }
    real = SHARED / "vectors" / "spiece.model"
    return specs | ({"real": str(real)} if real.is_file() else {})


@pytest.fixture(scope="module")
def found(specs, tmp_path_factory) -> dict:
    transformers_python.require()
    folder = tmp_path_factory.mktemp("tokenizers")
    (folder / "texts.json").write_text(json.dumps(texts()))
    for name, spec in specs.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text('{"model_type": "t5"}')
        assert hf_tokenizer.write(folder / name, spec, LENGTH)
    transformers_python.run(SCRIPT, folder)
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("name", ["words", "bytes", "pieces", "extra", "fallback", "real"])
def test_autotokenizer_gives_our_ids_and_our_texts(specs, found, name):
    if name not in specs:
        pytest.skip("no reference data")
    vocabulary = vocabularies.load(specs[name])
    theirs = found[name]
    for number, (text, ids) in enumerate(
        zip(texts(), vocabularies.encode_texts(vocabulary, texts()), strict=True)
    ):
        if name == "bytes" and "<extra_id_" in text:
            continue  # ours are bytes like others; no text of a task holds one
        ended = [*ids, vocabulary.eos_id]
        assert theirs["ids"][number] == ended, text
        assert theirs["cut"][number] == [*ids[: LENGTH - 1], vocabulary.eos_id], text
        if vocabularies.SEPARATOR not in text:
            assert theirs["texts"][number] == vocabulary.decode(ended), text
    assert theirs["size"] <= vocabulary.size


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_other_models_go_along_as_they_are(tmp_path, kind):
    spec = train(tmp_path / "m.model", model_type=kind, vocab_size=40, hard_vocab_limit=False)
    (tmp_path / "out").mkdir()
    assert not hf_tokenizer.write(tmp_path / "out", spec)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["spiece.model"]
    assert (tmp_path / "out" / "spiece.model").read_bytes() == pathlib.Path(spec).read_bytes()


def test_what_holds_extra_ids_is_no_spiece_model_for_hugging_face(specs, tmp_path):
    """Its T5 classes add 100 extra ids of their own."""
    assert hf_tokenizer.write(tmp_path, specs["extra"])
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    described = json.loads((tmp_path / "tokenizer.json").read_text())
    assert len(described["model"]["vocab"]) == 200
    assert described["model"]["vocab"][-1][0] == "<extra_id_0>"
