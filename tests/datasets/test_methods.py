"""What each task asks and answers, on one record."""

import pytest

from sbs_jax.datasets.methods import METHODS, VIEWS, Prefixes
from sbs_jax.datasets.records import Record

RECORD = Record("1", "2 + 2?", "four", "Two and two.", "five")
# The only blank that is not empty in the released data is " ".
UNREAD = Record("2", "2 + 2?", "four", " ", " ")
ALONE = Record("3", "2 + 2?", "four")


@pytest.mark.parametrize(
    ("view", "inputs", "targets", "task_id"),
    [
        ("label", "[label] 2 + 2?", "four", 1),
        ("llm_label", "[label] 2 + 2?", "five", 1),
        ("rationale", "[rationale] 2 + 2?", "Two and two.", 2),
        ("finetune", "2 + 2?", "four", 1),
        ("distill", "2 + 2?", "five", 1),
        ("single_task", "2 + 2?", "Two and two. So the answer is four", 1),
        ("pinto", "2 + 2?\nTwo and two.", "four", 1),
    ],
)
def test_texts(view: str, inputs: str, targets: str, task_id: int) -> None:
    assert VIEWS[view].texts(RECORD, Prefixes()) == (inputs, targets)
    assert VIEWS[view].task_id == task_id


@pytest.mark.parametrize("record", [UNREAD, ALONE], ids=["blank", "absent"])
@pytest.mark.parametrize("view", VIEWS)
def test_a_record_without_teacher_output_has_rows_in_gold_tasks_only(
    view: str, record: Record
) -> None:
    inputs, targets = VIEWS[view].texts(record, Prefixes())
    assert inputs.endswith("2 + 2?")
    assert targets == ("four" if view in ("label", "finetune") else None)


def test_a_blank_gold_label_is_no_target() -> None:
    assert VIEWS["label"].texts(Record("1", "x", " "), Prefixes())[1] is None


def test_prefixes_of_the_released_code() -> None:
    prefixes = Prefixes("predict: ", "explain: ")
    assert VIEWS["label"].texts(RECORD, prefixes)[0] == "predict: 2 + 2?"
    assert VIEWS["rationale"].texts(RECORD, prefixes)[0] == "explain: 2 + 2?"


def test_every_method_is_made_of_known_views() -> None:
    assert list(METHODS) == [
        "finetune",
        "distill",
        "step_by_step",
        "step_by_step_llm",
        "single_task",
        "pinto",
    ]
    for method in METHODS.values():
        rationale = [method.rationale_view] if method.rationale_view else []
        assert {*method.views, method.eval_view, *rationale} <= VIEWS.keys()


@pytest.mark.parametrize("label", ["four", "( 2.0 + 2.0 )", "So the answer", "a  b"])
@pytest.mark.parametrize("rationale", ["Two. So the answer is not five.", "x"])
def test_the_label_is_cut_exactly_from_a_single_task_target(label: str, rationale: str) -> None:
    record = Record("1", "q", label, rationale, None)
    targets = VIEWS["single_task"].texts(record, Prefixes())[1]
    assert METHODS["single_task"].answer(targets) == label


@pytest.mark.parametrize(
    ("output", "label"),
    [
        ("", ""),
        ("four", ""),
        ("Two and two. So the answer is", ""),
        ("So the answer is four", "four"),
        ("A. So the answer is five. So the answer is four", "four"),
    ],
)
def test_what_a_student_may_say_in_single_task(output: str, label: str) -> None:
    assert METHODS["single_task"].answer(output) == label


def test_other_outputs_are_the_label_as_they_stand() -> None:
    assert METHODS["step_by_step"].answer(" four ") == " four "
