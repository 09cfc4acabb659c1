"""Claims of several machines, each a context here; ledgers that share one study.jsonl."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import threading

import pytest
from helpers.runs import config_of

from sbs_jax.errors import UserError
from sbs_jax.studies import cells, claims, study_rows
from sbs_jax.studies.claims import Claims
from sbs_jax.studies.ledger import Ledger

LONG_AGO = 1_000_000_000


def silence(folder: pathlib.Path, owner: Claims) -> None:
    """As if it had been killed long ago: nothing touches its sign any more."""
    owner._stop.set()
    sign = folder / claims.FOLDER / f"{owner.owner}.alive"
    os.utime(sign, (LONG_AGO, LONG_AGO))


@pytest.mark.parametrize("name", ["a.b", "step_by_step-12.5pct-seed0"])
def test_one_of_many_gets_a_claim(tmp_path, name):
    """All see at the same time that its owner is gone, and take it over."""
    together = threading.Barrier(8)

    class Together(Claims):
        def _lives(self, owner: str) -> bool:
            lives = super()._lives(owner)
            together.wait(10)
            return lives

    with Claims(tmp_path) as gone:
        assert gone.take(name)
    with contextlib.ExitStack() as stack:
        machines = [stack.enter_context(Together(tmp_path)) for _ in range(8)]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda machine: machine.take(name), machines))
        assert sum(got) == 1
        with Claims(tmp_path) as other:
            assert other.holder(name) == machines[got.index(True)].owner


def test_a_claim_is_kept_given_up_and_never_anothers_to_give(tmp_path):
    with Claims(tmp_path) as one, Claims(tmp_path) as other:
        assert one.take("run") and one.take("run") and not other.take("run")
        other.release("run")
        assert one.holder("run") == one.owner
        one.release("run")
        assert other.holder("run") is None and other.take("run")


def test_a_silent_owner_loses_its_claim_to_one(tmp_path):
    with Claims(tmp_path) as lost, Claims(tmp_path) as one, Claims(tmp_path) as other:
        assert lost.take("run")
        silence(tmp_path, lost)
        assert one.holder("run") is None
        assert one.take("run") and not other.take("run")
        lost.release("run")
        assert other.holder("run") == one.owner, "what was lost is not given up again"


def test_leaving_gives_everything_up_at_once(tmp_path):
    with Claims(tmp_path) as one:
        with Claims(tmp_path) as other:
            assert other.take("run")
        assert one.take("run")


def test_a_beating_owner_keeps_its_claim(tmp_path):
    with Claims(tmp_path, expiry=3) as one, Claims(tmp_path, expiry=3) as other:
        assert one.take("run")
        assert not threading.Event().wait(3.5)
        assert not other.take("run")


def runs_of(folder: pathlib.Path) -> list[cells.Run]:
    return [
        cells.Run(
            "standard", config_of(pathlib.Path(cells.cell_dir(folder, "standard", 1.0, seed)),
                                  random_seed=seed)
        )
        for seed in range(3)
    ]  # fmt: skip


def row_of(run: cells.Run) -> dict:
    """Only what tells which run it is."""
    return {name: v for name, v in study_rows.failed(run, "").items() if name != "error"}


@contextlib.contextmanager
def sharing(folder: pathlib.Path, runs: list[cells.Run]):
    ledger = Ledger(folder, runs)
    with ledger.reserved(shared=True):
        yield ledger


def test_two_machines_share_the_runs_and_both_see_all(tmp_path):
    runs = runs_of(tmp_path)
    with sharing(tmp_path, runs) as one, sharing(tmp_path, runs) as other:
        assert one.begin(runs[0]) and not other.begin(runs[0]) and other.begin(runs[1])
        assert "seed 0 (" in other.elsewhere() and "seed 2 (nobody now)" in other.elsewhere()
        one.end(runs[0], row_of(runs[0]))
        assert not other.begin(runs[0]), "it is finished"
        other.end(runs[1], study_rows.failed(runs[1], "too bad"))
        assert not one.begin(runs[1]), "it was tried while this one looked on"
        one.refresh()
        assert one.left() == other.left() == [runs[2]]
        assert (one.finished, one.failures()) == (1, [(runs[1], "too bad")])
    with sharing(tmp_path, runs) as later:
        assert later.left() == runs[1:], "a new start tries what failed"
        assert later.begin(runs[1])
        assert later.end(runs[1], study_rows.failed(runs[1], "too bad"))["tries"] == 2
        assert later.left() == [runs[2]]


def test_a_machine_that_was_given_up_adds_nothing(tmp_path, capsys):
    runs = runs_of(tmp_path)
    with sharing(tmp_path, runs) as lost, sharing(tmp_path, runs) as one:
        assert lost.begin(runs[0])
        silence(tmp_path, lost._claims)
        assert one.begin(runs[0])
        lost.end(runs[0], study_rows.failed(runs[0], "too late"))
        assert "is another machine's now" in capsys.readouterr().err
        assert not (tmp_path / "study.jsonl").exists()
        one.end(runs[0], row_of(runs[0]))
    (line,) = (tmp_path / "study.jsonl").read_text().splitlines()
    assert json.loads(line)["seed"] == 0 and "error" not in json.loads(line)


def test_alone_is_alone(tmp_path):
    runs = runs_of(tmp_path)
    with Ledger(tmp_path, runs).reserved(shared=False):
        ledger = Ledger(tmp_path, runs)
        with pytest.raises(UserError, match="another process is working"), ledger.reserved(False):
            pass
    assert not (tmp_path / claims.FOLDER).exists()
