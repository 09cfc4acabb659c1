"""Several rationales of one question: which of them an epoch trains on."""

import collections
import json

import numpy as np
import pytest
from helpers.packed import read_back

from sbs_jax.configs import T5Config, TrainConfig
from sbs_jax.datasets import methods, registry
from sbs_jax.datasets.records import Record
from sbs_jax.input_pipeline import draws, pipeline
from sbs_jax.utils import paths

N, MOST = 40, 3
CONFIG = T5Config(
    vocab_size=384,
    emb_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
)
IDS = draws.keys(f"q{i}" for i in range(2000))


def drawn(epoch: int, seed: int = 3, counts: int = MOST) -> np.ndarray:
    return draws.draw(IDS, seed, np.full(len(IDS), epoch), np.full(len(IDS), counts))


def test_a_draw_is_uniform_and_differs_between_epochs_and_seeds():
    for number in range(6):
        share = np.bincount(drawn(number), minlength=MOST) / len(IDS)
        assert np.all(np.abs(share - 1 / MOST) < 0.05)  # 4.7 standard deviations
    one, two, other = drawn(0), drawn(1), drawn(0, seed=4)
    for pair in ((one, two), (one, other)):
        assert abs(np.mean(pair[0] == pair[1]) - 1 / MOST) < 0.05


def test_a_draw_is_pinned():
    """Every process and version must draw alike, or a resumed run trains on something else."""
    assert drawn(0)[:12].tolist() == [0, 0, 2, 0, 1, 0, 0, 0, 2, 2, 0, 0]


def test_a_draw_depends_on_the_id_alone():
    some = np.array([7, 900, 3])
    epochs, counts = np.full(3, 5), np.full(3, MOST)
    assert draws.draw(IDS[some], 3, epochs, counts).tolist() == drawn(5)[some].tolist()
    assert drawn(2, counts=0).tolist() == [0] * len(IDS)


def texts(number: int) -> tuple[str, ...]:
    """0 to 3 rationales: none, one, two or three."""
    return tuple(f"because {chr(97 + k)} {number}" for k in range(number % (MOST + 1)))


@pytest.fixture(scope="module")
def dataset():
    def read(split):
        for i in range(N):
            several = texts(i)
            yield Record(f"r{i}", f"q {i}", "yes", several[0] if several else None, None, several)

    yield registry.add_dataset("several", records=read, vocabulary="bytes")
    del registry._registry["several"]


def made(tmp_path, rationales: str, pack: bool = True, **changes):
    paths.set_cache_dir(tmp_path)
    settings = {
        "model_dir": str(tmp_path / "run"),
        "mixture_or_task_name": "several_step_by_step",
        "task_feature_lengths": {"inputs": 32, "targets": 32},
        "train_steps": 30,
        "model": CONFIG,
        "vocabulary": "bytes",
        "batch_size": 8,
        "random_seed": 5,
    } | changes
    config = TrainConfig(rationales=rationales, pack=pack, **settings)
    source = pipeline.Source.of(config)
    return source, pipeline.training_batches(source, config, 1)


def explained(source, batch) -> dict[str, list[str]]:
    """The rationales in a batch by the number of their question."""
    found = collections.defaultdict(list)
    for (_, targets, task), count in read_back(batch).items():
        if task == methods.RATIONALE:
            text = source.vocabulary.decode(list(targets)[:-1])
            found[int(text.split()[-1])] += [text] * count
    return found


@pytest.mark.parametrize("pack", [True, False])
def test_a_question_brings_one_rationale_an_epoch_and_another_later(dataset, tmp_path, pack):
    source, batches = made(tmp_path, "draw", pack)
    seen = collections.defaultdict(set)
    for step in range(len(batches)):
        for number, said in explained(source, batches[step]).items():
            assert len(said) == 1 and said[0] in texts(number)
            seen[number] |= set(said)
    # 30 steps of 8 of 40 questions are 6 epochs.
    assert all(seen[i] == set(texts(i)) for i in (1, 5, 9))
    assert sum(len(seen[i]) > 1 for i in range(N)) > 10
    _, again = made(tmp_path, "draw", pack)
    assert all(np.array_equal(again[29][key], batches[29][key]) for key in batches[29])


def test_all_rationales_are_trained_on_or_the_first(dataset, tmp_path):
    source, batches = made(tmp_path, "all")
    for number, said in explained(source, batches[0]).items():
        assert sorted(said) == sorted(texts(number))
    source, batches = made(tmp_path, "first")
    for number, said in explained(source, batches[0]).items():
        assert said == [texts(number)[0]]


def test_a_draw_is_the_same_under_another_batch_size(dataset, tmp_path):
    def first_epoch(size):
        source, batches = made(tmp_path, "draw", batch_size=size)
        parts = [explained(source, batches[step]) for step in range(N // size)]
        return {number: said for part in parts for number, said in part.items()}

    assert first_epoch(8) == first_epoch(4)


def test_records_keep_several_rationales(tmp_path):
    from sbs_jax.datasets.records import read_jsonl, write_jsonl
    from sbs_jax.errors import UserError

    record = Record("1", "q", "yes", "a", "yes", ("a", "b"))
    write_jsonl(tmp_path / "r.jsonl", [record, Record("2", "q", "no")])
    assert list(read_jsonl(tmp_path / "r.jsonl")) == [record, Record("2", "q", "no")]
    assert "rationales" not in (tmp_path / "r.jsonl").read_text().splitlines()[1]
    bad = {"id": "1", "input": "q", "label": "a", "rationales": "a"}
    (tmp_path / "bad.jsonl").write_text(json.dumps(bad) + "\n")
    with pytest.raises(UserError, match=r"bad.jsonl:1: field 'rationales' must be a list"):
        list(read_jsonl(tmp_path / "bad.jsonl"))
