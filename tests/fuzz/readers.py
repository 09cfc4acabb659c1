"""Every reader of bytes that others wrote: what the fuzzer calls, and valid input to start from.

A reader may refuse its input with a `UserError` of one line; any other exception, memory beyond the
fuzzer's bound or a call of more than seconds is a bug. Readers of answers never raise at all.
"""

import atexit
import dataclasses
import gzip
import io
import json
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import msgpack
import numpy as np
from helpers import made_checkpoints, t5x_runs, torch_files

from sbs_jax.checkpoints.formats import hf, hf_vocabulary, hf_write, t5x, torch_file, zarr
from sbs_jax.configs import T5Config, TrainConfig, gin_scanner, t5x_config
from sbs_jax.datasets import annotations, asdiv, completions, records, release, tables
from sbs_jax.errors import UserError
from sbs_jax.metrics import equations
from sbs_jax.teacher import answer_parser, prompts
from sbs_jax.utils import jsonl

_TINY = T5Config(
    vocab_size=8,
    emb_dim=4,
    num_heads=1,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=2,
    mlp_dim=4,
    dropout_rate=0.1,
)
_WEIGHTS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2, np.float16)}
_PROMPTS = {name: prompts.load(name) for name in prompts.names()}
_QUESTION = records.Record("1", "How many?\nAnswer Choices:\n(a) two\n(b) three", "two")
_FOLDER = Path(tempfile.mkdtemp(prefix="sbs-fuzz-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class Reader:
    """What is fuzzed.

    Attributes:
        read: takes the bytes.
        seeds: valid inputs.
        module: where the reader is.
    """

    read: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    module: str


def check(reader: Reader, data: bytes) -> bool:
    """Whether the data are read; a refusal must be one line of text that can be printed."""
    try:
        reader.read(data)
        return True
    except UserError as error:
        message = str(error)
        assert message and len(message.splitlines()) == 1, repr(message)
        message.encode("utf-8", "surrogateescape")
        return False


def _file(name: str, data: bytes) -> str:
    path = _FOLDER / name
    path.write_bytes(data)
    return str(path)


def _new(name: str) -> Path:
    """A path for a seed's files, where nothing is yet."""
    return Path(tempfile.mkdtemp(dir=_FOLDER)) / name


def _exhaust(rows: Iterable) -> None:
    for _ in rows:
        pass


def _each(*reads: Callable[[], Iterable]) -> None:
    """Reads one input in several ways; the first refusal does not hide the others."""
    refusals = []
    for read in reads:
        try:
            _exhaust(read())
        except UserError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


# The released archive: a zip with JSON lines and arrays of completions.


def _release(data: bytes) -> None:
    archive = release.Release(_file("release.zip", data))
    for name in archive.datasets():
        archive.fingerprint(name)
        for split in archive.splits(name):
            teachers: tuple[release.Teacher, ...] = ("palm", "gpt-neox")
            _each(*(lambda t=t: archive.records(name, split, t) for t in teachers))  # noqa: B023


def _release_seeds() -> list[bytes]:
    seeds = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", method) as archive:
            archive.writestr("svamp/svamp_test.json", '{"input": "q", "label": "1"}\n')
            archive.writestr("svamp/llm/test_CoT_0.json", '["x. The answer is (1 + 2)."]')
        seeds.append(content.getvalue())
    return seeds


# PyTorch's files, whole and as the program of a sound archive, which no checksum guards here.


def _torch(data: bytes) -> None:
    for tensor in torch_file.read(Path(_file("pytorch_model.bin", data))).values():
        tensor.read()


def _torch_seeds() -> list[bytes]:
    path, state = _FOLDER / "seed.bin", torch_files.state_of(_WEIGHTS)
    seeds = []
    for write in (torch_files.write_archive, torch_files.write_stream):
        write(path, state)
        seeds.append(path.read_bytes())
    return seeds


def _pickle(data: bytes) -> None:
    path = _FOLDER / "archive.bin"
    torch_files.write_archive(path, torch_files.state_of(_WEIGHTS), data)
    for tensor in torch_file.read(path).values():
        tensor.read()


def _pickle_seeds() -> list[bytes]:
    return [torch_files.pickled(torch_files.state_of(_WEIGHTS))]


# Hugging Face's safetensors, and the JSON beside them.


def _safetensors(data: bytes) -> None:
    for tensor in hf.read(_file("model.safetensors", data)).params.values():
        tensor.read()


def _safetensors_seeds() -> list[bytes]:
    folder = _new("model")
    hf_write.write(folder, made_checkpoints.checkpoint(_TINY))
    header = json.dumps({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    small = struct.pack("<Q", len(header)) + header + bytes(4)
    return [(folder / "model.safetensors").read_bytes(), small]


def _tokenizer(data: bytes) -> None:
    for name in ("added_tokens.json", "tokenizer_config.json", "tokenizer.json"):
        folder = _FOLDER / name.removesuffix(".json")
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        vocabulary, added = hf_vocabulary.read(folder, {})
        assert vocabulary in (None, "bytes")
        hf_vocabulary.describe_added(added)


def _tokenizer_seeds() -> list[bytes]:
    token = {"content": "<x>", "id": 7}
    config = {"tokenizer_class": "T5", "pad_token": "<pad>", "added_tokens_decoder": {"7": token}}
    return [json.dumps(value).encode() for value in ({"<x>": 7}, config, {"added_tokens": [token]})]


# T5X's checkpoints: the index, and one array of it.


def _t5x(data: bytes) -> None:
    folder = _FOLDER / "checkpoint_1"
    if not folder.is_dir():
        t5x.write(folder, made_checkpoints.checkpoint(_TINY))
    (folder / t5x.INDEX).write_bytes(data)
    for array in t5x.read_state(str(folder)).values():
        array.read()


def _t5x_seeds() -> list[bytes]:
    folder = _new("checkpoint_1")
    t5x.write(folder, made_checkpoints.checkpoint(_TINY))
    parts = [[2], "float32", bytes(8)]
    array = msgpack.ExtType(1, msgpack.packb(parts))
    pieces = {"__msgpack_chunked_array__": True, "shape": {"0": 2}, "chunks": {"0": array}}
    target = {"array": array, "pieces": pieces, "number": 1}
    described = {"driver": "zarr", "kvstore": {"path": "target.decoder.decoder_norm.scale"}}
    small = {"version": 2, "optimizer": {"target": {**target, "described": described}}}
    return [(folder / t5x.INDEX).read_bytes(), msgpack.packb(small)]


def _zarr(data: bytes) -> None:
    """The description up to the first line feed, then the chunk that every name gives."""
    description, _, chunk = data.partition(b"\n")
    array = zarr.open_array(
        lambda name: description if name.endswith(".zarray") else chunk, "a", "p"
    )
    if array.nbytes <= 2**20:
        assert array.read().shape == array.shape


def _zarr_seeds() -> list[bytes]:
    folder = _new("array")
    zarr.write_array(folder, np.arange(6, dtype=np.float32).reshape(2, 3))
    description = (folder / ".zarray").read_bytes()
    plain = json.loads(description) | {"compressor": None, "chunks": [1, 2]}
    return [
        description + b"\n" + (folder / "0.0").read_bytes(),
        json.dumps(plain).encode() + b"\n" + bytes(8),
    ]


# Records and teacher outputs.


def _jsonl(data: bytes) -> None:
    path = _file("rows.jsonl", data)
    _each(
        lambda: records.read_table(path),
        lambda: annotations.read(Path(path)),
        lambda: jsonl.objects(path, still_written=True),
    )


def _jsonl_seeds() -> list[bytes]:
    row = {"id": 1, "input": "q", "label": "a", "rationale": "r", "rationales": ["r", "\u00e9"]}
    lines = b"".join(json.dumps({**row, "id": number}).encode() + b"\n" for number in range(2))
    output = b'{"id": "7", "split": "train", "rationale": null, "llm_label": "\\u00e9"}\n'
    array = json.dumps([{"input": "q", "label": "a"}]).encode()
    return [lines, output, array, gzip.compress(lines, mtime=0), b"\xef\xbb\xbf" + lines]


def _csv(data: bytes) -> None:
    _each(
        lambda: tables.rows(_file("rows.csv", data)), lambda: tables.rows(_file("rows.tsv", data))
    )


def _csv_seeds() -> list[bytes]:
    text = b'id,input,label\n1,"a ""quoted"",\nline",b\n2,c,d\n'
    return [text, text.replace(b",", b"\t"), gzip.compress(text, mtime=0), b"\xef\xbb\xbf" + text]


def _asdiv(data: bytes) -> None:
    rows = asdiv.read(_file("ASDiv.xml", data))
    asdiv.split(rows)


def _asdiv_seeds() -> list[bytes]:
    problem = (
        "<Problem ID='{}'><Body>b</Body><Question>q</Question><Answer>9 (a)</Answer></Problem>"
    )
    problems = "".join(problem.format(number) for number in range(12))
    return [f"<ProblemSet>{problems}</ProblemSet>".encode()]


# A teacher's and a student's answers.


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _completions(data: bytes) -> None:
    text = _text(data)
    for parse in completions.PARSERS.values():
        rationale, label = parse(text)
        assert isinstance(rationale, str) and isinstance(label, str)
    for prompt in _PROMPTS.values():
        reading = answer_parser.read(prompt, _QUESTION, text)
        assert reading.has_label == bool(reading.label)


def _completions_seeds() -> list[bytes]:
    texts = [
        "Wet. So the answer is (d) sea.\n\nQ: and?",
        "3 and 4. The answer is (3 + 4).",
        "It may be.\nAnswer: neutral\n\nPremise: p",
        '```json\n{"reasoning": "R.", "answer": "neutral"}\n```',
        "<think>so</think> $\\boxed{3 + 4}$, either (a) two or (b) three",
    ]
    return [text.encode() for text in texts]


def _equations(data: bytes) -> None:
    text = _text(data)
    assert isinstance(equations.evaluate(text), int | float)
    equations.equal(text, "1")


def _equations_seeds() -> list[bytes]:
    return [b"( 84.0 / 2.0 )", b"-(1e3 + .5) * 5. - 7 / 0"]


# Configurations.


def _gin(data: bytes) -> None:
    scan = gin_scanner.scan([_file("given.gin", data)], [], [_FOLDER], translate=True)
    for name in scan.macros:
        scan.value(name)
    gin_scanner.scan([], [_text(data)], [])


def _gin_seeds() -> list[bytes]:
    text = (
        "from __gin__ import dynamic_registration\nimport os.path as p\n"
        "A = %B\nB = (1, {'x': [-2.5, True]})\nf.g = @s/h()\ns/h.x = 'a' 'b' # c\n"
        "h:\n  y = 1\n  z = None\ntrain.total_steps = 5\n"
    )
    return [text.encode(), b"include 'given.gin'\n", b'X = """a\nb"""\nY = \\\n  1\n']


def _config_of_t5x(data: bytes) -> None:
    path = _file("config.gin", data)
    t5x_config.without_t5x(path)
    assert t5x_config.read(path).train_steps > 0


def _config_of_t5x_seeds() -> list[bytes]:
    lengths = {"inputs": 8, "targets": 8}
    config = TrainConfig(
        model_dir="x",
        mixture_or_task_name="demo_finetune",
        task_feature_lengths=lengths,
        train_steps=1,
        model=_TINY,
        vocabulary="demo",
    )
    return [t5x_runs.config_gin(config).encode()]


_FORMATS = "sbs_jax.checkpoints.formats"
_DATASETS = "sbs_jax.datasets"
READERS = {
    "zip": Reader(_release, _release_seeds, f"{_DATASETS}.archive"),
    "torch": Reader(_torch, _torch_seeds, f"{_FORMATS}.torch_file"),
    "pickle": Reader(_pickle, _pickle_seeds, f"{_FORMATS}.torch_file"),
    "safetensors": Reader(_safetensors, _safetensors_seeds, f"{_FORMATS}.hf"),
    "tokenizer": Reader(_tokenizer, _tokenizer_seeds, f"{_FORMATS}.hf_vocabulary"),
    "t5x": Reader(_t5x, _t5x_seeds, f"{_FORMATS}.t5x"),
    "zarr": Reader(_zarr, _zarr_seeds, f"{_FORMATS}.zarr"),
    "jsonl": Reader(_jsonl, _jsonl_seeds, "sbs_jax.utils.jsonl"),
    "csv": Reader(_csv, _csv_seeds, f"{_DATASETS}.csv_tables"),
    "asdiv": Reader(_asdiv, _asdiv_seeds, f"{_DATASETS}.asdiv"),
    "completions": Reader(_completions, _completions_seeds, "sbs_jax.teacher.answer_parser"),
    "equations": Reader(_equations, _equations_seeds, "sbs_jax.metrics.equations"),
    "gin": Reader(_gin, _gin_seeds, "sbs_jax.configs.gin_scanner"),
    "t5x_gin": Reader(_config_of_t5x, _config_of_t5x_seeds, "sbs_jax.configs.t5x_config"),
}
