"""What is checked before the first step: labels, unknown ids, prefixes, repeated questions."""

import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import sentencepiece

from sbs_jax.configs import T5Config, TrainConfig
from sbs_jax.datasets import registry
from sbs_jax.datasets.records import Record
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import data_check, label_check, vocabularies
from sbs_jax.input_pipeline.pipeline import Source
from sbs_jax.utils import paths

BYTES = vocabularies.load("bytes")
ENGLISH = ["is it so or not ?", "yes it is", "no it is not odd", "( 1 + 2 ) / 3", "label: x [y]"]


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> vocabularies.Vocabulary:
    """A vocabulary of a few English words, which folds spaces as T5's does."""
    return vocabularies.load(_trained(tmp_path_factory.mktemp("v") / "english.model", ENGLISH))


@pytest.fixture(scope="module")
def cyrillic(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A vocabulary without Latin letters."""
    words = ["да или нет , это так ?", "нет это не так", "да это оно", "вот и всё"]
    return _trained(tmp_path_factory.mktemp("v") / "cyrillic.model", words)


def _trained(path: Path, sentences: list[str]) -> str:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences * 20),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
    return str(path)


# --- labels ---------------------------------------------------------------------------------------


def _report(vocabulary: vocabularies.Vocabulary, metric: object, *labels: str) -> list[str]:
    counts = {"train": Counter(labels), "test": Counter(labels[:1])}
    return list(label_check.check(counts, metric, vocabulary, "mine").lines())


@pytest.mark.parametrize("label", ["yes", "is not", "( 1 + 2 )", "no"])
def test_a_label_that_comes_back_is_no_news(english: vocabularies.Vocabulary, label: str) -> None:
    assert _report(english, "text", label) == []
    assert label_check.written(english, label) == label


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("yes ", "yes"),
        (" yes", "yes"),
        ("is  not", "is not"),
        ("is\nnot", "is not"),
        ("is\u00a0not", "is not"),
        ("ｙｅｓ", "yes"),
        ("yesж", "yes"),
        ("yes</s>no", "yes"),
    ],
)
def test_a_label_that_changes_is_named_with_pieces_and_count(
    english: vocabularies.Vocabulary, label: str, text: str
) -> None:
    assert label_check.written(english, label) == text
    (line,) = _report(english, "text", label, label, "no")
    assert "1 of 2 gold labels (3 of 4 records) change in VOCABULARY" in line
    assert f"{label!r} -> {text!r} (pieces " in line and "; 3 records)" in line
    assert "\n" not in line


def test_bytes_change_nothing_but_the_end_mark() -> None:
    assert _report(BYTES, "text", "yes ", " a\n b", "½", "日本") == []
    assert len(_report(BYTES, "text", "a</s>b")) == 1


def test_many_changed_labels_are_counted_and_five_named(
    english: vocabularies.Vocabulary,
) -> None:
    (line,) = _report(
        english, "text", *(f"{word} " for word in ["is", "it", "so", "or", "not", "yes", "no"])
    )
    assert "7 of 7 gold labels" in line and line.count(" -> ") == 5 and "and 2 more" in line


@pytest.mark.parametrize("label", ["", " ", "\n"])
def test_empty_gold_labels_are_counted(label: str) -> None:
    (line,) = _report(BYTES, "text", label, "yes")
    assert "2 of 3 records have an empty gold label" in line


def test_labels_that_become_one_are_named(english: vocabularies.Vocabulary) -> None:
    lines = _report(english, "text", "yesж", "yesд", "no", "no ")
    assert any("writes alike: 'yesж' and 'yesд'" in line for line in lines)
    assert not any("'no' and 'no '" in line for line in lines)


def test_a_label_of_which_nothing_is_left_is_refused(cyrillic: str) -> None:
    with pytest.raises(UserError, match=r"can write nothing of the gold label 'yes' \(3 records\)"):
        _report(vocabularies.load(cyrillic), "text", "yes", "yes", "да")


@pytest.mark.parametrize("label", ["$18", "50%", "050", "3 apples", "1 200", "7:30", "two", ""])
def test_what_the_metric_never_accepts_is_named(label: str) -> None:
    *_, line = _report(BYTES, "equation", label, "9500.", ".5", "1/2", "1e3")
    assert "1 of 5 gold labels (2 of 6 records) can never be right by metric equation" in line
    assert f"{label!r} (2 records)" in line


def test_a_users_metric_is_asked_too() -> None:
    def share(prediction: str, gold: str) -> float:
        return 0.5 if gold == "half" else 1.0

    (line,) = _report(BYTES, share, "half", "whole")
    assert "by metric share" in line and "'half' (2 records)" in line

    def broken(prediction: str, gold: str) -> float:
        return float(gold)

    with pytest.raises(UserError, match=r"mine/train: record with gold label 'x': metric broken"):
        _report(BYTES, broken, "0.5", "x")


# --- a run's data ---------------------------------------------------------------------------------


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Checks a dataset of such records; `settings` are the configuration's."""
    monkeypatch.setenv(paths.CACHE_DIR_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(registry, "_registry", {})
    monkeypatch.setattr(registry, "_listeners", [])  # SeqIO's keeps what an earlier test added
    monkeypatch.setattr(registry, "_metric_sources", [])

    def check(
        records: dict[str, list[Record]], metric_fns: Sequence = (), **settings: object
    ) -> list[str]:
        registry._registry.pop("mine", None)
        registry.add_dataset("mine", records=records.__getitem__, metric_fns=metric_fns)
        fields = {
            "model_dir": "unused",
            "mixture_or_task_name": "mine_step_by_step",
            "task_feature_lengths": {"inputs": 48, "targets": 32},
            "train_steps": 1,
            "model": T5Config(512, 16, 2, 1, 1, 8, 32),
            "vocabulary": "bytes",
        }
        config = TrainConfig(**{**fields, **settings})
        return data_check.check(Source.of(config), config)

    return check


def _records(split: str, count: int = 12, word: str = "is it so or not ?") -> list[Record]:
    return [
        Record(f"{split}{i}", f"{split} {i} {word}", "yes" if i % 2 else "no", "it is so")
        for i in range(count)
    ]


def _splits(**changes: list[Record]) -> dict[str, list[Record]]:
    return {split: _records(split) for split in ("train", "validation", "test")} | changes


def test_sound_data_need_no_words(check: Callable) -> None:
    assert check(_splits()) == []


@pytest.mark.parametrize("prefixes", [("", ""), ("task: ", "task: "), ("x", "x")])
def test_equal_prefixes_are_refused(check: Callable, prefixes: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=r"LABEL_PREFIX = .* RATIONALE_PREFIX = .* the same ids"):
        check(_splits(), label_prefix=prefixes[0], rationale_prefix=prefixes[1])


@pytest.mark.parametrize(
    "prefixes", [("[label] ", "[rationale] "), ("predict: ", "explain: "), ("а", "б")]
)
def test_prefixes_of_which_the_vocabulary_knows_nothing_are_refused(
    check: Callable, cyrillic: str, prefixes: tuple[str, str]
) -> None:
    settings = {"vocabulary": cyrillic, "max_unknown": 1.0}
    settings |= {"label_prefix": prefixes[0], "rationale_prefix": prefixes[1]}
    words = {
        split: [Record(f"{i}", f"{split} {i} это так ?", "да", "вот") for i in range(4)]
        for split in ("train", "validation", "test")
    }
    if prefixes == ("а", "б"):
        assert check(words, **settings)
    else:
        with pytest.raises(UserError, match="cannot be distinguished"):
            check(words, **settings)


@pytest.mark.parametrize("kind", ["questions", "labels", "rationales"])
def test_too_many_unknown_ids_are_refused_by_kind(
    check: Callable, english: vocabularies.Vocabulary, kind: str
) -> None:
    strange = {"questions": "日本", "labels": "日本 yes", "rationales": "日 本 yes 日 本"}
    train = [
        Record(
            str(i),
            f"is it so {i}" + strange["questions"] * (20 if kind == "questions" else 0),
            strange["labels"] if kind == "labels" else "yes",
            strange["rationales"] if kind == "rationales" else "it is so",
        )
        for i in range(4)
    ]
    data = _splits(train=train)
    with pytest.raises(UserError, match=rf"of the training {kind} are unknown, more than 10%"):
        check(data, vocabulary=english.spec, label_prefix="is ", rationale_prefix="no ")
    lines = check(
        data,
        vocabulary=english.spec,
        label_prefix="is ",
        rationale_prefix="no ",
        max_unknown=1.0,
    )
    assert any(f"training {kind} " in line and line.startswith("unknown ids") for line in lines)


def _english(split: str, text: str = "is it so or not") -> list[Record]:
    words = ["odd", "yes", "no", "not", "is", "it"]
    return [Record(str(i), f"{text} {split} {words[i]}", "yes", "it is so") for i in range(6)]


@pytest.mark.parametrize(
    "prefixes",
    [
        ("\u65e5\u672c ", "\u65e5 \u672c yes "),
        ("<x> ", "<y> z "),
        ("is ", "no "),
        ("yes " + "\u65e5 " * 9, "no "),
    ],
)
def test_unknown_ids_of_a_prefix_are_none_of_the_question(
    check: Callable, english: vocabularies.Vocabulary, prefixes: tuple[str, str]
) -> None:
    settings = {"label_prefix": prefixes[0], "rationale_prefix": prefixes[1]}
    data = {split: _english("not") for split in ("train", "validation", "test")}
    lines = check(data, vocabulary=english.spec, **settings)
    assert not any(line.startswith("unknown ids") for line in lines)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_questions_that_are_scored_must_be_known_too(
    check: Callable, english: vocabularies.Vocabulary, split: str
) -> None:
    data = {name: _english("not") for name in ("train", "validation", "test")}
    data[split] = _english("so", "\u65e5 \u672c \u0434\u0430")
    settings = {"vocabulary": english.spec, "label_prefix": "is ", "rationale_prefix": "no "}
    with pytest.raises(UserError, match=rf"of the ids of the {split} questions are unknown"):
        check(data, **settings)
    (line,) = [x for x in check(data, max_unknown=1.0, **settings) if x.startswith("unknown ids")]
    assert f"{split} questions " in line and "training questions 0.00%" in line


def test_questions_of_two_splits_are_counted(check: Callable) -> None:
    train = _records("train")
    leaked = [Record(f"t{i}", train[i].input, "yes") for i in range(3)]
    (line,) = check(_splits(test=[*_records("test"), *leaked]))
    assert "3 of 15 test records have the same question as a train record" in line
    lines = check(_splits(validation=leaked, test=leaked))
    assert len(lines) == 3


def test_a_space_more_makes_no_other_question(check: Callable) -> None:
    train = _records("train")
    leaked = [Record(f"t{i}", f" {train[i].input}\n", "yes") for i in range(3)]
    (line,) = check(_splits(validation=[*_records("validation"), *leaked]))
    assert "3 of 15 validation records have the same question as a train record" in line


def test_repeated_questions_of_a_test_are_counted(check: Callable) -> None:
    test = [Record(f"{i}", f"question {i % 2}", "yes") for i in range(20)]
    (line,) = check(_splits(test=test))
    assert "mine/test: 20 records ask 2 different questions" in line


def test_further_metrics_are_called_before_they_cost_an_update(check: Callable) -> None:
    called = []

    def lengths(targets: list[str], predictions: list[str]) -> dict[str, float]:
        called.append((targets, predictions))
        return {"lengths": float(targets[0])}

    with pytest.raises(UserError, match=r"metric lengths raises ValueError"):
        check(_splits(), metric_fns=[lengths])
    assert called == [(["no", "yes"], ["no", "yes"])]


def test_metrics_of_model_scores_are_named(check: Callable) -> None:
    def likelihood(targets: list[str], scores: list[float]) -> dict[str, float]:
        raise AssertionError("never called")

    (line,) = check(_splits(), metric_fns=[likelihood])
    assert "likelihood takes model scores, which T5X alone computes" in line


def test_a_split_that_cannot_be_read_is_refused(check: Callable) -> None:
    with pytest.raises(UserError, match="mine/validation: the split is empty"):
        check(_splits(validation=[]))
