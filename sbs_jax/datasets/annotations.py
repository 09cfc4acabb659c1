"""Teacher outputs in a separate file, joined to the records they were made for.

Each line is a JSON object with ``id``, ``rationale``, the teacher's ``llm_label`` (or ``label``)
and ``split``, as in the rationales.jsonl of `sbs annotate`. An output with a split (train,
validation or test) joins the record of that split alone. One without joins by id, which must then
name one record of the whole dataset, because line numbers, the default ids, start again in every
file.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from sbs_jax.datasets.records import Record, parse_id, parse_rationales, read_jsonl
from sbs_jax.datasets.splits import SPLITS
from sbs_jax.errors import UserError
from sbs_jax.utils import buckets, jsonl

_FIELDS = ("id", "split", "rationale", "rationales", "llm_label", "label")


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """The teacher's output for one record.

    Attributes:
        where: ``file:line``, for messages.
        rationale: None for none.
        label: the teacher's label; None for none.
        rationales: all of its rationales where there are several.
    """

    where: str
    rationale: str | None
    label: str | None
    rationales: tuple[str, ...] = ()


# By split (None: the file names none) and record id.
Outputs = Mapping[tuple[str | None, str], Output]


def read(path: Path) -> Outputs:
    """The teacher outputs of a file.

    Raises:
        UserError: with file:line: a line that is not such an object, or an id that two lines of
            one split have.
    """
    outputs: dict[tuple[str | None, str], Output] = {}
    for where, line in jsonl.lines(path):
        key, output = _parse(line, where)
        if key in outputs:
            raise UserError(
                f"{where}: repeated id {key[1]!r}, also in {outputs[key].where}; "
                "keep one line for each record"
            )
        outputs[key] = output
    return outputs


def _parse(line: str, where: str) -> tuple[tuple[str | None, str], Output]:
    fields = jsonl.parse_object(line, where, _FIELDS)
    if "id" not in fields:
        raise UserError(f"{where}: expected a JSON object with id, rationale and label")
    label = fields.get("llm_label", fields.get("label"))
    texts = {"rationale": fields.get("rationale"), "label": label, "split": fields.get("split")}
    for field, value in texts.items():
        if not isinstance(value, str | None):
            raise UserError(f"{where}: field {field!r} must be text or absent")
    split = fields.get("split")
    key = (split if split in SPLITS else None, parse_id(fields["id"], where))
    several = parse_rationales(fields.get("rationales"), where)
    return key, Output(where, fields.get("rationale"), label, several)


def check(outputs: Outputs, files: Mapping[str, Path]) -> None:
    """Refuses an output without a split whose id names records of several splits.

    Args:
        outputs: of the teacher.
        files: split -> its file of records.

    Raises:
        UserError: naming the output's line and both records' files.
    """
    free = {record_id: output for (split, record_id), output in outputs.items() if split is None}
    homes: dict[str, Path] = {}
    for file in files.values() if free else ():
        for record_id in _ids(file, *buckets.version(file)) & free.keys():
            if record_id in homes:
                raise UserError(
                    f"{free[record_id].where}: id {record_id!r} is in {homes[record_id].name} and "
                    f"in {file.name}; add a field split (as sbs annotate does), or give the "
                    "records ids that no two splits share"
                )
            homes[record_id] = file


def join(records: Iterable[Record], outputs: Outputs, split: str) -> Iterator[Record]:
    """Adds the teacher's rationale and label to each record of `split`, by id."""
    for record in records:
        output = outputs.get((split, record.id)) or outputs.get((None, record.id))
        if output is not None:
            record = dataclasses.replace(
                record,
                rationale=output.rationale,
                llm_label=output.label,
                rationales=output.rationales,
            )
        yield record


@functools.lru_cache(maxsize=8)
def _ids(path: Path, size: int, mtime_ns: int) -> frozenset[str]:
    del size, mtime_ns  # in the key only: a changed file is read again
    return frozenset(record.id for record in read_jsonl(path))
