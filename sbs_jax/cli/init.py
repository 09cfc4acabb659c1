"""Make a small project from your own data: records, a tasks module, a gin file and a README.

Reads JSONL, JSON, CSV, TSV (also .gz), Parquet, or a split that `datasets` saved to disk. Missing
validation and test splits are drawn from the training records, equal questions kept together.

Examples:
  sbs init reviews --records=reviews.csv --text=review --label=stars
  sbs init quiz --records=train.jsonl --test=test.jsonl --text=question --label=answer \\
      --rationale=explanation --size=small
"""

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from sbs_jax.cli import flags as shared
from sbs_jax.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sbs_jax.datasets.records import Record

FLAGS = flags.FlagValues()
ARGUMENTS = "FOLDER"

_SIZES = ["mini", "small", "base", "large", "xl", "xxl"]
_MODELS = {"mini": "mini", **{size: f"t5_1_1_{size}" for size in _SIZES[1:]}}
_MOST_INPUTS, _MOST_TARGETS = 1024, 256
_BATCH_SIZE = 64
_EPOCHS = 20

shared.path(FLAGS, "records", None, "The training records.", required=True)
shared.path(FLAGS, "validation", None, "Validation records; default: drawn from --records.")
shared.path(FLAGS, "test", None, "Test records; default: drawn from --records.")
flags.DEFINE_float(
    "fraction",
    0.1,
    "Fraction of the training questions for each missing split.",
    lower_bound=0.0,
    upper_bound=1.0,
    flag_values=FLAGS,
)
flags.DEFINE_string("text", "input", "Column of the question.", flag_values=FLAGS)
flags.DEFINE_string("label", "label", "Column of the gold label.", flag_values=FLAGS)
flags.DEFINE_string("rationale", None, "Column of the teacher's rationale.", flag_values=FLAGS)
flags.DEFINE_string("teacher_label", None, "Column of the teacher's label.", flag_values=FLAGS)
flags.DEFINE_string("id", None, "Column of the id; default: the row's number.", flag_values=FLAGS)
flags.DEFINE_enum(
    "metric", "text", ["text", "equation"], "How answers are scored.", flag_values=FLAGS
)
flags.DEFINE_enum(
    "size",
    "mini",
    _SIZES,
    "mini (random parameters, for a CPU), or a public T5 v1.1 checkpoint, which is downloaded.",
    flag_values=FLAGS,
)
shared.vocabulary(FLAGS, "default: bytes for mini, else t5.")


def main(argv: list[str]) -> None:
    """Reads and checks the data, writes the project and prints the next command."""
    from sbs_jax.datasets import own_data

    folder = Path(argv[0])
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: already holds files; choose another folder")
    records = _records()
    for line in own_data.report(records):
        print(line)
    lengths = _lengths(records)
    own_data.write(folder / "data", records)
    for name, content in _files(_name(folder), records, lengths):
        (folder / name).write_text(content, encoding="utf-8")
    print(f"\nwritten: {folder}; next: cd {folder} && {_command(_name(folder))}")


def _records() -> "Mapping[str, Sequence[Record]]":
    from sbs_jax.datasets import own_data

    columns = own_data.Columns(
        FLAGS.text, FLAGS.label, FLAGS.rationale, FLAGS.teacher_label, FLAGS.id
    )
    paths = {"train": FLAGS.records, "validation": FLAGS.validation, "test": FLAGS.test}
    files = {split: own_data.read(path, columns) for split, path in paths.items() if path}
    return own_data.carve(files, FLAGS.fraction)


def _lengths(records: "Mapping[str, Sequence[Record]]") -> dict[str, int]:
    """TASK_FEATURE_LENGTHS that truncate as little as their maximum allows; says what is cut."""
    from sbs_jax.datasets import own_data
    from sbs_jax.input_pipeline import vocabularies

    vocabulary = vocabularies.load(_vocabulary())
    rows = [row for split in records.values() for row in split]
    texts = {
        "inputs": [f"[rationale] {row.input}" for row in rows],
        "targets": [text for row in rows for text in (row.label, row.rationale) if text],
    }
    lengths = {}
    for name, most in (("inputs", _MOST_INPUTS), ("targets", _MOST_TARGETS)):
        tokens = [len(ids) + 1 for ids in vocabularies.encode_texts(vocabulary, texts[name])]
        lengths[name] = own_data.fitting_length(tokens, most)
        truncated = sum(count > lengths[name] for count in tokens)
        print(
            f"{name:<11} at most {max(tokens)} tokens; {truncated} of {len(tokens)} truncated at "
            f"{lengths[name]}"
        )
    return lengths


def _vocabulary() -> str:
    return FLAGS.vocabulary or ("bytes" if FLAGS.size == "mini" else "t5")


def _name(folder: Path) -> str:
    """The dataset's name, from the folder's."""
    letters = "".join(c if c.isascii() and c.isalnum() else "_" for c in folder.resolve().name)
    return letters if letters[:1].isalpha() else f"data_{letters}"


def _command(name: str) -> str:
    return f"""sbs train --gin_file={name}.gin --gin.MODEL_DIR='"runs/first"'"""


def _files(
    name: str, records: "Mapping[str, Sequence[Record]]", lengths: dict[str, int]
) -> "Iterator[tuple[str, str]]":
    from sbs_jax.input_pipeline import vocabularies

    explained = any(row.rationale for row in records["train"])
    method = "step_by_step" if explained else "finetune"
    steps = max(200, min(10_000, _EPOCHS * len(records["train"]) // _BATCH_SIZE))
    size = vocabularies.load(_vocabulary()).size
    yield (
        f"{name}_tasks.py",
        f'''"""The dataset of this project.

`sbs tasks {name}_{method} --module_import={name}_tasks` shows examples.
"""

from pathlib import Path

from sbs_jax.datasets import add_dataset

add_dataset(
    "{name}",
    records=Path(__file__).resolve().parent / "data",
    metric="{FLAGS.metric}",
    vocabulary={_vocabulary()!r},
)
''',
    )
    own_size = f"VOCAB_SIZE = {max(size, 128)}\n" if FLAGS.size == "mini" else ""
    rate = "1e-3" if FLAGS.size == "mini" else "5e-5"
    yield (
        f"{name}.gin",
        f"""# {_command(name)}
include 'sbs_runs/finetune.gin'
include 'sbs_models/{_MODELS[FLAGS.size]}.gin'
import {name}_tasks

MIXTURE_OR_TASK_NAME = "{name}_{method}"
VOCABULARY = {_vocabulary()!r}
{own_size}TASK_FEATURE_LENGTHS = {lengths!r}
TRAIN_STEPS = {steps}  # about {steps * _BATCH_SIZE // max(1, len(records["train"]))} epochs
BATCH_SIZE = {_BATCH_SIZE}
EVAL_PERIOD = {max(1, steps // 10)}
LEARNING_RATE = {rate}
OUTPUT_RATIONALE = {explained}
""",
    )
    yield (
        "README.md",
        f"""# {name}

    {_command(name)}
    sbs predict --model_dir=runs/first --input=data/test.jsonl --output=answers.jsonl
    sbs report --runs runs/first --out=report

`data/` holds the records, one JSON object a line; `{name}_tasks.py` makes them a dataset;
`{name}.gin` holds the settings. Without rationales, `sbs annotate` asks a teacher for them.
""",
    )
