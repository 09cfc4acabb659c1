"""Two processes with two devices each, over loopback: one run, and an end to every fault."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from sbs_jax.checkpoints.manager import Store
from sbs_jax.distributed import multihost
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.errors import UserError
from sbs_jax.runs import run_dir
from sbs_jax.training import optimizers, train_step

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


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def start(
    model_dir: Path, *flags: str, devices: int = 2, variables: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
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


def params_of(model_dir: Path) -> list[np.ndarray]:
    config = run_dir.load(model_dir)
    rate = optimizers.learning_rate_of(config.optimizer, config.train_steps)
    optimizer = optimizers.optimizer_of(config.optimizer, rate)
    partitioner = Partitioner(devices=jax.devices()[:1])
    with Store(model_dir / "checkpoints", read_only=True) as store:
        state, _ = store.restore_latest(
            train_step.abstract_state(config.model, optimizer, partitioner)
        )
    return jax.tree.leaves(jax.device_get(state.params))


def rows_of(model_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]


# Dropout's masks do not depend on the mesh, but on where in a batch a sequence lies.
MESHES = {
    "data x fsdp, packed, dropout": ["PartitionerConfig.fsdp=2"],
    "model across the processes, micro-batches, not packed": [
        "PartitionerConfig.num_partitions=4",
        "PartitionerConfig.num_microbatches=2",
        "PACK=False",
        "DROPOUT_RATE=0.0",
    ],
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "not" in name else []) for name in MESHES]
)
def test_two_processes_are_one_run(tmp_path, name):
    """Losses within 2e-6, weights within 5e-5 of one device's; every example is scored once."""
    model_dir, alone = tmp_path / "run", tmp_path / "alone"
    child = start(
        alone, *(f"--gin.{each}" for each in MESHES[name] if "DROPOUT" in each), devices=1
    )
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
        assert predictions.read_text() == (alone / predictions.name).read_text()


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


def slurm(index: int, port: str) -> dict[str, str]:
    """What SLURM tells process `index` of two; the port is else taken from the job's number."""
    job = {"SLURM_JOB_ID": "4711", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    place = {"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)}
    return {**job, **place, "JAX_COORDINATOR_PORT": port}


def open_mpi(index: int, port: str) -> dict[str, str]:
    ranks = {"OMPI_COMM_WORLD_RANK": str(index), "OMPI_COMM_WORLD_LOCAL_RANK": str(index)}
    size = {"OMPI_COMM_WORLD_SIZE": "2", "JAX_COORDINATOR_PORT": port}
    return {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911", **size, **ranks}


@pytest.mark.parametrize(
    ("scheduler", "host"), [(slurm, "localhost"), (open_mpi, "127.0.0.1")], ids=["slurm", "mpi"]
)
def test_a_scheduler_tells_who_is_who(monkeypatch, scheduler, host):
    for name, value in scheduler(1, "7777").items():
        monkeypatch.setenv(name, value)
    assert multihost.detect() == (f"{host}:7777", 2, 1)
    assert multihost.detect("10.0.0.1:5", 4, 3) == ("10.0.0.1:5", 4, 3), "flags go before"
    assert not multihost.on_tpu_pod()


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


def answers(calls: list[tuple]) -> list[str | None]:
    """What `roll_call` says to each of several processes that call at once."""
    said: list[str | None] = [None] * len(calls)

    def call(place: int) -> None:
        try:
            multihost.roll_call(*calls[place])
        except UserError as error:
            said[place] = str(error)

    threads = [threading.Thread(target=call, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


def test_the_roll_call_lets_a_complete_run_pass():
    address = free_address()
    assert answers([(address, 3, index, 20.0) for index in (2, 0, 1)]) == [None] * 3
    assert answers([(address, 2, index, 20.0) for index in (0, 1)]) == [None] * 2, "port is free"


def test_missing_processes_are_named_to_all_within_the_time():
    address = free_address()
    began = time.monotonic()
    for said in answers([(address, 4, index, 1.0) for index in (0, 2)]):
        assert said.startswith(f"of 4 processes, missing at {address} within 1 s: 1, 3;")
    assert time.monotonic() - began < 10


def test_a_missing_process_0_is_named():
    address = free_address()
    (said,) = answers([(address, 2, 1, 0.5)])
    assert said.startswith(f"process 0 was not at {address} within 0.5 s")


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([(2, 0), (3, 1)], "process 1 has --process_count=3, process 0 has 2"),
        ([(3, 0), (3, 1), (3, 1)], "two processes have --process_index=1"),
        ([(2, 2)], "--process_index=2: must be from 0 to 1 (--process_count)"),
    ],
)
def test_processes_started_wrongly_are_told_so(calls, message):
    address = free_address()
    for said in answers([(address, count, index, 20.0) for count, index in calls]):
        assert said.startswith(message)


def test_an_address_without_port_and_a_taken_port_are_named():
    assert answers([("127.0.0.1", 2, 0, 1.0)]) == [
        "--coordinator_address=127.0.0.1: give IP:port of process 0"
    ]
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        (said,) = answers([(f"127.0.0.1:{port}", 2, 0, 1.0)])
    assert f"process 0 cannot listen at port {port} (Address already in use)" in said


def test_no_cluster_is_one_line(tmp_path):
    child = start(tmp_path / "run", "--multiprocess_gpu")
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 2
    assert "jax recognises no cluster" in errors and "--coordinator_address" in errors
    assert len(errors.splitlines()) == 1
