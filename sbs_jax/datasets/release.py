"""The original's released data (its datasets.zip), as a zip, an unpacked folder or a URL.

Layout, under one folder anywhere in the archive::

    cqa/cqa_train.json              one JSON object per line
    cqa/llm/train_CoT_0.json        one JSON array of completions per shard, in file order
    gpt-neox/cqa/train.json         the same of GPT-NeoX (never released, but read by the original)

Provenance and rules: https://github.com/google-research/distilling-step-by-step at ef94426,
data_utils.py and run.py. `RELEASED` holds everything known about each dataset.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from sbs_jax.datasets import completions
from sbs_jax.datasets.archive import Archive
from sbs_jax.datasets.records import SEPARATOR, Record
from sbs_jax.errors import UserError
from sbs_jax.metrics.accuracy import Metric
from sbs_jax.utils import download, jsonl

# The version of 2023-07-06; the digest is the id that git gives to the file.
URL = (
    "https://raw.githubusercontent.com/google-research/distilling-step-by-step/"
    "ef944263c9ddfd40a9888557f3e7d17513fd1a7e/datasets.zip"
    "#blob=fb9d88a0b44c2daac1ec1639f0bdae993e7e5bcd"
)

Teacher = Literal["palm", "gpt-neox"]

_MAX_LINE = 2**20  # bytes; the longest line of cqa and svamp has 1,100
_MAX_SHARD = 2**28  # bytes; a shard of 5,500 completions has about 1.5 million
_NLI_LABELS = ("entailment", "neutral", "contradiction")


class _BadField(Exception):
    """A row lacks what its dataset needs; the argument says what."""


@dataclasses.dataclass(frozen=True, slots=True)
class Released:
    """Facts about one released dataset.

    Attributes:
        description: one line, with the source.
        files: our split name -> the one in the file names. The original's test file of cqa is the
            validation split of CoS-E 1.11, whose test labels are not public.
        parsers: teacher -> name in `completions.PARSERS`.
        format: a row of the file -> (input, label), as the original formats them.
        metric: how answers are scored.
        carve_validation: the share of train that becomes validation (seed 0, after subsampling),
            without a validation file.
    """

    description: str
    files: Mapping[str, str]
    parsers: Mapping[Teacher, str]
    format: Callable[[Mapping[str, Any]], tuple[str, str]]
    metric: Metric = "text"
    carve_validation: float | None = None


def _text(row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    if not isinstance(value, str):
        raise _BadField(f"field {field!r} is missing or is not text")
    return value


def _nli(row: Mapping[str, Any]) -> tuple[str, str]:
    """Premise, EOS, hypothesis; the files number the labels."""
    label = row.get("label")
    # bool is an int to Python, but no label id.
    if type(label) is int and 0 <= label < len(_NLI_LABELS):
        label = _NLI_LABELS[label]
    if label not in _NLI_LABELS:
        raise _BadField("field 'label' is not 0, 1 or 2 (entailment, neutral, contradiction)")
    return _text(row, "premise") + SEPARATOR + _text(row, "hypothesis"), label


def _cqa(row: Mapping[str, Any]) -> tuple[str, str]:
    choices = row.get("choices")
    if not isinstance(choices, list) or [type(choice) for choice in choices] != [str] * 5:
        raise _BadField("field 'choices' is not a list of 5 texts")
    options = "".join(
        f"\n({letter}) {choice}" for letter, choice in zip("abcde", choices, strict=True)
    )
    return f"{_text(row, 'question')}\nAnswer Choices:{options}", _text(row, "answer")


def _svamp(row: Mapping[str, Any]) -> tuple[str, str]:
    return _text(row, "input"), _text(row, "label")


_WITH_VALIDATION = {"train": "train", "validation": "valid", "test": "test"}
_WITHOUT_VALIDATION = {"train": "train", "test": "test"}

RELEASED: dict[str, Released] = {
    "esnli": Released(
        "e-SNLI (Camburu et al. 2018): does the premise entail the hypothesis",
        _WITH_VALIDATION,
        {"palm": "esnli", "gpt-neox": "esnli_neox"},
        _nli,
    ),
    "anli1": Released(
        "Adversarial NLI, round 1 (Nie et al. 2020)",
        _WITH_VALIDATION,
        {"palm": "anli", "gpt-neox": "anli_neox"},
        _nli,
    ),
    "cqa": Released(
        "CommonsenseQA as in CoS-E 1.11 (Rajani et al. 2019): five choices",
        _WITHOUT_VALIDATION,
        {"palm": "cqa", "gpt-neox": "cqa_neox"},
        _cqa,
        carve_validation=0.1,
    ),
    "svamp": Released(
        "SVAMP (Patel et al. 2021): the equation that answers a word problem",
        _WITHOUT_VALIDATION,
        {"palm": "svamp", "gpt-neox": "svamp_neox"},
        _svamp,
        metric="equation",
        carve_validation=0.1,
    ),
}

_ROOT = re.compile(rf"(?P<root>(?:.*/)?)(?P<name>{'|'.join(RELEASED)})/(?P=name)_[a-z]+\.json")
_PATTERNS = tuple(
    f"{root}{files}"
    for root in ("", "*/", "*/*/")
    for files in ("*/*_*.json", "*/llm/*.json", "gpt-neox/*/*.json")
)


class Release:
    """The datasets of a released archive, read as Records.

    Args:
        source: a zip, a folder (of the datasets, or up to two levels above), or a URL.
        cache_dir: where a URL is downloaded to; needed for a URL only.

    Raises UserError if the archive is missing or holds none of the datasets.
    """

    def __init__(
        self, source: str | os.PathLike[str], cache_dir: str | os.PathLike[str] | None = None
    ) -> None:
        source = os.fspath(source)
        if download.is_url(source):
            if cache_dir is None:
                raise ValueError("a URL needs a cache_dir")
            source = os.fspath(download.fetch(source, cache_dir))
        self._archive = Archive(source, _PATTERNS)
        roots = {m["root"] for name in self._archive.names if (m := _ROOT.fullmatch(name))}
        if not roots:
            raise UserError(
                f"{source}: holds none of {', '.join(RELEASED)} (expected e.g. "
                "datasets/cqa/cqa_train.json); give the original's datasets.zip or its folder"
            )
        self._root = min(roots, key=lambda root: (root.count("/"), root))

    def datasets(self) -> list[str]:
        """Names of the datasets that are there, in the order of `RELEASED`."""
        return [name for name in RELEASED if self.splits(name)]

    def splits(self, dataset: str) -> list[str]:
        """The splits whose file is there: of train, validation, test."""
        files = RELEASED[dataset].files
        return [split for split in files if self._file(dataset, split) in self._archive.names]

    def fingerprint(self, dataset: str) -> str:
        """A digest that changes when a file of the dataset changes."""
        folders = (f"{self._root}{dataset}/", f"{self._root}gpt-neox/{dataset}/")
        return self._archive.fingerprint([n for n in self._archive.names if n.startswith(folders)])

    def records(self, dataset: str, split: str, teacher: Teacher = "palm") -> Iterator[Record]:
        """Streams the records of a file in its order.

        The id is ``DATASET-SPLIT-ROW`` with the row counted from 0, the number by which `splits`
        chooses: svamp and e-SNLI have no ids, and one form serves all. Rationale and
        llm_label are the teacher's, or None where the archive holds no outputs for the split.

        Raises UserError, naming file and line or field, where the split has no file, a line is not
        JSON or lacks a field, outputs are not as many as records, or there is no record at all.
        """
        name = self._file(dataset, split)
        if name not in self._archive.names:
            raise UserError(f"{self._archive.where(name)}: missing from the release")
        rows = self._rows(name, RELEASED[dataset].format)
        shards = self._shards(dataset, split, teacher)
        outputs = self._outputs(shards, RELEASED[dataset].parsers[teacher])
        count = 0
        for count, (text, label) in enumerate(rows, start=1):
            rationale, llm_label = next(outputs, (None, None))
            if shards and rationale is None:
                records = count + sum(1 for _ in rows)
                raise self._unequal(dataset, name, shards, records, outputs=count - 1)
            yield Record(f"{dataset}-{split}-{count - 1}", text, label, rationale, llm_label)
        if not count:
            raise UserError(f"{self._archive.where(name)}: holds no records")
        if more := sum(1 for _ in outputs):
            raise self._unequal(dataset, name, shards, count, count + more)

    def completions(self, dataset: str, split: str, teacher: Teacher = "palm") -> Iterator[str]:
        """Streams the teacher's texts as released, one per record of `records`; none if absent."""
        return self._texts(self._shards(dataset, split, teacher))

    def _file(self, dataset: str, split: str) -> str:
        return f"{self._root}{dataset}/{dataset}_{RELEASED[dataset].files.get(split, split)}.json"

    def _rows(self, name: str, format: Callable) -> Iterator[tuple[str, str]]:
        for where, line in self._archive.lines(name, _MAX_LINE):
            try:
                yield format(jsonl.parse_object(line, where))
            except _BadField as error:
                raise UserError(f"{where}: {error}; every record needs it") from None

    def _shards(self, dataset: str, split: str, teacher: Teacher) -> list[str]:
        """Names of the files of completions in numeric order, if any."""
        stem = RELEASED[dataset].files[split]
        if teacher == "gpt-neox":
            name = f"{self._root}gpt-neox/{dataset}/{stem}.json"
            return [name] if name in self._archive.names else []
        pattern = re.compile(re.escape(f"{self._root}{dataset}/llm/{stem}_CoT_") + r"(\d+)\.json")
        shards = {int(m[1]): n for n in self._archive.names if (m := pattern.fullmatch(n))}
        for number in range(len(shards)):
            if number not in shards:
                folder = self._archive.where(f"{self._root}{dataset}/llm")
                raise UserError(f"{folder}/{stem}_CoT_{number}.json: missing between other shards")
        return [shards[number] for number in sorted(shards)]

    def _outputs(self, shards: list[str], parser: str) -> Iterator[tuple[str, str]]:
        return map(completions.PARSERS[parser], self._texts(shards))

    def _texts(self, shards: list[str]) -> Iterator[str]:
        for name in shards:
            where = self._archive.where(name)
            texts = jsonl.parse(self._archive.read(name, _MAX_SHARD), where)
            if not isinstance(texts, list):
                raise UserError(f"{where}: expected a JSON array of completions")
            for number, text in enumerate(texts):
                if not isinstance(text, str):
                    raise UserError(f"{where}: completion {number} is not text")
                yield text

    def _unequal(
        self, dataset: str, name: str, shards: list[str], records: int, outputs: int
    ) -> UserError:
        folder = self._archive.where(os.path.dirname(shards[0]))
        return UserError(
            f"{folder}: {outputs} teacher outputs for the {records} records of "
            f"{os.path.basename(name)}; the files of {dataset} do not belong together"
        )
