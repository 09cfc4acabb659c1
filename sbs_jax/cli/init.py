"""Make a small project from your own data: records, a tasks module, a gin file and a README.

Reads JSONL, JSON, CSV, TSV (also .gz), Parquet, or a folder that `datasets` saved to disk. Missing
validation and test splits are drawn from the training records, equal questions kept together.
`sbs train --records` needs no project.

Examples:
  sbs init reviews --records=reviews.csv --text=review --label=stars
  sbs init quiz --records=train.jsonl --test=test.jsonl --text=question --label=answer \\
      --rationale=explanation --size=small
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from sbs_jax.cli import flags as shared
from sbs_jax.cli import own_data as table
from sbs_jax.errors import UserError

if TYPE_CHECKING:
    from sbs_jax.datasets.records import Record

FLAGS = flags.FlagValues()
ARGUMENTS = "FOLDER"

shared.path(FLAGS, "records", None, "The training records.", required=True)
shared.path(FLAGS, "validation", None, "Validation records; default: drawn from --records.")
shared.path(FLAGS, "test", None, "Test records; default: drawn from --records.")
table.define(FLAGS)
shared.vocabulary(FLAGS, "default: bytes for mini, else t5.")


def main(argv: list[str]) -> None:
    """Reads and checks the data, writes the project, prints the next command."""
    from sbs_jax.datasets import own_data

    folder = Path(argv[0])
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: already holds files; choose another folder")
    paths = {"train": FLAGS.records, "validation": FLAGS.validation, "test": FLAGS.test}
    records = table.records(FLAGS, paths, print)
    name = table.name_of(folder.resolve().name)
    files = list(_files(name, records))
    own_data.write(folder / "data", records)
    for file, content in files:
        (folder / file).write_text(content, encoding="utf-8")
    print(f"\nwritten: {folder}; next: cd {shlex.quote(str(folder))} && {_command(name)}")


def _vocabulary() -> str:
    return FLAGS.vocabulary or ("bytes" if FLAGS.size == "mini" else "t5")


def _command(name: str) -> str:
    return f"""sbs train --gin_file={name}.gin --gin.MODEL_DIR='"runs/first"'"""


def _files(name: str, records: "Mapping[str, Sequence[Record]]") -> "Iterator[tuple[str, str]]":
    from sbs_jax.input_pipeline import vocabularies

    method = table.method(records)
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
    vocabulary = vocabularies.load(_vocabulary())
    lengths = table.lengths(records, vocabulary, print)
    settings = table.settings(records, FLAGS.size, lengths, vocabulary.size)
    lines = "\n".join(f"{macro} = {value!r}" for macro, value in settings.items())
    yield (
        f"{name}.gin",
        f"""# {_command(name)}
include 'sbs_runs/finetune.gin'
include 'sbs_models/{table.MODELS[FLAGS.size]}.gin'
import {name}_tasks

MIXTURE_OR_TASK_NAME = "{name}_{method}"
VOCABULARY = {_vocabulary()!r}
{lines}
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
