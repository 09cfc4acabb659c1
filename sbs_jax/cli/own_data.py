"""What `sbs init` and `sbs train --records` share: flags of a table, and settings that fit it."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from absl import flags

from sbs_jax.errors import UserError

if TYPE_CHECKING:
    from sbs_jax.datasets.records import Record
    from sbs_jax.input_pipeline.vocabularies import Vocabulary

SIZES = ["mini", "small", "base", "large", "xl", "xxl"]
MODELS = {"mini": "mini", **{size: f"t5_1_1_{size}" for size in SIZES[1:]}}
FLAG_NAMES = ("text", "label", "rationale", "teacher_label", "id", "metric", "size", "fraction")

_MOST_INPUTS, _MOST_TARGETS = 1024, 256
_BATCH_SIZE = 64
_EPOCHS = 20
_LEAST_STEPS, _MOST_STEPS = 200, 10_000
_EVALUATIONS = 10
# Columns used where no flag names one: what `sbs annotate` writes.
_RATIONALE, _TEACHER_LABEL = "rationale", "llm_label"


def define(values: flags.FlagValues) -> None:
    """Defines the flags for a table's columns and the student to train."""
    flags.DEFINE_string("text", "input", "Column of the question.", flag_values=values)
    flags.DEFINE_string("label", "label", "Column of the gold label.", flag_values=values)
    text = f"Column of the teacher's rationale; default: {_RATIONALE!r}, if there is one."
    flags.DEFINE_string("rationale", None, text, flag_values=values)
    text = f"Column of the teacher's label; default: {_TEACHER_LABEL!r}, if there is one."
    flags.DEFINE_string("teacher_label", None, text, flag_values=values)
    text = "Column of the id; default: 'id', if all its values differ, else the row's number."
    flags.DEFINE_string("id", None, text, flag_values=values)
    flags.DEFINE_float(
        "fraction",
        0.1,
        "Fraction of the training questions for each missing split.",
        flag_values=values,
    )
    flags.register_validator(
        "fraction",
        lambda fraction: 0 < fraction < 1,
        message="must be more than 0 and less than 1",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "metric", "text", ["text", "equation"], "How answers are scored.", flag_values=values
    )
    flags.DEFINE_enum(
        "size",
        "mini",
        SIZES,
        "mini (random parameters, for a CPU), or a public T5 v1.1 checkpoint, which is downloaded.",
        flag_values=values,
    )


def records(
    values: flags.FlagValues, paths: Mapping[str, str | None], say: Callable[[str], None]
) -> "dict[str, list[Record]]":
    """Reads the tables, draws the missing splits and prints what all of them hold.

    Args:
        values: with the flags of `define`.
        paths: split -> table, or None; the training split's may hold all.
        say: takes a line of the report.
    """
    from sbs_jax.datasets import own_data

    files = own_data.split_files(paths)
    if values["fraction"].present and len(files) == len(paths):
        raise UserError("--fraction: has an effect only where a split is drawn; drop it")
    if unused := own_data.unused_splits(str(paths["train"])):
        names = ", ".join(unused)
        say(f"{paths['train']}: not read: {names}; a flag of its split takes such a folder")
    columns = own_data.Columns(
        values.text,
        values.label,
        values.rationale or _RATIONALE,
        values.teacher_label or _TEACHER_LABEL,
        values.id or (own_data.ID if own_data.have_ids(files.values()) else None),
    )
    named = [column for column in (values.rationale, values.teacher_label) if column]
    read = {
        split: own_data.read(path, columns, named if split == "train" else ())
        for split, path in files.items()
    }
    carved = own_data.carve(read, values.fraction, files["train"])
    for line in own_data.report(carved):
        say(line)
    if values.rationale and method(carved) == "finetune":
        say(
            f"warning: {files['train']}: no training record has text in the column "
            f"{values.rationale!r} (--rationale): the student is trained on labels alone"
        )
    own_ids = columns.id and own_data.ids_differ(carved)
    return carved if own_ids else own_data.with_split_in_ids(carved)


def lengths(
    records: "Mapping[str, Sequence[Record]]",
    vocabulary: "Vocabulary",
    say: Callable[[str], None],
) -> dict[str, int]:
    """TASK_FEATURE_LENGTHS that truncate as little as possible; prints what they truncate."""
    from sbs_jax.datasets import own_data
    from sbs_jax.input_pipeline import vocabularies

    rows = [row for split in records.values() for row in split]
    texts = {
        "inputs": [f"[rationale] {row.input}" for row in rows],
        "targets": [text for row in rows for text in row.targets],
    }
    fitting = {}
    for name, most in (("inputs", _MOST_INPUTS), ("targets", _MOST_TARGETS)):
        tokens = [len(ids) + 1 for ids in vocabularies.encode_texts(vocabulary, texts[name])]
        fitting[name] = own_data.fitting_length(tokens, most)
        truncated = sum(count > fitting[name] for count in tokens)
        say(
            f"{name:<11} at most {max(tokens)} tokens; {truncated} of {len(tokens)} truncated at "
            f"{fitting[name]}"
        )
    return fitting


def method(records: "Mapping[str, Sequence[Record]]") -> str:
    """step_by_step where a training record has a rationale, else finetune."""
    return (
        "step_by_step"
        if any((row.rationale or "").strip() for row in records["train"])
        else "finetune"
    )


def settings(
    records: "Mapping[str, Sequence[Record]]", size: str, lengths: dict[str, int], pieces: int
) -> dict[str, object]:
    """Macros for a table: about 20 epochs, ten evaluations, a rate that suits the start.

    Args:
        size: of `SIZES`.
        lengths: TASK_FEATURE_LENGTHS.
        pieces: ids of the vocabulary.
    """
    steps = _EPOCHS * len(records["train"]) // _BATCH_SIZE
    steps = max(_LEAST_STEPS, min(_MOST_STEPS, steps))
    return {
        **({"VOCAB_SIZE": max(pieces, 128)} if size == "mini" else {}),
        "TASK_FEATURE_LENGTHS": lengths,
        "TRAIN_STEPS": steps,
        "BATCH_SIZE": _BATCH_SIZE,
        "EVAL_PERIOD": steps // _EVALUATIONS,
        "LEARNING_RATE": 1e-3 if size == "mini" else 5e-5,
        "OUTPUT_RATIONALE": method(records) == "step_by_step",
    }


def name_of(folder: str) -> str:
    """A dataset's name, from a folder's last part."""
    letters = "".join(c if c.isascii() and c.isalnum() else "_" for c in folder)
    return letters if letters[:1].isalpha() else f"data_{letters}"
