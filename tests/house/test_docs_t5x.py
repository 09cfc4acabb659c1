"""docs/t5x.md: which XLA flags of old recipes end the process."""

import os
import pathlib
import re
import subprocess
import sys

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "t5x.md"
ROW = re.compile(r"^\| `(--xla_\S+)` \| (ends the process|known)", re.MULTILINE)


def start(*flags: str) -> subprocess.CompletedProcess[str]:
    """Begins jax under these flags."""
    environment = os.environ | {"XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_flags_of_old_recipes_are_as_the_page_says():
    rows = dict(ROW.findall(PAGE.read_text(encoding="utf-8")))
    known = [flag for flag, answer in rows.items() if answer == "known"]
    ending = [flag for flag, answer in rows.items() if answer != "known"]
    assert len(known) == 10 and len(ending) == 11
    assert start(*known).returncode == 0
    ended = start(*ending)
    assert ended.returncode != 0 and "Unknown flag" in ended.stderr
    named = next(line for line in ended.stderr.splitlines() if "Unknown flag" in line)
    assert [flag for flag in ending if flag not in named] == []
