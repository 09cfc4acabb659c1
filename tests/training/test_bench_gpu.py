"""`benchmarks/bench_gpu.py` at toy size on a CPU, and what it derives from shapes and names."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import bench_gpu


def test_useful_flops_count_every_matrix_with_the_tokens_it_meets():
    d, f, layers, vocabulary = 768, 2048, 12, 32128
    encoder = layers * (4 * d * d + 3 * d * f)
    # Keys and values of the attention to the encoder are made of encoder tokens.
    between = layers * 2 * d * d
    decoder = layers * (4 * d * d + 2 * d * d + 3 * d * f) + d * vocabulary
    expected = 6 * (6680 * (encoder + between) + 2096 * decoder)
    flops = bench_gpu.useful_flops(bench_gpu.model_config("base"), 6680, 2096)
    assert flops == pytest.approx(expected, rel=1e-12)


def test_padding_is_not_counted_as_tokens(tmp_path):
    found = {
        "inputs": [np.array([5, 6, 1]), np.array([7, 1])],
        "label": [np.array([8, 1]), np.array([9, 1])],
        "rationale": [np.array([8, 9, 1]), np.array([1])],
    }
    bench_gpu.prepare(tmp_path, "toy", 2, 3, found)
    about = json.loads((tmp_path / "about.json").read_text())
    # Every update sees both questions, and each question's input twice.
    assert about["tokens"] == {"encoder": 3 * 2 * (3 + 2), "decoder": 3 * (2 + 2 + 3 + 1)}
    with np.load(tmp_path / "questions.npz") as stored:
        assert sorted(stored["members"][0].tolist()) == [0, 1]


@pytest.mark.slow
def test_a_toy_run_prints_a_line_for_its_variant(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    flags = ["--batch=2", "--prepared_updates=2", "--rounds=2", "--updates=1", "--losses"]
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", *flags])
    bench_gpu.main()
    losses, line, _ = capsys.readouterr().out.splitlines()
    report = json.loads(line)
    assert report["variant"] == "ours" and report["ms_per_update"] > 0
    assert report["seconds_to_first_update"] > report["ms_per_update"] / 1e3
    # Random weights with a scaled head: near ln(vocabulary), and finite.
    first = json.loads(losses)["loss_before_the_first_update"]["ours"]
    assert first == pytest.approx(np.log(8192), abs=1.5)


def test_kernels_are_sorted_by_name():
    import gpu_ours

    names = ["nvjet_hsh_128x256", "loop_convert_fusion_3", "cudnn_generated_fmha_bwd", "loop_add"]
    kinds = [gpu_ours.kind_of(name) for name in names]
    assert kinds == ["matrix products", "conversions", "attention", "other"]
