"""A run that is killed again and again at random moments ends as one that was left alone.

In a bucket the moments are requests to the server: amid a save, a deletion, a log, the scores.
"""

import collections
import json
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import xla
from helpers.cloud_storage import CloudStorage, Refused
from helpers.runs import config_of

from sbs_jax.checkpoints.manager import CheckpointManager
from sbs_jax.configs import TrainConfig
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.training import optimizers, schedules, train_step, trainer
from sbs_jax.utils.buckets import place

pytestmark = pytest.mark.slow

BATCH, QUESTIONS = 32, 800  # of the embedded dataset: 25 updates are an epoch
PATIENCE = 120.0
RACES = 0.05  # seconds within which a kill follows the update it waits for
STARTUP = 4.0  # seconds within which it comes where it waits for none


def settings(model_dir: Path, steps: int) -> TrainConfig:
    return config_of(
        model_dir,
        train_steps=steps,
        batch_size=BATCH,
        eval_period=25,
        checkpoint_period=2,
        log_period=1,
        keep_latest=2,
    )


def live(model_dir: Path, steps: int, folder: Path, variables: dict[str, str]) -> None:
    """One life of a run, in a process of its own; notes every batch it trains on."""
    os.environ.update(variables, XLA_FLAGS=xla.flags(devices=1))
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    iterate = trainer.iterate

    def noted(batches, first, last, **named):
        with (folder / f"{model_dir.name}.journal").open("a") as file:
            file.write(json.dumps({"start": first}) + "\n")
            for index, batch in iterate(batches, first, last, **named):
                file.write(json.dumps({"step": index, "ids": batches.ids(index)}) + "\n")
                file.flush()
                yield index, batch

    trainer.iterate = noted
    trainer.train(settings(model_dir, steps))


def noted_lives(journal: Path) -> list[list[dict]]:
    """Per life that came to train: what it noted; a line that a kill cut off is left out."""
    lives = []
    for line in journal.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            row = json.loads(line)
            if "start" in row:
                lives.append([])
            lives[-1].append(row)
    return lives


def survivors(journal: Path, steps: int) -> list[dict]:
    """The batches that the final parameters have seen: a life counts up to the next one's start."""
    lives = noted_lives(journal)
    ends = [life[0]["start"] for life in lives[1:]] + [steps]
    return [
        row for life, end in zip(lives, ends, strict=True) for row in life[1:] if row["step"] < end
    ]


def final_state(model_dir: Path, steps: int) -> list[np.ndarray]:
    import jax

    config = settings(model_dir, steps)
    rate = schedules.learning_rate_of(config.optimizer, steps)
    optimizer = optimizers.optimizer_of(config.optimizer, rate)
    partitioner = Partitioner(devices=jax.devices()[:1])
    shapes = train_step.abstract_state(config.model, optimizer, partitioner)
    with CheckpointManager(model_dir / "checkpoints", read_only=True) as store:
        assert store.latest_step() == steps
        return jax.tree.leaves(jax.device_get(store.restore_latest(shapes)))


def losses(model_dir: Path) -> list[tuple]:
    rows = map(json.loads, (model_dir / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row.get("loss"), row.get("validation/accuracy")) for row in rows]


class Lives:
    """Starts lives from a process that has loaded the libraries but runs nothing."""

    def __init__(self, folder: Path, steps: int, variables: dict[str, str] | None = None) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        self._folder, self._steps, self._variables = folder, steps, variables or {}

    def start(self, model_dir: Path) -> multiprocessing.Process:
        arguments = (model_dir, self._steps, self._folder, self._variables)
        life = self._context.Process(target=live, args=arguments)
        life.start()
        return life

    def finish(self, model_dir: Path) -> None:
        life = self.start(model_dir)
        life.join(PATIENCE)
        assert life.exitcode == 0

    def kill(self, model_dir: Path, updates_first: int, delay: float) -> None:
        """Starts a life and kills it `delay` seconds after its next so many updates."""
        life, deadline = self.start(model_dir), time.monotonic() + PATIENCE
        journal = self._folder / f"{model_dir.name}.journal"
        target = notes(journal) + updates_first + bool(updates_first)  # a line tells its start
        while notes(journal) < target:
            assert life.is_alive() and time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(delay)
        life.kill()
        life.join()
        assert life.exitcode == -signal.SIGKILL

    def kill_at(self, model_dir: Path, server: CloudStorage, request: str) -> None:
        """Starts a life and kills it as it makes a request, which is not carried out."""

        def before(method: str, name: str, body: bytes) -> None:
            if re.fullmatch(request, f"{method} {name}"):
                life.kill()
                raise Refused(503)

        life = self.start(model_dir)
        server.before = before
        life.join(PATIENCE)
        server.before = lambda method, name, body: None
        assert life.exitcode == -signal.SIGKILL, request


def notes(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def assert_same_run(ours: Path, theirs: Path, journals: Path, steps: int) -> None:
    """Bits of the final state, every batch and every logged loss are equal."""
    states = (final_state(ours, steps), final_state(theirs, steps))
    for mine, other in zip(*states, strict=True):
        assert mine.tobytes() == other.tobytes()
    history = survivors(journals / f"{ours.name}.journal", steps)
    assert [row["step"] for row in history] == list(range(steps))
    assert history == survivors(journals / f"{theirs.name}.journal", steps)
    seen = collections.Counter(question for row in history for question in row["ids"])
    assert len(seen) == QUESTIONS and set(seen.values()) == {steps * BATCH // QUESTIONS}
    assert losses(ours) == losses(theirs)


def test_kills_change_nothing(tmp_path):
    kills, steps = 20, 150
    lives, whole, model_dir = Lives(tmp_path, steps), tmp_path / "whole", tmp_path / "run"
    lives.finish(whole)
    rng = np.random.default_rng(kills)
    for number in range(kills):
        if number % 4 == 1:  # while it starts: before or after the checkpoint is read
            lives.kill(model_dir, 0, rng.uniform(0, STARTUP))
        else:
            lives.kill(model_dir, int(rng.integers(3, 11)), rng.uniform(0, RACES))
    lives.finish(model_dir)
    starts = {life[0]["start"] for life in noted_lives(tmp_path / "run.journal")}
    assert len(starts) > 1 + kills // 4, "lives go on from where others were killed"
    assert_same_run(model_dir, whole, tmp_path, steps)
    left = [path.name for path in model_dir.rglob("*") if "tmp" in path.name]
    assert not left, "what a kill cut off is cleared away"


MOMENTS = (
    r"PUT \S+/run.json",
    r"PUT \S+/checkpoints/2/state/\S+",  # in the middle of a save
    r"PUT \S+/checkpoints/4/commit_success.txt",  # at its very end
    r"PUT \S+/checkpoints/6/state/_METADATA",
    r"DELETE \S+/checkpoints/4/state/\S+",  # while an old checkpoint goes
    r"PUT \S+/metrics.jsonl",
    r"PUT \S+/checkpoints/12/commit_success.txt",
    r"PUT \S+/checkpoints/25/commit_success.txt",
    r"PUT \S+/checkpoints/scores.json",
    r"PUT \S+/predictions-demo_label-test-25.jsonl",
    r"PUT \S+/results.json",
)


def test_kills_change_nothing_in_a_bucket(tmp_path, cloud_storage):
    steps, model_dir = 25, place("gs://runs/kills/run")
    lives, whole = Lives(tmp_path, steps, cloud_storage.variables), tmp_path / "whole"
    lives.finish(whole)
    for moment in MOMENTS:
        lives.kill_at(model_dir, cloud_storage, moment)
    lives.finish(model_dir)
    noted = noted_lives(tmp_path / f"{model_dir.name}.journal")
    assert len({life[0]["start"] for life in noted}) > 1
    assert_same_run(model_dir, whole, tmp_path, steps)
    names = cloud_storage.names("kills/run/")
    steps_left = {name.split("/")[3] for name in names if re.search(r"/checkpoints/\d+/", name)}
    marked = {name.split("/")[3] for name in names if name.endswith("/commit_success.txt")}
    assert steps_left == marked == {"24", "25"}, "what a kill cut off is cleared away"
    assert not [name for name in names if name.endswith("lock.json")]
