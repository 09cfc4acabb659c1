"""Processes that live long and train run after run, so that frameworks are loaded once each."""

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
        train_examples: questions trained on.
        seconds: by the clock, since this start of the run.
    """

    results: dict[str, Any]
    train_examples: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Failure:
    """Why a run did not finish: a mistake of the user's, or the traceback of a bug."""

    message: str
    mistake: bool


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

    def __enter__(self) -> "Workers":
        # Forking a process that runs threads is not safe, and a fork would inherit its jax.
        context = multiprocessing.get_context("spawn")
        self._logs.mkdir(parents=True, exist_ok=True)
        for number in range(self._count):
            ours, theirs = context.Pipe()
            arguments = (theirs, self._log(number), *self._arguments)
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._processes[ours] = process
        return self

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
        self, runs: Sequence[tuple[TrainConfig, str]], started: Callable[[int], object]
    ) -> Iterator[tuple[int, Outcome]]:
        """Yields (index of the run, outcome) in the order in which the runs finish.

        Args:
            runs: what to train, and the gin text that goes into its MODEL_DIR.
            started: called with the index of every run that begins.

        Raises:
            UserError: a run was refused, or its worker killed; the message names its MODEL_DIR.
            RuntimeError: a run broke; the message holds the traceback.
        """
        waiting = iter(range(len(runs)))
        running: dict[connection.Connection, int] = {}

        def give_work(pipe: connection.Connection) -> None:
            index = next(waiting, None)
            if index is not None:
                pipe.send(runs[index])
                running[pipe] = index
                started(index)

        for pipe in self._processes:
            give_work(pipe)
        while running:
            for pipe in connection.wait(list(running)):
                index = running.pop(pipe)
                outcome = self._receive(pipe, runs[index][0].model_dir)
                give_work(pipe)
                yield index, outcome

    def _receive(self, pipe: connection.Connection, model_dir: str) -> Outcome:
        try:
            answer = pipe.recv()
        except EOFError:
            process = self._processes[pipe]
            process.join(_JOIN_SECONDS)
            log = self._log(list(self._processes).index(pipe))
            raise UserError(
                f"{model_dir}: its worker ended with status {process.exitcode} (killed, or out of "
                f"memory?); {log} tells more, and the same command continues"
            ) from None
        if isinstance(answer, Outcome):
            return answer
        if answer.mistake:
            raise UserError(f"{model_dir}: {answer.message}")
        raise RuntimeError(f"{model_dir}: the run failed\n{answer.message}")


def _work(
    pipe: connection.Connection,
    log: Path,
    prepare: Callable[[], object],
    environment: Mapping[str, str],
) -> None:
    """The life of a worker: trains the configurations it receives until the pipe is closed."""
    os.setpgid(0, 0)  # a group of its own: Ctrl-C in the terminal is for the caller
    with log.open("a") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    threading.Thread(target=_stop_with_caller, daemon=True).start()
    os.environ.update(environment)
    with contextlib.suppress(EOFError):
        while run := pipe.recv():
            pipe.send(_outcome(*run, prepare))


def _stop_with_caller() -> None:
    caller = multiprocessing.parent_process()
    assert caller is not None, "this runs in a worker"
    caller.join()
    print("the caller is gone", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


_prepared = False


def _outcome(
    config: TrainConfig, config_gin: str, prepare: Callable[[], object]
) -> Outcome | _Failure:
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
            train_examples=len(rows),
            seconds=time.monotonic() - began,
        )
    except UserError as error:
        return _Failure(str(error), mistake=True)
    except Exception:
        return _Failure(traceback.format_exc(), mistake=False)
