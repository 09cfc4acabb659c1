"""Answers may be as long as the longest target trained on; what is truncated is counted."""

import dataclasses

import pytest
from helpers.runs import MODEL

from sbs_jax.configs import TrainConfig
from sbs_jax.datasets import registry
from sbs_jax.datasets.records import Record
from sbs_jax.evaluation import lengths
from sbs_jax.input_pipeline.pipeline import Source


def records(split: str) -> list[Record]:
    """Bytes are tokens: labels of up to 20, teacher labels of up to 40, rationales of up to 90."""
    scale = 1 if split == "train" else 2
    return [
        Record(
            id=f"{split}-{n}",
            input="question " * (n + 1),
            label="g" * (5 * n + 5) * scale,
            llm_label="t" * (10 * n + 10),
            rationale="r" * (30 * n + 30) if n < 3 else None,
        )
        for n in range(4)
    ]


registry.add_dataset("lengths", records=records)


def config_of(method: str, **changes: object) -> TrainConfig:
    settings = {
        "model_dir": "unused",
        "mixture_or_task_name": f"lengths_{method}",
        "task_feature_lengths": {"inputs": 64, "targets": 256},
        "train_steps": 1,
        "model": dataclasses.replace(MODEL, vocab_size=384),
        "vocabulary": "bytes",
    }
    return TrainConfig(**{**settings, **changes})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SBS_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


# EOS is a token too; lengths are rounded up to a multiple of 16.
@pytest.mark.parametrize(
    ("method", "changes", "length"),
    [
        ("finetune", {}, 32),  # 20 + 1
        ("step_by_step", {}, 32),  # the label task decides
        ("distill", {}, 48),  # 40 + 1
        ("step_by_step_llm", {}, 48),
        ("single_task", {}, 128),  # 90, " So the answer is " and 15
        ("finetune", {"data_fraction": 0.25}, 32),  # the same for every fraction and seed
        ("rationale", {}, 256),  # no label is trained
        ("single_task", {"task_feature_lengths": {"inputs": 64, "targets": 70}}, 70),
        ("finetune", {"max_decode_length": 63}, 63),
        ("single_task", {"max_decode_length": 63}, 63),
    ],
)
def test_the_decoding_length_fits_the_longest_label_target(method, changes, length):
    config = config_of(method, **changes)
    assert lengths.resolve(config, Source.of(config)).max_decode_length == length


@pytest.mark.parametrize(
    ("method", "length", "said"),
    [
        ("finetune", 63, None),
        ("finetune", 21, None),
        ("finetune", 20, "MAX_DECODE_LENGTH = 20: 1 of 4 training targets of finetune have more"),
        ("distill", 12, "12: 3 of 4 training targets of distill have more tokens (up to 41)"),
        ("single_task", 63, "63: 2 of 4 training targets of single_task have more"),
        ("step_by_step", 10, "10: 3 of 4 training targets of label have more"),
    ],
)
def test_longer_targets_are_counted_and_named(method, length, said, capsys):
    config = config_of(method, max_decode_length=length)
    lengths.resolve(config, Source.of(config))
    printed = capsys.readouterr().err
    assert (said in printed) if said else ("more tokens" not in printed)


def test_truncated_sequences_are_counted_by_split_and_task(capsys):
    config = config_of("step_by_step", task_feature_lengths={"inputs": 40, "targets": 50})
    source = Source.of(config)
    config = lengths.resolve(config, source)
    counts = lengths.truncated(config, source)
    # "[label] " and "[rationale] " with 1 to 4 times "question ", and EOS.
    assert counts["train"] == {
        "label": {"examples": 4, "inputs": 1, "targets": 0},
        "rationale": {"examples": 4, "inputs": 1, "targets": 2},
    }
    assert counts["test"] == {"label": {"examples": 4, "inputs": 1, "targets": 1}}
    capsys.readouterr()
    lengths.say_truncated(counts, config)
    printed = capsys.readouterr().err
    assert "train rationale: 1 inputs truncated to 40 tokens, 2 targets truncated to 50" in printed
    assert "test label: 1 inputs truncated to 40 tokens, 1 gold labels longer than 32" in printed
    assert "warning" not in printed


def test_each_split_counts_its_own_questions():
    """A split carved from the training file, and the first questions alone, as they are scored."""
    registry.add_dataset("carved", records=records, carve_validation=0.5)
    config = config_of(
        "finetune",
        mixture_or_task_name="carved_finetune",
        task_feature_lengths={"inputs": 20, "targets": 12},
        max_decode_length=12,
    )
    dataset, longer = registry.get("carved"), {}
    for split in ("train", "validation"):
        rows = dataset.rows(split)[1]
        # "question " once or twice fits, labels of 5 and 10 bytes do.
        longer[split] = int(sum(rows > 1))
        assert len(rows) == 2
    try:
        counts = lengths.truncated(config, Source.of(config))
        config = dataclasses.replace(config, eval_num_examples=3)
        few = lengths.truncated(config, Source.of(config))
    finally:
        registry.remove("carved")
    for split in ("train", "validation"):
        numbers = {"examples": 2, "inputs": longer[split], "targets": longer[split]}
        assert counts[split] == {"finetune": numbers}
    assert counts["test"] == {"finetune": {"examples": 4, "inputs": 2, "targets": 3}}
    assert few["test"] == {"finetune": {"examples": 3, "inputs": 1, "targets": 2}}


def test_most_inputs_truncated_is_a_warning(capsys):
    config = config_of("finetune", task_feature_lengths={"inputs": 16, "targets": 50})
    source = Source.of(config)
    config = lengths.resolve(config, source)
    lengths.say_truncated(lengths.truncated(config, source), config)
    printed = capsys.readouterr().err
    assert "warning: train finetune: 3 inputs truncated to 16 tokens, of 4 examples" in printed


def test_nothing_truncated_is_said_too(capsys):
    config = config_of("finetune", max_decode_length=63)
    source = Source.of(config)
    lengths.say_truncated(lengths.truncated(config, source), config)
    assert "truncated inputs and targets: none" in capsys.readouterr().err
