"""What a run prints about itself is what it computes with."""

import dataclasses
import math
import re

import jax
import pytest
from helpers.runs import MODEL, config_of

from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.input_pipeline import pipeline
from sbs_jax.training import optimizers, run_summary, schedules, train_step


@pytest.mark.parametrize(
    ("layers", "partitions", "fsdp", "axes"),
    [
        (1, 1, 1, "whole"),
        (2, 1, 1, "whole"),
        (2, 2, 1, "model"),
        (3, 1, 2, "fsdp"),
        (2, 2, 2, "fsdp x model"),
    ],
)
def test_the_parameter_table_counts_every_array_once(layers, partitions, fsdp, axes):
    model = dataclasses.replace(MODEL, num_encoder_layers=layers)
    optimizer = optimizers.create_optimizer(
        "adamw", schedules.create_learning_rate_scheduler("constant")
    )
    partitioner = Partitioner(num_partitions=partitions, fsdp=fsdp)
    params = train_step.abstract_state(model, optimizer, partitioner).params
    lines = list(run_summary.parameter_table(params))
    leaves = jax.tree.leaves(params)
    total = sum(math.prod(leaf.shape) for leaf in leaves)
    assert re.fullmatch(rf"  all +{len(leaves)} +{total:,}", lines[-1])
    query = next(line for line in lines if re.match(r"  encoder/.*query/kernel", line))
    width, joined = model.emb_dim, model.num_heads * model.head_dim
    assert query.split()[1:3] == [str(layers), f"{layers * width * joined:,}"]
    assert query.endswith(f"({width}, {joined}) {axes}") and "float32" in query
    assert not any(re.search(r"layers_\d", line) for line in lines)


def test_the_example_shows_text_prefix_and_tokens(tmp_path):
    config = config_of(tmp_path)
    source = pipeline.Source.of(config)
    lines = list(run_summary.example(source))
    record = next(iter(source.selection.dataset.read("train")))
    assert lines[0] == f"example {record.id}: {record.input!r}"
    assert f"  label inputs   '[label] {record.input}'" in lines
    assert f"  rationale inputs   '[rationale] {record.input}'" in lines
    assert any(line.startswith("  label targets  2 tokens: ") for line in lines)
    assert all("</s>:1" in line for line in lines if " tokens: " in line)
