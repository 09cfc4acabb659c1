"""Ctrl-C in a destructor, in a callback of the garbage collector, and behind C code."""

import gc
import signal
import sys
import time
from collections.abc import Callable

import pytest

from sbs_jax.cli import devices, main
from sbs_jax.utils import interrupts


class Ignored:
    """Calls a function while it is destroyed, where Python prints and ignores what is raised."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function

    def __del__(self) -> None:
        self._function()


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def wait() -> None:
    time.sleep(5)  # a signal ends it at once


def test_in_a_destructor(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), interrupts.raised_again():
        Ignored(ctrl_c)
        wait()
    assert not capsys.readouterr().err


def test_in_a_callback_of_the_garbage_collector() -> None:
    def callback(phase: str, info: dict) -> None:
        gc.callbacks.remove(callback)
        ctrl_c()

    with pytest.raises(KeyboardInterrupt), interrupts.raised_again():
        gc.callbacks.append(callback)
        gc.collect()
        wait()


def test_lost_twice() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts.raised_again():
        Ignored(ctrl_c)
        Ignored(wait)  # what the first sends arrives in here
        wait()


def test_other_exceptions_are_shown_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: shown.append(unraisable.exc_type))
    with interrupts.raised_again():
        Ignored(lambda: [].pop())
    Ignored(lambda: {}.popitem())
    assert shown == [IndexError, KeyError]


def test_a_verb_that_loses_ctrl_c_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def verb(args: list[str]) -> None:
        Ignored(ctrl_c)
        wait()

    monkeypatch.setattr(devices, "main", verb)
    assert main(["devices"]) == 130
    assert capsys.readouterr().err == "sbs: interrupted\n"


@pytest.mark.parametrize("chained", [True, False], ids=["cause", "context"])
def test_an_error_that_ctrl_c_led_to_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], chained: bool
) -> None:
    def verb(args: list[str]) -> None:
        try:
            ctrl_c()
        except KeyboardInterrupt as interrupt:
            if chained:
                raise SystemError("a function returned with an exception set") from interrupt
            [].pop()

    monkeypatch.setattr(devices, "main", verb)
    assert main(["devices"]) == 130
    assert capsys.readouterr().err == "sbs: interrupted\n"
    assert not interrupts.is_cause(SystemError("another"))
