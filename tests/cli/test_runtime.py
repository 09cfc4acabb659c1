"""Memory and the compile cache of a verb: set once, off by a flag, nothing elsewhere."""

import json
import os
import platform
import subprocess
import sys

import pytest

from sbs_jax.cli import evaluate, predict, runtime, study, train
from sbs_jax.errors import UserError
from sbs_jax.utils import paths

_VARIABLES = ("JAX_COMPILATION_CACHE_DIR", "JAX_COMPILATION_CACHE_MAX_SIZE")

# Frees and takes 64 MB again and again, as XLA does with its temporaries; prints page faults.
_FAULTS = """
import json, os, resource, sys
from absl import flags
from sbs_jax.cli import runtime
values = flags.FlagValues()
runtime.define(values)
values(["sbs", *sys.argv[1:]])
runtime.start(values)
for _ in range(3):
    bytearray(2**26)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    bytearray(2**26)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
mine = {k: v for k, v in os.environ.items() if k.startswith(("MALLOC", "JAX_COMP", "XLA"))}
print(json.dumps({"faults": faults, "environment": mine, "jax": "jax" in sys.modules}))
"""


def started(*flags, **environment):
    """What `runtime.start` does to a fresh process under these flags and variables."""
    chosen = ("MALLOC", "GLIBC", "JAX", "XLA")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(chosen)}
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS, *flags],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture(name="cache")
def _cache(tmp_path):
    return f"--compilation_cache_dir={tmp_path / 'compiled'}"


glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")


@glibc
def test_freed_memory_is_kept_and_costs_no_page_faults(cache):
    kept = started(cache, JAX_PLATFORMS="cpu")
    returned = started(cache, "--noretain_memory", JAX_PLATFORMS="cpu")
    assert returned["faults"] > 5 * 2**26 // 2**21, "even with huge pages every block faults"
    assert kept["faults"] < returned["faults"] / 10
    assert not kept["jax"], "set before jax starts its threads"
    assert not any(name.startswith("MALLOC") for name in returned["environment"])


@glibc
def test_children_get_the_same_memory_settings(cache):
    environment = started(cache, JAX_PLATFORMS="cpu")["environment"]
    code = (
        "import resource as r\nuse = lambda: r.getrusage(r.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(3): bytearray(2**26)\nbefore = use()\n"
        "for _ in range(5): bytearray(2**26)\nprint(use() - before)"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, check=True
    )
    assert int(child.stdout) < 100


@pytest.mark.parametrize(
    "environment",
    [
        {"JAX_PLATFORMS": "cuda"},
        {"JAX_PLATFORMS": "tpu,cpu"},
        {"JAX_PLATFORMS": "cpu", "MALLOC_ARENA_MAX": "4"},
        {"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.malloc.arena_max=2"},
        {"JAX_PLATFORMS": "rocm"},
    ],
    ids=str,
)
def test_memory_is_left_alone_on_accelerators_and_where_the_user_has_chosen(environment, cache):
    told = {k: v for k, v in environment.items() if k.startswith("MALLOC")}
    got = started(cache, **environment)["environment"]
    assert {k: v for k, v in got.items() if k.startswith("MALLOC")} == told


@pytest.mark.parametrize(
    ("platforms", "expected"),
    [("cpu", True), ("cpu,cuda", True), (" cpu ", True), ("cuda", False), ("tpu", False)],
)
def test_jax_platforms_says_where_a_run_computes(platforms, expected):
    assert runtime.on_cpu({"JAX_PLATFORMS": platforms}) is expected


@pytest.mark.parametrize("device", ["/dev/nvidia0", "/dev/kfd", "/dev/accel0"])
def test_a_device_file_means_an_accelerator(device, monkeypatch):
    monkeypatch.setattr(os.path, "exists", lambda path: path == device)
    assert not runtime.on_cpu({})
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    assert runtime.on_cpu({"JAX_PLATFORMS": ""})


def test_a_gpu_gets_xlas_flags_unless_the_user_has_chosen_some(cache, monkeypatch):
    def found(**environment: str) -> str | None:
        return started(cache, **environment)["environment"].get("XLA_FLAGS")

    flags = found(JAX_PLATFORMS="cuda,cpu")
    assert flags == runtime._GPU_FLAGS
    assert found(JAX_PLATFORMS="cuda", XLA_FLAGS="") == ""
    assert found(JAX_PLATFORMS="cpu") is None
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/dev/nvidia0")
    assert runtime.on_gpu({}) and not runtime.on_gpu({"JAX_PLATFORMS": "tpu"})
    # XLA ends a process whose flags it does not know.
    code = "import jax; print(jax.devices())"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_the_cache_of_compiled_programs_is_where_it_is_asked_for(tmp_path):
    chosen = str(tmp_path / "chosen")
    default = started(SBS_CACHE_DIR=str(tmp_path))["environment"]
    assert default["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "compiled")
    flag = started(f"--compilation_cache_dir={chosen}")["environment"]
    assert flag["JAX_COMPILATION_CACHE_DIR"] == chosen
    users = started(JAX_COMPILATION_CACHE_DIR=chosen)["environment"]
    assert users["JAX_COMPILATION_CACHE_DIR"] == chosen
    assert "JAX_COMPILATION_CACHE_MAX_SIZE" not in users
    none = started("--compilation_cache_dir=", JAX_COMPILATION_CACHE_DIR=chosen)["environment"]
    assert none["JAX_COMPILATION_CACHE_DIR"] == ""


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match=r"--compilation_cache_dir=.*file: .*; choose another"):
        runtime.use_compilation_cache(str(file))


def test_without_a_writable_default_folder_nothing_is_kept(tmp_path, monkeypatch, capsys):
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(paths, "cache_home", lambda: file)
    runtime.use_compilation_cache(None)
    assert "compiled programs are not kept" in capsys.readouterr().err
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


@pytest.mark.parametrize("verb", [train, evaluate, predict, study])
def test_every_verb_that_computes_has_both_flags(verb):
    assert {"compilation_cache_dir", "retain_memory"} <= set(verb.FLAGS)
