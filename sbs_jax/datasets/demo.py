"""The embedded dataset: yes/no questions about invented things, and the teacher that answers them.

A hidden table gives every noun a kind and every kind half of the verbs. Whether ``can a NOUN VERB
?`` is true takes two steps, noun -> kind and kind -> verb, and only the teacher's rationale names
the step between::

    input       can a bavik trosk ?
    completion  it is a quarn . a quarn can trosk . So the answer is yes.   (and then it runs on)

All nouns, kinds and verbs are invented; they mean nothing in any language, so nothing but the
training questions can teach a student about them.

Every noun is asked about 16 of the 32 verbs in training, 4 others in validation and the remaining
12 in the test: 800 / 200 / 600 questions, none in two splits. A seed fixes the table, the split and
the teacher's mistakes; the vocabulary is the same for all seeds.
"""

import collections
import dataclasses
import hashlib
import io
import pathlib
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from sbs_jax.datasets import completions
from sbs_jax.datasets.records import Record
from sbs_jax.errors import UserError
from sbs_jax.metrics.accuracy import Accuracy

_NOUN_LIST = """
bavik belmor bonvit brunda dallip defrin doskel dunwip fandol felsin
filmot fodrel garmil gelpan gintor gumrel hasdel hembor hoplin hundat
jalvin jempor jontil kelbar kimdor kosvet lamdro lenzic lorbat mabrel
mendup mirtok nalfen nembit norvil palsin pelgor pimdal ralvet renpok
rivdon sambrel selgip sondel tambric telvor tindop valpen vostin woplik
"""
_VERB_LIST = """
blim brask crelp dralk dwin flabe fleem flosk frub gleff grusk klund
molk nersh plask prend quove rulk scrone shub skelt slome smelf snarp
splone stril swabe thrim trosk twilp vunch yorf
"""
NOUNS = tuple(_NOUN_LIST.split())
KINDS = ("glomph", "quarn", "snelk", "truvel")
VERBS = tuple(_VERB_LIST.split())

# Verbs per noun; their sum is all of them.
VERBS_PER_SPLIT = {"train": 16, "validation": 4, "test": 12}

# The default teacher: each fact it states is wrong in one of 20 cases, and one completion in 50
# never gets to a readable answer.
ERROR_RATE = 0.05
UNREADABLE_RATE = 0.02

_YES, _NO = "yes", "no"
_MOST_RUN_ON_QUESTIONS = 2


@dataclasses.dataclass(frozen=True)
class Table:
    """The hidden facts: the kind of every noun, and the verbs that hold for every kind."""

    kind: dict[str, str]
    verbs: dict[str, frozenset[str]]

    def answer(self, noun: str, verb: str) -> str:
        """The gold label, "yes" or "no"."""
        return _YES if verb in self.verbs[self.kind[noun]] else _NO


def table(seed: int = 0) -> Table:
    """The facts of a seed: random kinds, and for every kind a random half of the verbs."""
    draw = _generator(seed, "table")
    kinds = draw.integers(len(KINDS), size=len(NOUNS))
    half = len(VERBS) // 2
    return Table(
        kind={noun: KINDS[kind] for noun, kind in zip(NOUNS, kinds, strict=True)},
        verbs={
            kind: frozenset(VERBS[i] for i in draw.permutation(len(VERBS))[:half]) for kind in KINDS
        },
    )


def questions(split: str, seed: int = 0) -> list[Record]:
    """The questions of train (800), validation (200) or test (600), with gold labels only.

    They come in rounds of one question per noun, so that any prefix of the training questions
    covers the nouns evenly: half of the labels is the first half of the list.

    Raises:
        UserError: unknown split.
    """
    if split not in VERBS_PER_SPLIT:
        known = ", ".join(VERBS_PER_SPLIT)
        raise UserError(f"demo: unknown split {split!r}; known: {known}")
    facts, draw = table(seed), _generator(seed, "split")
    verb_order = [draw.permutation(len(VERBS)) for _ in NOUNS]
    records: list[Record] = []
    first = 0
    for name, count in VERBS_PER_SPLIT.items():
        for place in range(first, first + count):
            order = draw.permutation(len(NOUNS))
            if name != split:
                continue
            for i in order:
                noun, verb = NOUNS[i], VERBS[verb_order[i][place]]
                records.append(
                    Record(
                        id=f"demo{seed}-{split}-{len(records)}",
                        input=f"can a {noun} {verb} ?",
                        label=facts.answer(noun, verb),
                    )
                )
        first += count
    return records


def complete(
    record: Record,
    seed: int = 0,
    error_rate: float = ERROR_RATE,
    unreadable_rate: float = UNREADABLE_RATE,
) -> str:
    """The embedded teacher's completion, in the form of the released ones.

    A rationale of two facts, ``So the answer is yes.``, then the teacher runs on into questions of
    its own. A wrong kind or a flipped ``can`` misleads its answer just as it would in any chain of
    thought. The same record and seed give the same text.

    Args:
        seed: of the table from which the teacher answers.
        error_rate: probability that the kind is another one, and again that ``can`` and ``cannot``
            are swapped.
        unreadable_rate: probability that the completion holds no readable answer.

    Raises:
        UserError: the record is no question of this dataset.
    """
    facts = table(seed)
    noun, verb = _noun_and_verb(record)
    draw = _generator(seed, f"teacher {record.id} {record.input}")
    text = _chain_of_thought(facts, noun, verb, draw, error_rate)
    if draw.random() < unreadable_rate:
        return _spoil(text, draw)
    for _ in range(draw.integers(_MOST_RUN_ON_QUESTIONS + 1)):
        noun, verb = NOUNS[draw.integers(len(NOUNS))], VERBS[draw.integers(len(VERBS))]
        again = _chain_of_thought(facts, noun, verb, draw, error_rate)
        text += f"\n\nQ: can a {noun} {verb} ?\nA: {again}"
    return text


def annotate(
    records: Iterable[Record],
    seed: int = 0,
    error_rate: float = ERROR_RATE,
    unreadable_rate: float = UNREADABLE_RATE,
) -> Iterator[str]:
    """`complete` of every record, in order."""
    for record in records:
        yield complete(record, seed, error_rate, unreadable_rate)


def records(split: str, seed: int = 0) -> Iterator[Record]:
    """The split's questions, with rationale and label parsed from the teacher's completions."""
    rows = questions(split, seed)
    for record, text in zip(rows, annotate(rows, seed), strict=True):
        rationale, llm_label = completions.phrase(text)
        yield dataclasses.replace(record, rationale=rationale, llm_label=llm_label)


def verb_baseline(train: Iterable[Record], test: Iterable[Record]) -> Accuracy:
    """The accuracy of answering by the verb alone, ignoring the noun.

    The answer is the verb's more frequent training label (ties and unseen verbs: "no"). A student
    at this level has learned nothing about the nouns.
    """
    balance: collections.Counter[str] = collections.Counter()
    for record in train:
        balance[_noun_and_verb(record)[1]] += 1 if record.label == _YES else -1
    guesses = [
        (_YES if balance[_noun_and_verb(record)[1]] > 0 else _NO) == record.label for record in test
    ]
    return Accuracy(sum(guesses), len(guesses))


def vocabulary_words() -> tuple[str, ...]:
    """Every word of inputs and targets, in the order of their ids from 3 on."""
    forms = ("[label]", "[rationale]", "predict:", "explain:")
    answers = ["So", "the", "answer", "is", "yes", "no"]
    grammar = ["can", "cannot", "a", "it", ".", "?"]
    return (*forms, *answers, *grammar, *KINDS, *NOUNS, *VERBS)


def vocabulary_model() -> bytes:
    """The SentencePiece model of ``assets/demo.model``: whole words, only line ends normalised.

    Pad 0, EOS 1, unknown 2 and no BOS, as T5 has them. A line end becomes a space, as in T5's own
    model: inputs that hold a rationale (PINTO) have one.
    """
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    words = vocabulary_words()
    # Ids go by falling frequency: the first word is in every line, the last in one.
    lines = (" ".join(words[: len(words) - i]) for i in range(len(words)))
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        rules = pathlib.Path(folder, "rules.tsv")
        rules.write_text("A\t20\n", encoding="utf-8")  # code points of line feed and space
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=model,
            model_type="word",
            vocab_size=len(words) + 3,
            normalization_rule_tsv=str(rules),
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    model_proto: Any = sentencepiece_model_pb2  # generated code without types
    proto = model_proto.ModelProto.FromString(model.getvalue())
    proto.normalizer_spec.ClearField("normalization_rule_tsv")  # the temporary folder's name
    return proto.SerializeToString(deterministic=True)


def _chain_of_thought(
    facts: Table, noun: str, verb: str, draw: np.random.Generator, error_rate: float
) -> str:
    kind = facts.kind[noun]
    if draw.random() < error_rate:
        kind = [other for other in KINDS if other != kind][draw.integers(len(KINDS) - 1)]
    can = (verb in facts.verbs[kind]) != (draw.random() < error_rate)
    rationale = f"it is a {kind} . a {kind} {'can' if can else 'cannot'} {verb} ."
    return f"{rationale} So the answer is {_YES if can else _NO}."


def _spoil(text: str, draw: np.random.Generator) -> str:
    """A completion without a readable answer: cut short, without its phrase, or off the subject."""
    rationale, phrase, label = text.partition("So the answer is")
    return (
        text[: draw.integers(1, len(rationale + phrase))],
        f"{rationale}That means {label.strip()}\n\nQ: can a",
        f"Q: {text}",
    )[draw.integers(3)]


def _noun_and_verb(record: Record) -> tuple[str, str]:
    words = record.input.split()
    form = [*words[:2], *words[4:]]
    if form != ["can", "a", "?"] or words[2] not in NOUNS or words[3] not in VERBS:
        raise UserError(
            f"record {record.id}: {record.input!r} is no question of the embedded dataset "
            "('can a NOUN VERB ?' with its own words)"
        )
    return words[2], words[3]


def _generator(seed: int, purpose: str) -> np.random.Generator:
    """Random numbers of one purpose, independent of every other, the same on any machine."""
    digest = hashlib.sha256(f"sbs demo {seed} {purpose}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
