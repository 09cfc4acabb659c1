"""The embedded dataset: its facts, its splits, its teacher and its vocabulary."""

import collections
import dataclasses
import hashlib

import pytest
from sentencepiece import sentencepiece_model_pb2

from sbs_jax.datasets import completions, demo, records
from sbs_jax.datasets.records import Record
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import vocabularies
from sbs_jax.metrics.accuracy import Accuracy
from sbs_jax.utils import paths

SPLITS = ("train", "validation", "test")
# Of train, validation and test of seed 0 as `sbs data` would write them: changes only when the
# dataset is changed on purpose, never with a library's version.
SHA256 = "5d9724047c2c223b034bd3591aaf8dd301244a277a2715bbf10e55707b4758f7"


def word(record: Record, place: int) -> str:
    return record.input.split()[place]


def test_split_sizes_and_no_question_twice():
    asked = {split: demo.questions(split) for split in SPLITS}
    assert [len(asked[split]) for split in SPLITS] == [800, 200, 600]
    every = [record for split in SPLITS for record in asked[split]]
    assert len({record.input for record in every}) == 50 * 32
    assert len({record.id for record in every}) == 50 * 32


def test_any_prefix_of_the_training_questions_covers_the_nouns_evenly():
    train = demo.questions("train", seed=3)
    for count in (50, 100, 200, 400, 800):
        per_noun = collections.Counter(word(record, 2) for record in train[:count])
        assert set(per_noun.values()) == {count // 50}, count


def test_labels_follow_the_table_and_are_balanced():
    facts = demo.table(1)
    test = demo.questions("test", 1)
    for record in test:
        can = word(record, 3) in facts.verbs[facts.kind[word(record, 2)]]
        assert record.label == ("yes" if can else "no")
    assert 0.4 < sum(record.label == "yes" for record in test) / len(test) < 0.6
    assert all(len(verbs) == 16 for verbs in facts.verbs.values())


def test_the_dataset_is_the_same_everywhere(tmp_path):
    digest = hashlib.sha256()
    for split in SPLITS:
        records.write_jsonl(tmp_path / split, demo.records(split))
        digest.update((tmp_path / split).read_bytes())
    assert digest.hexdigest() == SHA256


def test_a_seed_changes_facts_split_and_mistakes():
    first, second = demo.table(0), demo.table(1)
    assert first.kind != second.kind
    assert first.verbs != second.verbs
    assert [r.input for r in demo.questions("train", 0)] != [
        r.input for r in demo.questions("train", 1)
    ]


def test_a_teacher_without_mistakes_explains_every_answer():
    facts = demo.table(0)
    for record in demo.questions("test"):
        text = demo.complete(record, error_rate=0.0, unreadable_rate=0.0)
        noun, verb = word(record, 2), word(record, 3)
        kind, can = facts.kind[noun], "can" if record.label == "yes" else "cannot"
        rationale = f"it is a {kind} . a {kind} {can} {verb} ."
        assert completions.phrase(text) == (rationale, record.label)
        assert text.startswith(f"{rationale} So the answer is {record.label}.")


def test_the_teacher_runs_on_into_questions_of_its_own():
    texts = list(demo.annotate(demo.questions("validation"), unreadable_rate=0.0))
    assert {text.count("\n\nQ: can a ") for text in texts} == {0, 1, 2}


def test_mistakes_come_at_the_set_rate_and_agree_with_the_rationale():
    facts = demo.table(0)
    asked = demo.questions("train")
    texts = demo.annotate(asked, error_rate=0.2, unreadable_rate=0.0)
    wrong_kind = flipped = 0
    for record, text in zip(asked, texts, strict=True):
        rationale, label = completions.phrase(text)
        kind, can = rationale.split()[3], rationale.split()[7]
        assert label == ("yes" if can == "can" else "no")
        wrong_kind += kind != facts.kind[word(record, 2)]
        flipped += (can == "can") != (word(record, 3) in facts.verbs[kind])
    # 800 draws at .2: 160 expected, standard deviation 11.
    assert 115 < wrong_kind < 205
    assert 115 < flipped < 205


def test_unreadable_completions_have_no_label_and_several_forms():
    asked = demo.questions("validation")
    texts = list(demo.annotate(asked, unreadable_rate=1.0))
    assert {completions.phrase(text) for text in texts} == {(" ", " ")}
    assert any(text.startswith("Q:") for text in texts)
    assert any("That means" in text for text in texts)
    assert any(len(text) < 30 for text in texts)


def test_the_default_teacher_is_good_but_not_perfect():
    for seed in range(3):
        test = list(demo.records("test", seed))
        right = sum(record.llm_label == record.label for record in test) / len(test)
        assert 0.87 < right < 0.95, seed
        assert any(record.llm_label == " " for record in test), seed


def test_the_baseline_guesses_by_verb():
    def question(noun: str, verb: str, label: str) -> Record:
        return Record(id="x", input=f"can a {noun} {verb} ?", label=label)

    train = [
        question("bavik", "blim", "yes"),
        question("belmor", "blim", "yes"),
        question("bonvit", "blim", "no"),
        question("bavik", "brask", "no"),
    ]
    test = [
        question("brunda", "blim", "yes"),
        question("dallip", "blim", "no"),
        question("brunda", "brask", "no"),
        question("brunda", "yorf", "no"),  # a verb never seen counts as "no"
    ]
    assert demo.verb_baseline(train, test) == Accuracy(3, 4)


def test_the_packaged_vocabulary_is_the_generated_one():
    def pieces(model: bytes) -> list[tuple[str, int]]:
        proto = sentencepiece_model_pb2.ModelProto.FromString(model)
        return [(piece.piece, piece.type) for piece in proto.pieces]

    packaged = paths.asset("demo.model").read_bytes()
    assert pieces(packaged) == pieces(demo.vocabulary_model()), (
        "run benchmarks/make_demo_vocabulary.py and commit sbs_jax/assets/demo.model"
    )
    assert len(packaged) < 4096


@pytest.mark.parametrize(
    "form", ["[label] {}", "[rationale] {}", "predict: {}", "explain: {}", "{}"]
)
def test_every_word_is_one_token_and_comes_back(form):
    vocabulary = vocabularies.load("demo")
    record = next(demo.records("train"))
    texts = [form.format(record.input), record.rationale, f"{record.rationale} So the answer is no"]
    for text in texts:
        ids = vocabulary.encode(text)
        assert len(ids) == len(text.split())
        assert vocabulary.unk_id not in ids
        assert vocabulary.decode(ids) == text


def test_a_line_end_is_a_space():
    vocabulary = vocabularies.load("demo")
    assert vocabulary.encode("blim ?\nit is") == vocabulary.encode("blim ? it is")


def test_no_word_of_any_seed_is_unknown():
    vocabulary = vocabularies.load("demo")
    for split in SPLITS:
        for record in demo.records(split, seed=2):
            text = f"{record.input} {record.rationale} {record.label}"
            assert vocabulary.unk_id not in vocabulary.encode(text)


def test_a_mistaken_split_or_question_is_named():
    with pytest.raises(UserError, match="unknown split 'dev'; known: train, validation, test"):
        demo.questions("dev")
    foreign = dataclasses.replace(demo.questions("test")[0], input="can a wombat yorf ?")
    with pytest.raises(UserError, match=r"demo0-test-0.*wombat"):
        demo.complete(foreign)
