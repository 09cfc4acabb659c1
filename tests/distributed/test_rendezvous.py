"""Processes of a run find their places and wait for each other."""

import socket
import sys
import threading
import time

import pytest
from helpers.schedulers import free_address, open_mpi, slurm

from sbs_jax.distributed import rendezvous
from sbs_jax.errors import UserError


@pytest.mark.parametrize(
    ("scheduler", "host"), [(slurm, "localhost"), (open_mpi, "127.0.0.1")], ids=["slurm", "mpi"]
)
def test_a_scheduler_tells_who_is_who(monkeypatch, scheduler, host):
    for name, value in scheduler(1, "7777").items():
        monkeypatch.setenv(name, value)
    assert rendezvous.detect() == (f"{host}:7777", 2, 1)
    assert rendezvous.detect("10.0.0.1:5", 4, 3) == ("10.0.0.1:5", 4, 3), "flags go before"
    assert not rendezvous.on_tpu_pod()


@pytest.mark.parametrize("missing", ["module", "class"])
def test_without_the_private_function_of_jax_only_flags_count(monkeypatch, missing):
    if missing == "module":
        monkeypatch.setitem(sys.modules, "jax._src.clusters", None)  # what an import then raises
    else:
        monkeypatch.delattr("jax._src.clusters.ClusterEnv.auto_detect_unset_distributed_params")
    for name, value in slurm(1, "7777").items():
        monkeypatch.setenv(name, value)
    assert rendezvous.detect() == (None, None, None)
    assert rendezvous.detect("10.0.0.1:5", 4, 3) == ("10.0.0.1:5", 4, 3)


def answers(calls: list[tuple]) -> list[str | None]:
    """What `roll_call` says to each of several processes that call at once."""
    said: list[str | None] = [None] * len(calls)

    def call(place: int) -> None:
        try:
            rendezvous.roll_call(*calls[place])
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
