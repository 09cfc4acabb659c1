"""Two processes with two devices each, over loopback: one run, and an end to every fault."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import xla
from helpers.schedulers import free_address, slurm

from sbs_jax.checkpoints.manager import CheckpointManager
from sbs_jax.distributed import multihost
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.runs import run_dir
from sbs_jax.training import optimizers, schedules, train_step

COMMAND = [
    sys.executable,
    "-m",
    "sbs_jax.train",
    "--gin_file=experiments/demo_step_by_step.gin",
    "--gin.TRAIN_STEPS=6",
    "--gin.EVAL_PERIOD=3",
    "--gin.EVALUATOR_NUM_EXAMPLES=21",
    "--gin.BATCH_SIZE=16",
    "--gin.OUTPUT_RATIONALE=False",
    "--gin.TrainConfig.log_period=1",
    "--gin.TrainConfig.eval_batch_size=8",
    "--gin.TrainConfig.row_lengths=(48, 48)",
    "--gin.T5Config.num_encoder_layers=1",
    "--gin.T5Config.num_decoder_layers=1",
    "--gin.T5Config.emb_dim=16",
    "--gin.T5Config.mlp_dim=32",
]


def start(
    model_dir: Path, *flags: str, devices: int = 2, variables: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    environment = os.environ | {
        # One thread a device: how a product is shared among threads decides its last bits.
        "XLA_FLAGS": f"{xla.flags(devices)} --xla_cpu_multi_thread_eigen=false",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **(variables or {}),
    }
    command = [*COMMAND, f"--gin.MODEL_DIR='{model_dir}'", *flags]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)


@contextlib.contextmanager
def pair(
    model_dir: Path, *flags: str, second: tuple[str, ...] = ()
) -> Iterator[list[subprocess.Popen[str]]]:
    """Both processes of a run; none is left behind."""
    common = [f"--coordinator_address={free_address()}", "--process_count=2", *flags]
    children = [
        start(model_dir, *common, f"--process_index={index}", *(second if index else ()))
        for index in (0, 1)
    ]
    try:
        yield children
    finally:
        for child in children:
            child.kill()
            child.communicate()


def follow(child: subprocess.Popen[str], beginning: str) -> None:
    """Reads a child's stderr up to the first line that begins so."""
    lines = []
    for line in child.stderr:
        lines.append(line)
        if line.startswith(beginning):
            return
    pytest.fail("".join(lines))


def answers_of(path: Path) -> list[tuple[dict, dict]]:
    """Of every row: what must be equal, and the probabilities, which follow the parameters."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        (row, {"confidence": row.pop("confidence"), **(row.pop("label_probabilities", {}))})
        for row in rows
    ]


def params_of(model_dir: Path) -> list[np.ndarray]:
    config = run_dir.load(model_dir)
    rate = schedules.learning_rate_of(config.optimizer, config.train_steps)
    optimizer = optimizers.optimizer_of(config.optimizer, rate)
    partitioner = Partitioner(devices=jax.devices()[:1])
    with CheckpointManager(model_dir / "checkpoints", read_only=True) as store:
        state = store.restore_latest(
            train_step.abstract_state(config.model, optimizer, partitioner)
        )
    return jax.tree.leaves(jax.device_get(state.params))


def rows_of(model_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]


# Dropout's masks do not depend on the mesh, but on where in a batch a sequence lies, and the number
# of rows is a multiple of the mesh's: with dropout the run alone has the same mesh in one process.
MESHES = {
    "data x fsdp, packed, dropout": ["PartitionerConfig.fsdp=2"],
    "model across the processes, micro-batches, not packed": [
        "PartitionerConfig.num_partitions=4",
        "PartitionerConfig.num_microbatches=2",
        "PACK=False",
        "DROPOUT_RATE=0.0",
        "BATCH_SIZE=8",  # shorter sums, fewer roundings
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES)
def test_two_processes_are_one_run(tmp_path, name):
    """Losses within 2e-6, weights within 5e-5 of one process's; every example is scored once."""
    model_dir, alone = tmp_path / "run", tmp_path / "alone"
    same_mesh = "DROPOUT_RATE=0.0" not in MESHES[name]
    flags = [each for each in MESHES[name] if same_mesh or each.startswith(("DROPOUT", "BATCH"))]
    child = start(alone, *(f"--gin.{each}" for each in flags), devices=4 if same_mesh else 1)
    _, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors
    with pair(model_dir, *(f"--gin.{each}" for each in MESHES[name])) as children:
        told = [child.communicate(timeout=300) for child in children]
        assert [child.returncode for child in children] == [0, 0], told
    assert "2 processes x 2 devices" in told[0][1] and "step 6/6" in told[0][1]
    said = [line for line in told[1][1].splitlines() if line and "records" not in line]
    assert not said, "process 1 is silent"
    names = {path.name for path in alone.iterdir()}
    assert {path.name for path in model_dir.iterdir()} == names
    for here, there in zip(rows_of(model_dir), rows_of(alone), strict=True):
        assert here["step"] == there["step"]
        for name in {"loss", "label/loss", "rationale/loss", "validation/accuracy"} & there.keys():
            assert here[name] == pytest.approx(there[name], abs=2e-6)
    for here, there in zip(params_of(model_dir), params_of(alone), strict=True):
        np.testing.assert_allclose(here, there, atol=5e-5)
    results = [json.loads((place / "results.json").read_text()) for place in (model_dir, alone)]
    assert results[0] == results[1]
    assert {row["n"] for row in results[0]["results"]} == {21}
    for predictions in model_dir.glob("predictions-*"):
        pairs = zip(
            *(answers_of(place / predictions.name) for place in (model_dir, alone)), strict=True
        )
        for (here, sure), (there, sure_there) in pairs:
            assert here == there
            assert sure == pytest.approx(sure_there, abs=1e-4)


@pytest.mark.slow
def test_sigterm_to_one_process_stops_both_after_the_same_update(tmp_path):
    endless = ("--gin.TRAIN_STEPS=100000", "--gin.EVAL_PERIOD=100000")
    with pair(tmp_path / "run", *endless) as children:
        follow(children[0], "step 3/")
        children[1].send_signal(signal.SIGTERM)
        asked = time.monotonic()
        told = [child.communicate(timeout=120) for child in children]
        assert [child.returncode for child in children] == [143, 143], told
    assert "saved; the same command continues" in told[0][1]
    assert time.monotonic() - asked < 60
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert rows_of(tmp_path / "run")[-1]["step"] == int(saved.name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "fault"),
    [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGSTOP)],
    ids=["process 0 killed", "process 1 killed", "process 1 silent"],
)
def test_a_lost_process_ends_the_other(tmp_path, victim, fault):
    endless = ("--gin.TRAIN_STEPS=100000", "--gin.EVAL_PERIOD=100000", "--heartbeat_timeout=10")
    with pair(tmp_path / "run", *endless) as children:
        follow(children[0], "step 3/")
        children[victim].send_signal(fault)
        lost = time.monotonic()
        _, errors = children[1 - victim].communicate(timeout=120)
        assert time.monotonic() - lost < 30
    # Whichever sees it first: a collective operation, or jax's watch over the coordinator.
    assert children[1 - victim].returncode in (multihost.LOST_PEER, -signal.SIGABRT), errors
    assert "another process of this run is gone" in errors or "another task died" in errors


@pytest.mark.slow
def test_ctrl_c_before_the_first_update_leaves_nobody_waiting(tmp_path):
    with pair(tmp_path / "run", "--heartbeat_timeout=10") as children:
        follow(children[0], "2 processes x 2 devices")
        children[1].send_signal(signal.SIGINT)
        asked = time.monotonic()
        told = [child.communicate(timeout=120)[1] for child in children]
        assert time.monotonic() - asked < 60
    assert children[1].returncode == multihost.INTERRUPTED, told
    assert told[1].splitlines()[-1] == "sbs: process 1: interrupted"
    assert children[0].returncode in (multihost.LOST_PEER, -signal.SIGABRT), told


@pytest.mark.slow
def test_a_process_that_lives_but_hangs_ends_the_run(tmp_path):
    """Stopped, while its heartbeats are waited for much longer: as if it hung in its own code."""
    patient = ("--heartbeat_timeout=1000", "--progress_timeout=40")
    endless = ("--gin.TRAIN_STEPS=100000", "--gin.EVAL_PERIOD=100000")
    with pair(tmp_path / "run", *endless, *patient) as children:
        follow(children[0], "step 3/")
        children[1].send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        _, errors = children[0].communicate(timeout=120)
        assert 30 < time.monotonic() - stopped < 75
    assert children[0].returncode == multihost.LOST_PEER, errors
    assert errors.splitlines()[-1].startswith(
        "sbs: error: no update and no evaluation batch ended within 40 s: a process of this run"
    )


@pytest.mark.slow
def test_processes_told_different_things_are_refused(tmp_path):
    with pair(tmp_path / "run", second=("--gin.ALPHA=0.25",)) as children:
        told = [child.communicate(timeout=120)[1] for child in children]
    for index, child in enumerate(children):
        assert child.returncode == 2, told
        assert f"process {index}: alpha differs between process 0 and process 1" in told[index]
    assert not (tmp_path / "run").exists()


def test_what_one_process_lacks_ends_both(tmp_path):
    with pair(tmp_path / "run", second=("--gin.VOCABULARY='gone.model'",)) as children:
        told = [child.communicate(timeout=120)[1] for child in children]
    assert [child.returncode for child in children] == [2, 2], told
    assert "process 1: VOCABULARY = 'gone.model': no such file" in told[1]
    assert "process 0: preparation failed on process 1" in told[0] or "is gone" in told[0]


FULL_DISK = """
import errno, sys
from sbs_jax.distributed import multihost

index = int(sys.argv[2])
with multihost.joined(sys.argv[1], 2, index):
    with multihost.all_or_none("preparation"):
        if index:
            raise OSError(errno.ENOSPC, "No space left on device", "tokens")
"""


@pytest.mark.slow
def test_what_the_system_refuses_one_process_ends_both():
    address, pipe = free_address(), subprocess.PIPE
    children = [
        subprocess.Popen(
            [sys.executable, "-c", FULL_DISK, address, str(index)], stderr=pipe, text=True
        )
        for index in (0, 1)
    ]
    told = [child.communicate(timeout=60)[1] for child in children]
    assert [child.returncode for child in children] == [2, 2], told
    assert "process 1: tokens: No space left on device" in told[1]
    assert "process 0: preparation failed on process 1; its log says why" in told[0]


@pytest.mark.slow
def test_under_slurm_two_processes_are_one_run(tmp_path):
    port = free_address().rpartition(":")[2]
    quick = ("--multiprocess_gpu", "--gin.TRAIN_STEPS=2", "--gin.EVAL_PERIOD=2")
    children = [start(tmp_path / "run", *quick, variables=slurm(index, port)) for index in (0, 1)]
    told = [child.communicate(timeout=300) for child in children]
    assert [child.returncode for child in children] == [0, 0], told
    assert "2 processes x 2 devices" in told[0][1] and "step 2/2" in told[0][1]


def test_under_slurm_a_missing_process_is_named(tmp_path):
    port = free_address().rpartition(":")[2]
    late = ("--multiprocess_gpu", "--initialization_timeout=2")
    child = start(tmp_path / "run", *late, variables=slurm(0, port))
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 2
    assert f"of 2 processes, missing at localhost:{port} within 2 s: 1;" in errors
    assert len(errors.splitlines()) == 1


def test_no_cluster_is_one_line(tmp_path):
    child = start(tmp_path / "run", "--multiprocess_gpu")
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 2
    assert "jax recognises no cluster" in errors and "--coordinator_address" in errors
    assert len(errors.splitlines()) == 1


ENDS = """
import atexit, sys, time
from sbs_jax.distributed import multihost

class Stuck:
    def __del__(self, sleep=time.sleep):
        sleep(1000)

stuck = Stuck()
with multihost.joined(sys.argv[1], 1, 0):
    atexit.register(print, "handlers have run", flush=True)
    print("done")
    {end}
"""


@pytest.mark.parametrize(("end", "status"), [("", 0), ("raise SystemExit(143)", 143)])
def test_a_destructor_that_hangs_does_not_keep_a_process(end, status):
    code = ENDS.format(end=end)
    child = subprocess.run(
        [sys.executable, "-c", code, free_address()], capture_output=True, text=True, timeout=60
    )
    assert child.returncode == status, child.stderr
    assert child.stdout.splitlines()[-2:] == ["done", "handlers have run"]
