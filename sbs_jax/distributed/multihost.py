"""Several processes as one run: how they meet, which of them writes, how none waits for ever.

All of them run the same program. Process 0 alone writes and talks; what one of them cannot do, none
does (`together`). A process that fails leaves at once: jax would have it wait for the others at a
barrier, and them for it in a collective operation.
"""

import contextlib
import importlib.util
import json
import os
import re
import socket
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.utils import console

INITIALIZATION_SECONDS = 300
HEARTBEAT_SECONDS = 100
PROGRESS_SECONDS = 1800
USER_ERROR, LOST_PEER, INTERRUPTED = 2, 75, 130  # 75: EX_TEMPFAIL of sysexits.h, "try again"

_RETRY_SECONDS = 0.1
_WATCH_SECONDS = 5.0
# How jax words the loss of another process: collectives of CPU and GPU, the coordination service.
_LOST = re.compile(r"Gloo|NCCL|UNAVAILABLE|DEADLINE_EXCEEDED|Connection (closed|reset)|heartbeat")


@contextlib.contextmanager
def joined(
    address: str | None,
    count: int | None,
    index: int | None,
    initialization_timeout: int | None = None,
    heartbeat_timeout: int | None = None,
    progress_timeout: int | None = None,
) -> Iterator[None]:
    """Inside, this process is one of a run's. A failure inside ends the process at once.

    Args:
        address: IP:port of process 0. What is None is found by jax: on Cloud TPU, Kubernetes
            (GKE), SLURM and Open MPI.
        initialization_timeout: seconds to wait for the others; default 300.
        heartbeat_timeout: seconds after which a silent process counts as dead, and jax aborts the
            others (exit status 134); default 100.
        progress_timeout: seconds without a `sign_of_progress` after which this process gives the
            run up: one that lives but hangs keeps all others waiting; default 1800.

    Raises:
        UserError: processes are missing, named by number, or were started differently.
    """
    import jax

    timeout = INITIALIZATION_SECONDS if initialization_timeout is None else initialization_timeout
    address, count, index = detect(address, count, index, timeout)
    if address is None or count is None or index is None:
        raise UserError(
            "several processes: jax recognises no cluster (Cloud TPU, GKE, SLURM, Open MPI) that "
            "tells it which; give --coordinator_address, --process_count and --process_index"
        )
    roll_call(address, count, index, timeout)
    jax.distributed.initialize(
        address,
        count,
        index,
        initialization_timeout=timeout,
        heartbeat_timeout_seconds=heartbeat_timeout or HEARTBEAT_SECONDS,
    )
    try:
        _check_devices()
        _watch(progress_timeout or PROGRESS_SECONDS)
        yield
    except UserError as error:
        _leave(f"sbs: error: process {jax.process_index()}: {error}", USER_ERROR)
    except KeyboardInterrupt:
        _leave(f"sbs: process {jax.process_index()}: interrupted", INTERRUPTED)
    except Exception as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and _LOST.search(str(error)):
            _leave(
                f"sbs: error: process {jax.process_index()}: another process of this run is gone "
                f"({str(error).splitlines()[0]}); its log says why; the same command, on every "
                "process, continues from the last checkpoint",
                LOST_PEER,
            )
        _leave(traceback.format_exc().rstrip(), 1)


def detect(
    address: str | None = None,
    count: int | None = None,
    index: int | None = None,
    timeout: int = INITIALIZATION_SECONDS,
) -> tuple[str | None, int | None, int | None]:
    """What is None of a process's place in a run, as jax finds it; None where it does not.

    jax has no public way to ask without joining, and after joining it is too late: where a
    process is missing it aborts all others. So this asks what `jax.distributed.initialize` asks.
    """
    from jax._src.clusters import ClusterEnv

    address = address or os.environ.get("JAX_COORDINATOR_ADDRESS")
    found = ClusterEnv.auto_detect_unset_distributed_params(
        address, count, index, None, None, timeout
    )
    return found[:3]


def on_tpu_pod() -> bool:
    """Whether this machine is one of several of a TPU slice: there T5X needs no flag, nor do we."""
    if importlib.util.find_spec("libtpu") is None:
        return False
    _, count, _ = detect()
    return count is not None and count > 1


_progress = time.monotonic()


def sign_of_progress() -> None:
    """Called after every update and every batch of an evaluation."""
    global _progress
    _progress = time.monotonic()


def _watch(timeout: int) -> None:
    """Ends this process, from a thread, when nothing has moved for `timeout` seconds."""

    def watch() -> None:
        while (waited := time.monotonic() - _progress) < timeout:
            time.sleep(min(timeout - waited + 0.1, _WATCH_SECONDS))
        _leave(
            f"sbs: error: no update and no evaluation batch ended within {timeout} s: a process of "
            "this run hangs, or --progress_timeout is too short; the same command, on every "
            "process, continues from the last checkpoint",
            LOST_PEER,
        )

    sign_of_progress()
    threading.Thread(target=watch, daemon=True).start()


def _leave(message: str, status: int) -> None:
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def _check_devices() -> None:
    import jax

    counts = [here for (here,) in gather([jax.local_device_count()])]
    if len(set(counts)) > 1:
        listed = ", ".join(f"process {i} has {n}" for i, n in enumerate(counts))
        raise UserError(f"every process needs equally many devices: {listed}")
    if console.is_primary():
        kind = jax.devices()[0].device_kind
        print(f"{len(counts)} processes x {counts[0]} devices ({kind})", file=sys.stderr)


def gather(numbers: Sequence[int]) -> list[list[int]]:
    """The numbers of every process, in their order; equally many, of 31 bits."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return [list(numbers)]
    return multihost_utils.process_allgather(np.array(numbers, np.int32)).tolist()


@contextlib.contextmanager
def together(what: str) -> Iterator[None]:
    """Waits for all processes at its end; a UserError on one of them becomes one on all."""
    error = None
    try:
        yield
    except UserError as caught:
        error = caught
    failed = [bad for (bad,) in gather([int(error is not None)])]
    if error:
        raise error
    if any(failed):
        raise UserError(f"{what} failed on process {failed.index(1)}; its log says why")


def check_same(fields: Mapping[str, Any]) -> None:
    """Raises UserError, on every process, for the first field in which they differ."""
    texts = (json.dumps(value, sort_keys=True) for value in fields.values())
    mine, *others = gather([zlib.crc32(text.encode()) >> 1 for text in texts])
    for other, sums in enumerate(others, start=1):
        for name, here, there in zip(fields, mine, sums, strict=True):
            if here != there:
                raise UserError(
                    f"{name} differs between process 0 and process {other} of this run; give all "
                    "of them the same gin files, flags and data"
                )


def roll_call(address: str, count: int, index: int, timeout: float) -> None:
    """Returns once all `count` processes are there, before jax, which aborts, looks for them.

    Process 0 listens at `address` until each of the others has told its number, then frees the
    port for jax.

    Raises:
        UserError: on every process that is there: who is missing after `timeout` seconds, two
            processes with one number, or with another --process_count.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator_address={address}: give IP:port of process 0")
    if not 0 <= index < count:
        raise UserError(f"--process_index={index}: must be from 0 to {count - 1} (--process_count)")
    deadline = time.monotonic() + timeout
    if index == 0:
        _call(int(port), count, deadline, f"at {address} within {timeout:g} s")
    else:
        _answer(host.strip("[]"), int(port), f"{index} {count}\n", deadline, address, timeout)


def _call(port: int, count: int, deadline: float, where: str) -> None:
    present: set[int] = set()
    peers: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(port))
        error = None
        while len(present) < count - 1 and not error:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                peer = stack.enter_context(server.accept()[0])
                peer.settimeout(max(deadline - time.monotonic(), 0.001))
                words = peer.makefile(encoding="ascii").readline().split()
            except TimeoutError:
                missing = [str(i) for i in range(1, count) if i not in present]
                error = f"of {count} processes, missing {where}: {', '.join(missing)}"
                break
            if len(words) != 2 or not all(map(str.isdigit, words)):
                continue  # somebody else's connection
            number, told = map(int, words)
            if told != count:
                error = f"process {number} has --process_count={told}, process 0 has {count}"
            elif number in present:
                error = f"two processes have --process_index={number}"
            present.add(number)
            peers.append(peer)
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.sendall(f"{error or ''}\n".encode())
                peer.recv(1)  # the other side closes first, so that the port is free at once
    if error:
        raise UserError(f"{error}; start every process with its own --process_index")


def _listen(port: int) -> socket.socket:
    if port > 65535:
        raise UserError(f"--coordinator_address: {port} is no port; give one up to 65535")
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise UserError(
            f"--coordinator_address: process 0 cannot listen at port {port} ({reason}); "
            "choose another port"
        ) from None


def _answer(
    host: str, port: int, words: str, deadline: float, address: str, timeout: float
) -> None:
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), timeout=1) as peer:
                peer.settimeout(max(deadline - time.monotonic(), 0) + 1)
                peer.sendall(words.encode())
                verdict = peer.makefile(encoding="utf-8").readline()
            if verdict.strip():
                raise UserError(f"{verdict.strip()}; start every process with its own number")
            if verdict:
                return
        except OSError:
            pass
        time.sleep(_RETRY_SECONDS)
    raise UserError(
        f"process 0 was not at {address} within {timeout:g} s; start it, or correct "
        "--coordinator_address"
    )
