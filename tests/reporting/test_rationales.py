"""Rationales beside the teacher's and beside their own labels, worked by hand."""

import pytest
from helpers.studies import make_run, prediction

from sbs_jax.reporting import answers, rationales
from sbs_jax.runs import reader


@pytest.mark.parametrize(
    ("rationale", "label", "named"),
    [
        ("A loaf is kept in a bread box.", "bread box", True),
        ("A loaf is kept in a breadbox.", "bread", False),
        ("it is NO use", "no", True),
        ("nothing to say", "no", False),
        ("4 times 5 makes 1,020 coins", "( 1000.0 + 20.0 )", True),
        ("4 times 5 makes 21", "( 4.0 * 5.0 )", False),
        ("no number", "( 1.0 / 0.0 )", False),
        ("anything", "", False),
        ("因为油让金属滑动", "油", True),
        ("рыбалка на реке", "рыба", False),
    ],
)
def test_a_rationale_names_a_label_or_its_value(rationale, label, named):
    assert rationales.names_label(rationale, label) is named


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("масло смазывает металл очень хорошо", "вода смывает соль с камня быстро"),
        ("油让金属安静地滑动", "水把盐从石头上冲走了"),
        ("το λάδι λιπαίνει το μέταλλο", "νερό πλένει τώρα αλάτι αλλού"),
        ("oil lets metal slide, quietly", "so water washes salt away"),
    ],
)
def test_the_same_rationale_is_alike_in_every_script(text, other):
    pytest.importorskip("rouge_score")
    pytest.importorskip("sacrebleu")
    assert rationales._likeness([(text, text)]) == ("1.000", "100.0")
    assert rationales._likeness([(text, other)]) == ("0.000", "0.0")


def test_the_table_counts_rationales_of_each_run(tmp_path):
    pytest.importorskip("rouge_score")
    pytest.importorskip("sacrebleu")
    texts = ["it is a b", "it is a c d", None, "yes it is"]
    rows = [
        prediction(3 * i, True, rationale=text, teacher_rationale="it is a b")
        for i, text in enumerate(texts)
    ]
    run = reader.read_run(make_run(tmp_path / "run", "mine_step_by_step", rows))
    read = answers.read(run)
    plain = reader.read_run(make_run(tmp_path / "plain", "mine_finetune", [prediction(0, True)]))
    table = rationales.rationale_table([("one", read), ("none", answers.read(plain))])
    (line,) = table.lines
    # Longest common subsequences 4 of 4 and 4, 3 of 4 and 5, 2 of 4 and 3.
    rouge = (1 + 2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5) + 2 * (2 / 4) * (2 / 3) / (7 / 6)) / 3
    assert line[:3] == ("one", "3", f"{rouge:.3f}")
    assert line[4:] == ("0.333", "0.333", "0.000")  # the label is "yes"
