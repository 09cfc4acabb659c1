"""Importing any module of the package connects to nothing, looks up no name and opens no socket."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Audit events reach Python's own sockets, and so every library that uses them.
IMPORT = """
import importlib, sys
events = []
sys.addaudithook(lambda name, _: events.append(name) if name in (
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto") else None)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(len(sys.argv) - 1, events)
"""


def modules() -> list[str]:
    paths = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / "sbs_jax").rglob("*.py"))
    return sorted(
        ".".join(path.parts) for path in paths if path.stem not in ("__main__", "__init__")
    )


TENSORFLOW = [name for name in modules() if ".integrations." in name and ".t5x_" not in name]
OTHERS = [name for name in modules() if ".integrations." not in name]


@pytest.mark.parametrize(
    "names", [OTHERS, pytest.param(TENSORFLOW, marks=pytest.mark.slow)], ids=["core", "tensorflow"]
)
def test_no_import_uses_the_network(names):
    command = [sys.executable, "-c", IMPORT, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{len(names)} []"
