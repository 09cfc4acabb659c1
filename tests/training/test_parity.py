"""The original's recorded training runs and decodings, through our real train step."""

import importlib.util
import pathlib
import types

import jax
import numpy as np
import pytest

from sbs_jax.checkpoints.formats import hf
from sbs_jax.checkpoints.formats.params import infer_config, read_all
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.models import decoding

LOSS, GRAD_NORM = 1e-5, 1e-4
WEIGHTS = {"micro": 2e-6, "pt": 2e-5}


@pytest.fixture(scope="session")
def replay() -> types.ModuleType:
    path = pathlib.Path(__file__).parents[2] / "benchmarks" / "replay_original.py"
    spec = importlib.util.spec_from_file_location("replay_original", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "packed", "devices"),
    [
        ("micro_ga1", False, 1),
        pytest.param("micro_ga1", True, 8, marks=pytest.mark.slow),
        pytest.param("micro_ga2", False, 1, marks=pytest.mark.slow),
        pytest.param("micro_ga2", True, 8, marks=pytest.mark.slow),
        pytest.param("micro_adamw_torch", False, 8, marks=pytest.mark.slow),
        pytest.param("pt_svamp", True, 1, marks=pytest.mark.slow),
    ],
)
def test_twenty_steps_equal_the_originals(shared, replay, name, packed, devices):
    result = replay.replay(replay.Case(shared / "vectors", name), packed, devices)
    assert result["steps"] == 20
    assert result["max_loss_error"] <= LOSS
    assert result["max_rel_grad_norm_error"] <= GRAD_NORM
    assert result["max_weight_error"] <= WEIGHTS[name.split("_")[0]]
    assert result["decode_equal"] == result["decode_total"]
    assert result["decode_total"] == {"micro_ga1": 4, "pt_svamp": 50}.get(name, 0)


@pytest.mark.parametrize(
    ("batch_size", "by_length"),
    [
        (8, False),
        (64, True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [(1, False), (64, False), (1, True), (8, True)]
        ),
    ],
)
def test_greedy_ids_equal_the_originals_at_any_batch(shared, replay, batch_size, by_length):
    case = replay.Case(shared / "vectors", "pt_svamp")
    params = read_all(hf.read(str(case.weights("final"))))
    config = infer_config(params)
    partitioner = Partitioner(devices=jax.devices()[:1])
    recorded = replay.recorded_decoding(case)
    order = np.arange(len(recorded.tokens))
    if by_length:
        order = np.argsort((recorded.tokens > 0).sum(axis=1), kind="stable")
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        ids = decoding.greedy(
            params,
            partitioner.put_rows(recorded.tokens[chosen]),
            config=config,
            partitioner=partitioner,
            max_decode_length=recorded.ids.shape[1],
        )
        np.testing.assert_array_equal(ids, recorded.ids[chosen])
