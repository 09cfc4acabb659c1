"""The Python that has transformers and torch: $SBS_SERVER_PYTHON, or this one.

`make test-server` makes one and runs the tests that need it.
"""

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest

PYTHON = os.environ.get("SBS_SERVER_PYTHON", sys.executable)


def require() -> None:
    """Skips the test where there is no such Python."""
    if sys.executable == PYTHON and not importlib.util.find_spec("transformers"):
        pytest.skip("transformers is not installed; make test-server installs it apart")
    if not shutil.which(PYTHON):
        pytest.skip(f"SBS_SERVER_PYTHON={PYTHON} is not there")


def run(script: str, *args: object) -> str:
    """Runs a script there, without a network; returns what it prints."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [PYTHON, "-c", script, *map(str, args)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
