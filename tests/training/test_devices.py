"""What the step uses where: bfloat16 on CPUs with AMX only, cuDNN's attention where it compiles."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from helpers.examples import CONFIG

from sbs_jax.training import devices

BFLOAT16 = dataclasses.replace(CONFIG, dtype="bfloat16")


@pytest.mark.parametrize(
    ("platform", "flags", "dtype"),
    [
        ("cpu", "fpu avx512f avx512_bf16", "float32"),
        ("cpu", "fpu avx512f amx_tile amx_bf16", "bfloat16"),
        ("cpu", "fpu amx_tile amx_int8", "float32"),
        ("gpu", "fpu", "bfloat16"),
        ("tpu", "fpu", "bfloat16"),
    ],
)
def test_bfloat16_is_computed_where_it_is_faster(tmp_path, capsys, platform, flags, dtype):
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor : 0\nflags : {flags}\n")
    assert devices.compute_config(BFLOAT16, platform, info).dtype == dtype
    assert ("has no AMX" in capsys.readouterr().err) == (dtype == "float32")
    assert devices.compute_config(CONFIG, platform, info) == CONFIG


def test_a_machine_that_does_not_describe_its_cpu_has_no_amx(tmp_path):
    assert not devices.has_amx(tmp_path / "nothing")


def test_fused_attention_is_refused_where_it_does_not_compile(capsys):
    assert not devices.has_fused_attention(BFLOAT16, "cpu")
    assert capsys.readouterr().err == "", "not tried"
    assert not devices.has_fused_attention(CONFIG, "gpu")
    assert not devices.has_fused_attention(BFLOAT16, "gpu"), "no card is here"
    assert "cuDNN's attention does not run here (cuDNN is not detected.)" in capsys.readouterr().err


def test_a_cpu_waits_for_each_step_and_an_accelerator_runs_ahead():
    slow = jax.jit(lambda x: jax.lax.fori_loop(0, 300, lambda _, y: jnp.tanh(y @ y), x))
    matrix = jnp.eye(500)
    slow(matrix).block_until_ready()
    ahead = slow(matrix)
    devices.keep_pace("gpu", {"loss": ahead})
    assert not ahead.is_ready()
    devices.keep_pace("cpu", {"loss": ahead})
    assert ahead.is_ready()
