"""Processes that live long and train run after run, so that frameworks are loaded once each."""

import collections
import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sbs_jax.configs import TrainConfig
from sbs_jax.errors import UserError

_JOIN_SECONDS = 60  # a worker that is asked to stop in the middle of training saves its state

# One thread each: several small runs side by side use the cores better than one run on all.
ONE_CPU_THREAD = {
    "JAX_PLATFORMS": "cpu",
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a worker reports of a finished run.

    Attributes:
        results: content of results.json.
        dataset: name of the dataset trained on.
        train_examples: questions trained on.
        seconds: by the clock, since this start of the run.
    """

    results: dict[str, Any]
    dataset: str
    train_examples: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a run did not finish.

    Attributes:
        reason: one line.
        again: whether another try may end otherwise: the worker was killed, or a bug was met.
    """

    reason: str
    again: bool


class Workers:
    """A context of `count` processes; leaving it ends them, a run in training after saving.

    A terminal's Ctrl-C reaches the caller alone. Should the caller vanish, its workers stop too.

    Args:
        prepare: called once in every worker, e.g. to register datasets; can be pickled.
        environment: variables set before a worker imports jax.
        logs: folder of worker-N.log, to which everything goes that a run prints.
    """

    def __init__(
        self,
        count: int,
        prepare: Callable[[], object],
        environment: Mapping[str, str],
        logs: Path,
    ) -> None:
        self._count, self._logs = count, logs
        self._arguments = (prepare, dict(environment))
        self._processes: dict[connection.Connection, BaseProcess] = {}
        self._numbers: dict[connection.Connection, int] = {}

    @property
    def count(self) -> int:
        """Processes side by side."""
        return self._count

    def __enter__(self) -> "Workers":
        self._logs.mkdir(parents=True, exist_ok=True)
        for number in range(self._count):
            self._start(number)
        return self

    def _start(self, number: int) -> connection.Connection:
        # Forking a process that runs threads is not safe, and a fork would inherit its jax.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (theirs, self._log(number), *self._arguments)
        process = context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        theirs.close()
        self._processes[ours] = process
        self._numbers[ours] = number
        return ours

    def __exit__(self, *error: object) -> None:
        for pipe, process in self._processes.items():
            pipe.close()
            process.terminate()
        for process in self._processes.values():
            process.join(_JOIN_SECONDS)
            process.kill()

    def _log(self, number: int) -> Path:
        return self._logs / f"worker-{number}.log"

    def train(
        self, runs: Sequence[tuple[TrainConfig, str]], begin: Callable[[int], bool]
    ) -> Iterator[tuple[int, Outcome | Failure]]:
        """Yields (index of the run, outcome) in the order in which the runs end.

        A run whose worker was killed, or that met a bug, is tried once more, after all others.

        Args:
            runs: what to train, and the gin text that goes into its MODEL_DIR.
            begin: called with the index of a run that is next; False leaves it out.
        """
        waiting = collections.deque(range(len(runs)))
        tried: set[int] = set()
        idle = list(self._processes)
        running: dict[Any, int] = {}
        while waiting or running:
            while idle and waiting:
                index = waiting.popleft()
                if begin(index):
                    pipe = idle.pop()
                    with contextlib.suppress(OSError):  # it died; `_receive` finds its end
                        pipe.send(runs[index])
                    running[pipe] = index
            if not running:  # all that was left has been left out
                return
            for ready in connection.wait(list(running)):
                index = running.pop(ready)
                pipe, outcome = self._receive(ready)
                idle.append(pipe)
                if isinstance(outcome, Failure) and outcome.again and index not in tried:
                    tried.add(index)
                    waiting.append(index)
                else:
                    yield index, outcome

    def _receive(self, pipe: Any) -> tuple[connection.Connection, Outcome | Failure]:
        """The outcome, and the pipe of the worker or of its successor."""
        try:
            return pipe, pipe.recv()
        except (EOFError, ConnectionResetError):
            process, number = self._processes.pop(pipe), self._numbers.pop(pipe)
            process.join(_JOIN_SECONDS)
            reason = (
                f"its worker ended with status {process.exitcode} (killed, or out of memory?); "
                f"{self._log(number)} says more"
            )
            return self._start(number), Failure(reason, again=True)


def _work(
    pipe: connection.Connection,
    log: Path,
    prepare: Callable[[], object],
    environment: Mapping[str, str],
) -> None:
    """The life of a worker: trains the configurations it receives until the pipe is closed."""
    os.setpgid(0, 0)  # a separate group: Ctrl-C in the terminal is for the caller
    with log.open("a") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    threading.Thread(target=_stop_with_caller, daemon=True).start()
    os.environ.update(environment)
    with contextlib.suppress(EOFError):
        while run := pipe.recv():
            config, config_gin = run
            pipe.send(_outcome(config, config_gin, prepare))


def _stop_with_caller() -> None:
    caller = multiprocessing.parent_process()
    assert caller is not None, "this runs in a worker"
    caller.join()
    print("the caller is gone", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


_prepared = False


def _outcome(
    config: TrainConfig, config_gin: str, prepare: Callable[[], object]
) -> Outcome | Failure:
    from sbs_jax.datasets import registry
    from sbs_jax.training import trainer  # jax reads the environment when it is imported

    global _prepared
    try:
        if not _prepared:
            prepare()
            _prepared = True
        print(f"\n== {config.model_dir}", file=sys.stderr, flush=True)
        began = time.monotonic()
        results = trainer.train(config, config_gin)
        dataset = registry.resolve(config.mixture_or_task_name).dataset
        _, rows = dataset.rows(registry.TRAIN, config.data_fraction, config.random_seed)
        return Outcome(
            results=results,
            dataset=dataset.name,
            train_examples=len(rows),
            seconds=time.monotonic() - began,
        )
    except UserError as error:
        print(f"{config.model_dir}: {error}", file=sys.stderr, flush=True)
        return Failure(str(error), again=False)
    except Exception as error:
        traceback.print_exc()  # to the worker's log
        line = " ".join(f"{type(error).__name__}: {error}".split())
        return Failure(f"{line}; the worker's log has the traceback", again=True)
