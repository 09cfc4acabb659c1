"""The cases of ../shared: inputs in the shape of public reports, each with its own check."""

import concurrent.futures
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(os.environ.get("SBS_SHARED", REPOSITORY.parent / "shared"))
CASES = sorted(path.parent for path in SHARED.glob("cases*/*/run.sh"))
SBS = pathlib.Path(sys.executable).parent / "sbs"

# The bounds of the scripts are for an idle machine.
PATIENT_TIMEOUT = """#!/bin/sh
bound=$1
shift
exec env PATH="${PATH#*:}" timeout "$((bound * 4))" "$@"
"""
STRICT = ("XLA_FLAGS", "JAX_NUMPY_RANK_PROMOTION")  # settings of our tests, not of a user

Done = subprocess.CompletedProcess[str]


def _run(case: pathlib.Path, folder: pathlib.Path) -> Done:
    kept = {name: value for name, value in os.environ.items() if name not in STRICT}
    patient = folder / "bin" / "timeout"
    patient.parent.mkdir()
    patient.write_text(PATIENT_TIMEOUT)
    patient.chmod(0o755)
    kept["PATH"] = f"{patient.parent}:{kept['PATH']}"
    return subprocess.run(
        ["bash", "run.sh"],
        cwd=case,
        env=kept | {"SBS": str(SBS), "TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[pathlib.Path, concurrent.futures.Future[Done]]]:
    """The selected cases, two at a time: they wait for servers half of their time."""
    here = [item for item in request.session.items if item.path == pathlib.Path(__file__)]
    selected = [item.callspec.params["case"] for item in here if hasattr(item, "callspec")]
    pool = concurrent.futures.ThreadPoolExecutor(2)
    yield {case: pool.submit(_run, case, tmp_path_factory.mktemp("case")) for case in selected}
    pool.shutdown(cancel_futures=True)


@pytest.mark.slow
@pytest.mark.skipif(not CASES, reason="../shared is not here")
@pytest.mark.skipif(not SBS.exists(), reason="sbs is not installed beside this Python")
@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_case(runs, case):
    """Exit 0 only where the right behaviour is seen; every script bounds its own commands."""
    done = runs[case].result()
    assert done.returncode == 0, done.stdout[-3000:]
