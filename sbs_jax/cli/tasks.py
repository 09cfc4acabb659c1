"""List tasks and mixtures; show examples of one: raw, prefixed, as tokens, with loss weights.

Examples:
  sbs tasks
  sbs tasks demo_step_by_step
  sbs tasks mine_step_by_step --module_import=my_tasks
  sbs tasks cqa_rationale --split=test --n=3 --vocabulary=sentencepiece.model --data_dir=data
"""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import flags

from sbs_jax.cli import flags as shared
from sbs_jax.errors import UserError

if TYPE_CHECKING:
    from sbs_jax.datasets.methods import Prefixes, View
    from sbs_jax.datasets.records import Record
    from sbs_jax.datasets.registry import Selection
    from sbs_jax.input_pipeline.vocabularies import Vocabulary

FLAGS = flags.FlagValues()
ARGUMENTS = "[NAME]"

shared.split(FLAGS, "train", "Split to show.")
flags.DEFINE_integer("n", 1, "Number of examples.", lower_bound=1, flag_values=FLAGS)
shared.vocabulary(FLAGS, "default: the dataset's.")
shared.data_dir(FLAGS)
shared.cache_dir(FLAGS)
shared.module_import(FLAGS)
flags.DEFINE_string("label_prefix", "[label] ", "Prefix of the label task.", flag_values=FLAGS)
flags.DEFINE_string(
    "rationale_prefix", "[rationale] ", "Prefix of the rationale task.", flag_values=FLAGS
)

_MOST_TOKENS = 60  # of one sequence on the screen


def main(argv: list[str]) -> None:
    """Prints the list, or with a name examples of that task or mixture."""
    import sbs_jax.tasks  # noqa: F401
    from sbs_jax.configs import gin_loader

    gin_loader.import_named(FLAGS.module_import, "module_import")
    print("\n".join(_examples(argv[0]) if argv else _list()))


def _list() -> Iterator[str]:
    from sbs_jax.datasets import methods, registry
    from sbs_jax.metrics.accuracy import metric_name

    for name in registry.names():
        dataset = registry.get(name)
        yield f"{name}: {dataset.description} (metric: {metric_name(dataset.metric)})"
        yield "  to train on  " + " ".join(dataset.mixture_names())
        parts = [task for task in dataset.task_names() if task not in dataset.mixture_names()]
        yield "  their tasks  " + " ".join(parts)
        yield ""
    for method in methods.METHODS.values():
        yield f"D_{method.name:<17} {method.description}"
    yield ""
    yield "sbs tasks NAME shows examples of one."


def _examples(name: str) -> Iterator[str]:
    from sbs_jax.datasets import registry
    from sbs_jax.datasets.methods import Prefixes

    selection = registry.resolve(name)
    prefixes = Prefixes(FLAGS.label_prefix, FLAGS.rationale_prefix)
    file_split, rows = selection.dataset.rows(FLAGS.split)
    total = selection.dataset.count(file_split)
    yield f"{name}: {selection.method.description}"
    yield f"{FLAGS.split}: {len(rows):,} of the {total:,} records in the {file_split} file"
    vocabulary, note = _vocabulary(selection)
    yield note
    first = rows[: FLAGS.n].tolist()
    members, examples = set(rows.tolist()), {}
    labels: Counter[str] = Counter()
    for row, record in enumerate(selection.dataset.read(file_split)):
        if row in members:
            labels[record.label] += 1
        if row in first:
            examples[row] = record
    if vocabulary:
        yield from _label_warnings(selection, labels, vocabulary)
    for row in first:
        yield ""
        yield from _example(examples[row], selection, prefixes, vocabulary)


def _label_warnings(
    selection: "Selection", labels: Counter[str], vocabulary: "Vocabulary"
) -> Iterator[str]:
    from sbs_jax.input_pipeline import label_check

    dataset = selection.dataset
    try:
        report = label_check.check({FLAGS.split: labels}, dataset.metric, vocabulary, dataset.name)
    except UserError as error:
        yield f"warning: {error}"
    else:
        yield from report.lines()


def _vocabulary(selection: "Selection") -> tuple["Vocabulary | None", str]:
    """The vocabulary and a line about it; None if the default cannot be downloaded."""
    from sbs_jax.input_pipeline import vocabularies

    spec = FLAGS.vocabulary or selection.dataset.vocabulary
    try:
        vocabulary = vocabularies.load(spec)
    except UserError as error:
        if FLAGS.vocabulary:
            raise
        return None, f"tokens not shown (give --vocabulary): {error}"
    return vocabulary, f"vocabulary {spec}: {vocabulary.size} ids"


def _example(
    record: "Record",
    selection: "Selection",
    prefixes: "Prefixes",
    vocabulary: "Vocabulary | None",
) -> Iterator[str]:
    yield f"record {record.id}"
    for view in selection.views:
        inputs, targets = view.texts(record, prefixes)
        yield f"  {view.name} (task {view.task_id})"
        yield f"    raw inputs       {view.inputs(record)!r}"
        yield f"    prefixed inputs  {inputs!r}"
        if targets is None:
            yield f"    targets          none: the record lacks {view.needs}; it has no row here"
            continue
        yield f"    targets          {targets!r}"
        if vocabulary:
            yield from _tokens(vocabulary, inputs, targets)
        yield f"    loss             {_loss(view, selection)}"


def _tokens(vocabulary: "Vocabulary", inputs: str, targets: str) -> Iterator[str]:
    from sbs_jax.input_pipeline.vocabularies import encode_text

    for name, text in (("inputs", inputs), ("targets", targets)):
        ids = [*encode_text(vocabulary, text), vocabulary.eos_id]
        shown = [
            f"{piece}:{i}"
            for i, piece in zip(ids, vocabulary.pieces(ids[:_MOST_TOKENS]), strict=False)
        ]
        more = f" ... {len(ids) - _MOST_TOKENS} more" if len(ids) > _MOST_TOKENS else ""
        yield f"    {name + ' tokens':<16} {len(ids)}: {' '.join(shown)}{more}"
        if name == "targets":
            weights = " ".join("1" for _ in shown)
            yield f"    weights          {weights}{more}"


def _loss(view: "View", selection: "Selection") -> str:
    from sbs_jax.datasets.methods import LABEL

    if len(selection.views) == 1:
        return "the mean over all target tokens of a batch (EOS counts, padding does not)"
    weight = "ALPHA" if view.task_id == LABEL else "(1 - ALPHA)"
    return f"{weight} * the mean over this task's target tokens of a batch (EOS counts)"
