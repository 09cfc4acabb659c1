"""Phases add up to the time of a start; a profile covers the updates asked for."""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from sbs_jax.training.phases import Phases, Profiler


def test_phases_add_up(capsys):
    started = time.monotonic() - 5
    phases = Phases(started)
    assert phases.end("imports") >= 5
    assert phases.end("data") < 5
    phases.first_update(jnp.ones(3))
    printed = capsys.readouterr().err
    assert printed.startswith("seconds to the first update: imports 5.")
    assert "data 0." in printed and "first update 0." in printed and "; together 5." in printed


@pytest.mark.parametrize(
    ("first", "updates", "steps", "profiled"),
    [
        (0, 6, 2, 2),
        (7, 6, 1, 1),
        (0, 4, 2, 2),
        (0, 4, 9, 2),
        (0, 6, 0, None),
        (0, 2, 3, None),
        (9, 0, 3, None),
    ],
)
def test_a_profile_covers_the_updates_asked_for(
    tmp_path, capsys, monkeypatch, first, updates, steps, profiled
):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    profiler = Profiler(str(tmp_path), first, steps)
    for index in range(first, first + updates):
        profiler.before(index, jnp.ones(1))
        calls.append(index)
    profiler.close(first + updates, jnp.ones(1))
    printed = capsys.readouterr().err
    if profiled is None:
        assert "start" not in calls and printed.count("no profile written") == (steps > 0)
        return
    inside = calls[calls.index("start") + 1 : calls.index("stop")]
    assert inside == [first + 2 + n for n in range(profiled)]
    assert f"profile of {profiled} updates written" in printed


def test_a_profile_is_written_for_tensorboard(tmp_path):
    profiler = Profiler(str(tmp_path), 0, 1)
    for index in range(4):
        profiler.before(index)
        jnp.sin(jnp.ones(8)).block_until_ready()
    assert list(Path(tmp_path, "profile").rglob("*.xplane.pb"))
