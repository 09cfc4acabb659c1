"""Multi-process runs: joining, agreement between the processes, timeouts, exit codes.

All processes run the same program; only process 0 writes and logs. What one of them cannot do, none
does (`all_or_none`). A process that fails exits at once: jax would have it wait for the others at a
barrier, and the others wait for it in a collective operation.
"""

import atexit
import contextlib
import json
import os
import re
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sbs_jax.distributed import rendezvous
from sbs_jax.errors import UserError, os_line
from sbs_jax.utils import console, interrupts

HEARTBEAT_SECONDS = 100
PROGRESS_SECONDS = 1800
USER_ERROR, LOST_PEER, INTERRUPTED = 2, 75, 130  # 75: EX_TEMPFAIL of sysexits.h, "try again"

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
    """Joins this process to a run; the process ends with the block, at once if it fails.

    Args:
        address: IP:port of process 0. jax detects what is None: on Cloud TPU, Kubernetes (GKE),
            SLURM and Open MPI.
        initialization_timeout: seconds to wait for the others; default 300.
        heartbeat_timeout: seconds after which a silent process counts as dead, and jax aborts the
            others (exit status 134); default 100.
        progress_timeout: seconds without a `sign_of_progress` after which this process gives the
            run up, because a process that hangs keeps all others waiting; default 1800.

    Raises:
        UserError: processes are missing, named by number, or were started differently.
    """
    import jax

    timeout = initialization_timeout or rendezvous.INITIALIZATION_SECONDS
    address, count, index = rendezvous.detect(address, count, index, timeout)
    if address is None or count is None or index is None:
        raise UserError(
            "several processes: jax recognises no cluster (Cloud TPU, GKE, SLURM, Open MPI; GKE "
            "with GPUs needs `pip install 'jax[k8s]'`); give --coordinator_address, "
            "--process_count and --process_index"
        )
    rendezvous.roll_call(address, count, index, timeout)
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
    except SystemExit as stopped:
        _part(int(stopped.code or 0))
    except UserError as error:
        _leave(f"sbs: error: process {jax.process_index()}: {error}", USER_ERROR)
    except OSError as error:
        _leave(f"sbs: error: process {jax.process_index()}: {os_line(error)}", USER_ERROR)
    except KeyboardInterrupt:
        _leave_interrupted()
    except Exception as error:
        if interrupts.is_cause(error):
            _leave_interrupted()
        if isinstance(error, jax.errors.JaxRuntimeError) and _LOST.search(str(error)):
            _leave(
                f"sbs: error: process {jax.process_index()}: another process of this run is gone "
                f"({str(error).splitlines()[0]}); its log says why; the same command, on every "
                "process, continues from the last checkpoint",
                LOST_PEER,
            )
        _leave(traceback.format_exc().rstrip(), 1)
    _part(0)


_progress = time.monotonic()


def sign_of_progress() -> None:
    """Resets the timeout; call it after every update and every evaluation batch."""
    global _progress
    _progress = time.monotonic()


def _watch(timeout: int) -> None:
    """Ends this process, from a thread, after `timeout` seconds without progress."""

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


def _part(status: int) -> None:
    """Ends this process as `multiprocessing` ends its children: after the exit handlers.

    jax's handler waits there for the other processes. What the interpreter would do next, destroy
    jax's client with its connections, has hung on a CPU when the other process was gone already.
    """
    sys.stdout.flush()
    atexit._run_exitfuncs()
    os._exit(status)


def _leave_interrupted() -> None:
    import jax

    _leave(f"sbs: process {jax.process_index()}: interrupted", INTERRUPTED)


def _leave(message: str, status: int) -> None:
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def _check_devices() -> None:
    import jax

    counts = [here for (here,) in process_allgather([jax.local_device_count()])]
    if len(set(counts)) > 1:
        listed = ", ".join(f"process {i} has {n}" for i, n in enumerate(counts))
        raise UserError(f"every process needs equally many devices: {listed}")
    if console.is_primary():
        kind = jax.devices()[0].device_kind
        print(f"{len(counts)} processes x {counts[0]} devices ({kind})", file=sys.stderr)


def process_allgather(numbers: Sequence[int]) -> list[list[int]]:
    """Gathers the numbers of every process, in process order: the same count on each, 31 bits."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return [list(numbers)]
    return multihost_utils.process_allgather(np.array(numbers, np.int32)).tolist()


@contextlib.contextmanager
def all_or_none(what: str) -> Iterator[None]:
    """Waits for all processes at its end; what fails on one raises UserError on the others.

    Raises:
        UserError, OSError: this process's own, or a UserError that names the process that failed.
    """
    error: UserError | OSError | None = None
    try:
        yield
    except (UserError, OSError) as caught:
        error = caught
    failed = [bad for (bad,) in process_allgather([int(error is not None)])]
    if error:
        raise error
    if any(failed):
        raise UserError(f"{what} failed on process {failed.index(1)}; its log says why")


def check_same(fields: Mapping[str, Any]) -> None:
    """Raises UserError, on every process, for the first field in which they differ."""
    texts = (json.dumps(value, sort_keys=True) for value in fields.values())
    mine, *others = process_allgather([zlib.crc32(text.encode()) >> 1 for text in texts])
    for other, sums in enumerate(others, start=1):
        for name, here, there in zip(fields, mine, sums, strict=True):
            if here != there:
                raise UserError(
                    f"{name} differs between process 0 and process {other} of this run; give all "
                    "of them the same gin files, flags and data"
                )
