"""`sbs devices`: a launch counts its devices before it trains."""

import jax
import pytest

from sbs_jax.cli import main


def test_the_devices_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    count = jax.device_count()
    assert main(["devices", f"--expect={count}"]) == 0
    assert f"process 0 of 1: {count} devices" in capsys.readouterr().out
    assert main(["devices", f"--expect={count + 1}"]) == 2
    assert f"--expect={count + 1}: found {count} devices" in capsys.readouterr().err
