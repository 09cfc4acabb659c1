"""A run that is killed again and again at random moments ends as one that was left alone."""

import collections
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import xla
from helpers.runs import config_of

from sbs_jax.checkpoints.manager import CheckpointManager
from sbs_jax.configs import TrainConfig
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.training import optimizers, schedules, train_step, trainer

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


def live(model_dir: Path, steps: int, cache: Path) -> None:
    """One life of a run, in a process of its own; notes every batch it trains on."""
    os.environ["XLA_FLAGS"] = xla.flags(devices=1)
    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    iterate = trainer.iterate

    def noted(batches, first, last, **named):
        with journal(model_dir).open("a") as file:
            file.write(json.dumps({"start": first}) + "\n")
            for index, batch in iterate(batches, first, last, **named):
                file.write(json.dumps({"step": index, "ids": batches.ids(index)}) + "\n")
                file.flush()
                yield index, batch

    trainer.iterate = noted
    trainer.train(settings(model_dir, steps))


def journal(model_dir: Path) -> Path:
    return model_dir.with_suffix(".journal")


def noted_lives(model_dir: Path) -> list[list[dict]]:
    """Per life that came to train: what it noted; a line that a kill cut off is left out."""
    lives = []
    for line in journal(model_dir).read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            row = json.loads(line)
            if "start" in row:
                lives.append([])
            lives[-1].append(row)
    return lives


def survivors(model_dir: Path, steps: int) -> list[dict]:
    """The batches that the final parameters have seen: a life counts up to the next one's start."""
    lives = noted_lives(model_dir)
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
        return jax.tree.leaves(jax.device_get(store.restore(steps, shapes)[0]))


def losses(model_dir: Path) -> list[tuple]:
    rows = map(json.loads, (model_dir / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row.get("loss"), row.get("validation/accuracy")) for row in rows]


class Lives:
    """Starts lives from a process that has loaded the libraries but runs nothing."""

    def __init__(self, folder: Path, steps: int) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        self._cache, self._steps = folder / "compiled", steps

    def start(self, model_dir: Path) -> multiprocessing.Process:
        life = self._context.Process(target=live, args=(model_dir, self._steps, self._cache))
        life.start()
        return life

    def finish(self, model_dir: Path) -> None:
        life = self.start(model_dir)
        life.join(PATIENCE)
        assert life.exitcode == 0

    def kill(self, model_dir: Path, updates_first: int, delay: float) -> None:
        """Starts a life and kills it `delay` seconds after its next so many updates."""
        life, deadline = self.start(model_dir), time.monotonic() + PATIENCE
        target = notes(model_dir) + updates_first + bool(updates_first)  # a line tells its start
        while notes(model_dir) < target:
            assert life.is_alive() and time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(delay)
        life.kill()
        life.join()
        assert life.exitcode == -signal.SIGKILL


def notes(model_dir: Path) -> int:
    path = journal(model_dir)
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize(
    ("kills", "steps"), [(1, 25), pytest.param(20, 150, marks=pytest.mark.slow)]
)
def test_kills_change_nothing(tmp_path, kills, steps):
    lives, whole, model_dir = Lives(tmp_path, steps), tmp_path / "whole", tmp_path / "run"
    lives.finish(whole)
    rng = np.random.default_rng(kills)
    for number in range(kills):
        if number % 4 == 1:  # while it starts: before or after the checkpoint is read
            lives.kill(model_dir, 0, rng.uniform(0, STARTUP))
        else:
            lives.kill(model_dir, int(rng.integers(3, 11)), rng.uniform(0, RACES))
    lives.finish(model_dir)
    starts = {life[0]["start"] for life in noted_lives(model_dir)}
    assert len(starts) > 1 + kills // 4, "lives go on from where others were killed"
    for ours, theirs in zip(final_state(model_dir, steps), final_state(whole, steps), strict=True):
        assert ours.tobytes() == theirs.tobytes()
    history = survivors(model_dir, steps)
    assert [row["step"] for row in history] == list(range(steps))
    assert history == survivors(whole, steps)
    seen = collections.Counter(question for row in history for question in row["ids"])
    assert len(seen) == QUESTIONS and set(seen.values()) == {steps * BATCH // QUESTIONS}
    assert losses(model_dir) == losses(whole)
    left = [path.name for path in model_dir.rglob("*") if "tmp" in path.name]
    assert not left, "what a kill cut off is cleared away"
