"""From a record to the text of one task, and the methods that are made of tasks.

A view turns a record into (inputs, targets). What one trains on is a method: one or two views.

Blank teacher output: the released data hold " " for a completion without a readable answer, and
nothing without a completion. A record has no row in a view that needs a blank field; it keeps its
rows in the other views. (The original trains on the label " " instead.) The skipped rows are
counted (`token_cache.TokenTable.missing`) and printed.
"""

import dataclasses
import enum
from collections.abc import Callable

from sbs_jax.configs import TrainConfig
from sbs_jax.datasets.records import Record

TASK_ID_FEATURE = "targets_task"  # in SeqIO examples: the task id of every target token

# In single_task the answer follows this phrase, as in the teacher's completions.
ANSWER_PHRASE = " So the answer is "


class TaskId(enum.IntEnum):
    """The task of a target token in a batch; 0 is padding."""

    LABEL = 1
    RATIONALE = 2

    @property
    def key(self) -> str:
        """Its name in metrics: ``label`` or ``rationale``."""
        return self.name.lower()


LABEL, RATIONALE = TaskId
# With a shared encoder the decoder's first input names the task: T5's own start for a label, so
# that labels are decoded as ever; EOS, otherwise no input of the decoder, for a rationale.
START_IDS = {LABEL: 0, RATIONALE: 1}


def start_id(task_id: TaskId, shared_encoder: bool) -> int:
    """The decoder's first input for a task."""
    return START_IDS[task_id] if shared_encoder else START_IDS[LABEL]


@dataclasses.dataclass(frozen=True)
class Prefixes:
    """The texts put before the input to distinguish the tasks.

    The released code has ``predict: `` and ``explain: ``.
    """

    label: str = "[label] "
    rationale: str = "[rationale] "

    @classmethod
    def of(cls, run: TrainConfig) -> "Prefixes":
        """Those of a run; none with a shared encoder, which must not know the task."""
        return cls("", "") if run.shared_encoder else cls(run.label_prefix, run.rationale_prefix)


@dataclasses.dataclass(frozen=True)
class View:
    """One task: the inputs and the targets made of a record.

    Attributes:
        task_id: the mean loss its target tokens belong to.
        prefix: the field of `Prefixes` put before the input; None for none.
        inputs: the question, without prefix.
        targets: the answer; None where the record has no row in this task.
        needs: what a record must have to have a row, for messages.
        explains: a rationale is part of it, so that several rationales make several rows.
    """

    name: str
    task_id: TaskId
    prefix: str | None
    inputs: Callable[[Record], str]
    targets: Callable[[Record], str | None]
    needs: str
    explains: bool = False

    @property
    def reads_rationale(self) -> bool:
        """Whether a teacher's rationale is part of the inputs."""
        return self.inputs is _question_and_rationale

    def of_rationale(self, number: int) -> "View":
        """The view of a record's rationale `number`, from 0."""
        if number == 0:
            return self
        return dataclasses.replace(
            self,
            name=f"{self.name}_{number + 1}",
            inputs=lambda record: self.inputs(record.with_rationale(number)),
            targets=lambda record: self.targets(record.with_rationale(number)),
        )

    def texts(self, record: Record, prefixes: Prefixes) -> tuple[str, str | None]:
        """(prefixed inputs, targets); None for blank targets."""
        return self.prefix_text(prefixes) + self.inputs(record), present(self.targets(record))

    def prefix_text(self, prefixes: Prefixes) -> str:
        """What is put before the inputs; empty for nothing."""
        return getattr(prefixes, self.prefix) if self.prefix else ""


@dataclasses.dataclass(frozen=True)
class Method:
    """What one trains on, and how its answers are read.

    Attributes:
        views: names of the views trained on; every question brings its row of each.
        eval_view: the view whose inputs the student gets when it is scored.
        rationale_view: the view that asks the student to explain itself; None if it cannot.
        answer: the label in the student's output.
    """

    name: str
    views: tuple[str, ...]
    eval_view: str
    rationale_view: str | None
    answer: Callable[[str], str]
    description: str


def _question(record: Record) -> str:
    return record.input


def _gold_label(record: Record) -> str:
    return record.label


def _llm_label(record: Record) -> str | None:
    return record.llm_label


def _rationale(record: Record) -> str | None:
    return record.rationale


def _rationale_then_label(record: Record) -> str | None:
    rationale = present(record.rationale)
    return rationale and f"{rationale}{ANSWER_PHRASE}{record.label}"


def _question_and_rationale(record: Record) -> str:
    rationale = present(record.rationale)
    return f"{record.input}\n{rationale}" if rationale else record.input


def _label_if_explained(record: Record) -> str | None:
    return record.label if present(record.rationale) else None


def present(text: str | None) -> str | None:
    """The text, or None where it is missing or blank."""
    return text if text is not None and text.strip() else None


def whole_output(output: str) -> str:
    """The answer where the output is nothing but the label."""
    return output


def after_phrase(output: str) -> str:
    """The label part of a single_task output; "" where the phrase is missing.

    "Four wheels. So the answer is car" -> "car". The last phrase counts: a rationale may hold one.
    """
    _, phrase, label = f" {output}".rpartition(ANSWER_PHRASE)
    return label if phrase else ""


_GOLD = "a gold label"
_TEACHER_LABEL = "a teacher's label (llm_label)"
_TEACHER_RATIONALE = "a teacher's rationale"

VIEWS: dict[str, View] = {
    view.name: view
    for view in (
        View("label", LABEL, "label", _question, _gold_label, _GOLD),
        View("llm_label", LABEL, "label", _question, _llm_label, _TEACHER_LABEL),
        View("rationale", RATIONALE, "rationale", _question, _rationale, _TEACHER_RATIONALE, True),
        View("finetune", LABEL, None, _question, _gold_label, _GOLD),
        View("distill", LABEL, None, _question, _llm_label, _TEACHER_LABEL),
        View(
            "single_task", LABEL, None, _question, _rationale_then_label, _TEACHER_RATIONALE, True
        ),
        View(
            "pinto",
            LABEL,
            None,
            _question_and_rationale,
            _label_if_explained,
            _TEACHER_RATIONALE,
            explains=True,
        ),
    )
}

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("finetune", ("finetune",), "finetune", None, whole_output, "input -> gold label"),
        Method("distill", ("distill",), "finetune", None, whole_output, "input -> teacher's label"),
        Method(
            "step_by_step",
            ("label", "rationale"),
            "label",
            "rationale",
            whole_output,
            "gold label and teacher's rationale, two tasks marked by prefixes (the paper)",
        ),
        Method(
            "step_by_step_llm",
            ("llm_label", "rationale"),
            "label",
            "rationale",
            whole_output,
            "teacher's label and teacher's rationale, two tasks marked by prefixes",
        ),
        Method(
            "single_task",
            ("single_task",),
            "single_task",
            None,
            after_phrase,
            "input -> teacher's rationale, then gold label; the label part is scored",
        ),
        Method(
            "pinto",
            ("pinto",),
            "pinto",
            None,
            whole_output,
            "input and teacher's rationale -> gold label, in training and test",
        ),
    )
}
