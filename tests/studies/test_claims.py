"""Claims of several machines, each a context here; ledgers that share one study.jsonl.

On a disk and in a bucket.
"""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import threading
import time
import uuid
from collections.abc import Callable

import pytest
from helpers.runs import config_of

from sbs_jax.errors import UserError
from sbs_jax.studies import cells, claims, study_rows
from sbs_jax.studies.claims import Claims
from sbs_jax.studies.ledger import Ledger
from sbs_jax.utils import bucket_lock, buckets
from sbs_jax.utils.buckets import place
from sbs_jax.utils.paths import is_remote

LONG_AGO = 1_000_000_000


@pytest.fixture(params=["disk", "bucket"])
def folder(request, tmp_path) -> pathlib.Path:
    """STUDY_DIR."""
    if request.param == "disk":
        return tmp_path
    request.getfixturevalue("cloud_storage")
    return place(f"gs://runs/claims/{uuid.uuid4().hex}")


@pytest.fixture
def silence(request, folder) -> Callable[[Claims], None]:
    def silenced(owner: Claims) -> None:
        """As if it had been killed long ago: nothing touches its sign any more."""
        owner._stop.set()
        sign = folder / claims.FOLDER / f"{owner.owner}.alive"
        if is_remote(sign):
            objects = request.getfixturevalue("cloud_storage").objects
            name = str(sign).removeprefix("gs://runs/")
            objects[name] = objects[name]._replace(updated=LONG_AGO)
        else:
            os.utime(sign, (LONG_AGO, LONG_AGO))

    return silenced


@pytest.mark.parametrize("name", ["a.b", "step_by_step-12.5pct-seed0"])
def test_one_of_many_gets_a_claim(folder, name):
    """All see at the same time that its owner is gone, and take it over."""
    together = threading.Barrier(8)

    class Together(Claims):
        def _lives(self, owner: str) -> bool:
            lives = super()._lives(owner)
            together.wait(10)
            return lives

    with Claims(folder) as gone:
        assert gone.take(name)
    with contextlib.ExitStack() as stack:
        machines = [stack.enter_context(Together(folder)) for _ in range(8)]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda machine: machine.take(name), machines))
        assert sum(got) == 1
        with Claims(folder) as other:
            assert other.holder(name) == machines[got.index(True)].owner


def test_a_claim_is_kept_given_up_and_never_anothers_to_give(folder):
    with Claims(folder) as one, Claims(folder) as other:
        assert one.take("run") and one.take("run") and not other.take("run")
        other.release("run")
        assert one.holder("run") == one.owner
        one.release("run")
        assert other.holder("run") is None and other.take("run")


def test_a_silent_owner_loses_its_claim_to_one(folder, silence):
    with Claims(folder) as lost, Claims(folder) as one, Claims(folder) as other:
        assert lost.take("run")
        silence(lost)
        assert one.holder("run") is None
        assert one.take("run") and not other.take("run")
        lost.release("run")
        assert other.holder("run") == one.owner, "what was lost is not given up again"


def test_leaving_gives_everything_up_at_once(folder):
    with Claims(folder) as one:
        with Claims(folder) as other:
            assert other.take("run")
        assert one.take("run")


def test_a_beating_owner_keeps_its_claim(folder):
    with Claims(folder, expiry=3) as one:
        assert one.take("run")
        assert not threading.Event().wait(3.5)
        with Claims(folder, expiry=3) as other:
            assert not other.take("run")


@pytest.mark.parametrize("moment", ["before the read", "after the read"])
def test_a_claim_that_is_given_up_while_it_is_read_goes_to_one(folder, moment, monkeypatch):
    real = buckets.read_bytes
    with Claims(folder) as first, Claims(folder) as one, Claims(folder) as other:
        assert first.take("run")

        def slow(path: pathlib.Path) -> bytes:
            """`one` reads slowly: meanwhile `first` releases and `other` takes."""
            monkeypatch.setattr(buckets, "read_bytes", real)
            first.release("run")
            if moment == "before the read":
                assert other.take("run")
            try:
                return real(path)
            finally:
                assert other.take("run")

        monkeypatch.setattr(buckets, "read_bytes", slow)
        assert not one.take("run")
        assert one.holder("run") == other.owner


def test_a_claim_after_one_that_is_long_over_is_withdrawn(folder, silence, monkeypatch):
    """Two see the same dead owner; one takes over and releases before the other creates its own."""
    with Claims(folder) as dead, Claims(folder) as one, Claims(folder) as other:
        assert dead.take("run")
        silence(dead)
        real = Claims._lives

        def slow(self: Claims, owner: str) -> bool:
            monkeypatch.setattr(Claims, "_lives", real)
            lives = self._lives(owner)
            assert other.take("run")
            other.release("run")
            assert other.take("run")
            return lives

        monkeypatch.setattr(Claims, "_lives", slow)
        assert not one.take("run")
        assert one.holder("run") == other.holder("run") == other.owner
        other.release("run")
        assert one.take("run")


def test_no_increment_is_lost(tmp_path):
    """Threads add to a number by turns, as machines add rows to study.jsonl."""
    number = tmp_path / "number"
    number.write_text("0")

    def add(_: int) -> None:
        with Claims(tmp_path) as machine:
            for _ in range(50):
                with machine.held("study.jsonl", poll=0.0002):
                    before = int(number.read_text())
                    time.sleep(0.0002)
                    number.write_text(str(before + 1))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    assert number.read_text() == "200"


def runs_of(folder: pathlib.Path) -> list[cells.Run]:
    return [
        cells.Run(
            "standard",
            config_of(cells.cell_dir(folder, "standard", 1.0, seed), random_seed=seed),
        )
        for seed in range(3)
    ]


def row_of(run: cells.Run) -> dict:
    """Only what tells which run it is."""
    return {name: v for name, v in study_rows.failed(run, "").items() if name != "error"}


@contextlib.contextmanager
def sharing(folder: pathlib.Path, runs: list[cells.Run]):
    ledger = Ledger(folder, runs)
    with ledger.reserved(shared=True):
        yield ledger


def test_two_machines_share_the_runs_and_both_see_all(folder):
    runs = runs_of(folder)
    with sharing(folder, runs) as one, sharing(folder, runs) as other:
        assert one.begin(runs[0]) and not other.begin(runs[0]) and other.begin(runs[1])
        assert "seed 0 (" in other.elsewhere() and "seed 2 (nobody now)" in other.elsewhere()
        one.end(runs[0], row_of(runs[0]))
        assert not other.begin(runs[0]), "it is finished"
        other.end(runs[1], study_rows.failed(runs[1], "too bad"))
        assert not one.begin(runs[1]), "it was tried while this one looked on"
        one.refresh()
        assert one.left() == other.left() == [runs[2]]
        assert (one.finished, one.failures()) == (1, [(runs[1], "too bad")])
    with sharing(folder, runs) as later:
        assert later.left() == runs[1:], "a new start tries what failed"
        assert later.begin(runs[1])
        assert later.end(runs[1], study_rows.failed(runs[1], "too bad"))["tries"] == 2
        assert later.left() == [runs[2]]


def test_a_machine_that_was_given_up_adds_nothing(folder, silence, capsys):
    runs = runs_of(folder)
    with sharing(folder, runs) as lost, sharing(folder, runs) as one:
        assert lost.begin(runs[0])
        silence(lost._claims)
        assert one.begin(runs[0])
        lost.end(runs[0], study_rows.failed(runs[0], "too late"))
        assert "is another machine's now" in capsys.readouterr().err
        assert not (folder / "study.jsonl").exists()
        one.end(runs[0], row_of(runs[0]))
    (line,) = (folder / "study.jsonl").read_text().splitlines()
    assert json.loads(line)["seed"] == 0 and "error" not in json.loads(line)


def test_alone_is_alone(folder, monkeypatch):
    monkeypatch.setattr(bucket_lock, "RENEW_SECONDS", 0.05)
    runs = runs_of(folder)
    with Ledger(folder, runs).reserved(shared=False):
        ledger = Ledger(folder, runs)
        with pytest.raises(UserError, match="another process is working"), ledger.reserved(False):
            pass
    assert not (folder / claims.FOLDER).exists()


def test_rows_that_another_start_adds_before_the_lock_are_read(folder):
    runs = runs_of(folder)
    ledger = Ledger(folder, runs)
    study_rows.write(folder, [row_of(runs[0]), study_rows.failed(runs[1], "too bad")])
    with ledger.reserved(shared=False):
        assert ledger.left() == runs[1:]
