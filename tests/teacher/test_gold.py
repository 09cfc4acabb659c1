"""Gold labels that no answer can match are named before anything is paid for."""

import dataclasses

import pytest
from helpers import annotate_cli
from helpers.serving import serving
from helpers.stub_server import StubServer

from sbs_jax.datasets.records import Record, read_jsonl, write_jsonl
from sbs_jax.errors import UserError
from sbs_jax.teacher import gold, prompts

PROMPTS = {name: prompts.load(name) for name in prompts.names()}
PROMPTS["gsm8k"] = dataclasses.replace(PROMPTS["svamp"], answer="text")

CHOICES = "Where?\nAnswer Choices:\n(a) box\n(b) Drawer\n(c) top shelf"
# Dataset, input, gold label -> possible, the label it stands for.
LABELS = [
    ("cqa", CHOICES, "box", True, None),
    ("cqa", CHOICES, "B", False, "Drawer"),
    ("cqa", CHOICES, "(b)", False, "Drawer"),
    ("cqa", CHOICES, "b.", False, "Drawer"),
    ("cqa", CHOICES, "drawer", False, "Drawer"),
    ("cqa", CHOICES, " top  shelf ", False, "top shelf"),
    ("cqa", CHOICES, "(B) drawer", False, "Drawer"),
    ("cqa", CHOICES, "b. Drawer", False, "Drawer"),
    ("cqa", CHOICES, "(a) drawer", False, None),
    ("cqa", CHOICES, "(x) drawer", False, None),
    ("cqa", CHOICES, "Drawer.", False, "Drawer"),
    ("cqa", CHOICES, "the drawer", False, None),
    ("cqa", CHOICES, "1", False, None),
    ("cqa", CHOICES, "floor", False, None),
    ("esnli", "p</s>h", "entailment", True, None),
    ("esnli", "p</s>h", "Entailment", False, "entailment"),
    ("esnli", "p</s>h", "entailment ", False, "entailment"),
    ("esnli", "p</s>h", "e", False, None),
    ("esnli", "p</s>h", "0", False, None),
    ("esnli", "p</s>h", "-", False, None),
    ("esnli", "p</s>h", "", True, None),
    ("svamp", "How many?", "( 8.0 - 3.0 )", True, None),
    ("svamp", "How many?", "1,200", False, "1200"),
    ("svamp", "How many?", "$18", False, "18"),
    ("svamp", "How many?", "two", False, None),
    ("svamp", "How many?", "7\u202f000", False, "7000"),
    ("svamp", "How many?", "\\boxed{7}", False, "7"),
    ("svamp", "How many?", "7 apples", False, None),
    ("svamp", "How many?", "nan", False, None),
    ("svamp", "How many?", "", True, None),
    ("gsm8k", "How many?", "1,200", False, "1200"),
    ("gsm8k", "How many?", "1200", True, None),
]


@pytest.mark.parametrize(("name", "text", "label", "possible", "meant"), LABELS)
def test_labels(name, text, label, possible, meant):
    record = Record("1", text, label)
    assert gold.is_possible(PROMPTS[name], record) == possible
    if not possible:
        assert gold.meant(PROMPTS[name], record) == meant
    (read,) = gold.read(PROMPTS[name], [record])
    assert read.label == (label if meant is None else meant)


def test_the_message_counts_shows_and_advises():
    records = [Record("1", CHOICES, "box"), Record("2", CHOICES, "B"), Record("3", CHOICES, "x")]
    with pytest.raises(UserError) as raised:
        gold.check(PROMPTS["cqa"], {"train": lambda: records})
    message = str(raised.value)
    assert message.startswith("train: 2 of 3 gold labels are no possible answer: 'B' of record 2")
    for part in ("means 'Drawer'", "'x' of record 3", "--gold=meant reads 1", "--gold=any"):
        assert part in message


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_gold_labels_of_the_release_are_possible(release_dir, split):
    from sbs_jax.datasets.release import Release

    for name in ("cqa", "svamp"):
        for record in Release(release_dir).records(name, split):
            assert gold.is_possible(PROMPTS[name], record), record


@pytest.fixture
def stub(tmp_path, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    write_jsonl(tmp_path / "train.jsonl", [Record(str(i), f"{i}{CHOICES}", "B") for i in range(3)])
    script = "So is it. So the answer is (b) Drawer."
    with serving(StubServer(lambda call, sample: script)) as server:
        yield server


@pytest.mark.parametrize("flags", [{}, {"dry_run": True}, {"batch_export": True}])
def test_nothing_is_sent_or_shown_with_impossible_labels(stub, tmp_path, capsys, flags):
    assert annotate_cli.run(stub, tmp_path, task="cqa", **flags) == 2
    assert "3 of 3 gold labels" in capsys.readouterr().err
    assert not stub.calls and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("reading", "label", "kept"), [("meant", "Drawer", 3), ("any", "B", 0)])
def test_the_flag_reads_them_or_takes_any(stub, tmp_path, reading, label, kept):
    assert annotate_cli.run(stub, tmp_path, task="cqa", gold=reading, only_correct=True) == 0
    records = list(read_jsonl(tmp_path / "out" / "train.jsonl"))
    assert {record.label for record in records} == {label}
    assert sum(record.rationale is not None for record in records) == kept
