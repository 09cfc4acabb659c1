"""The fuzzer for a few seconds per reader; `make fuzz` runs it for minutes."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from fuzz import readers

RUN = Path(__file__).with_name("run.py")


@pytest.mark.parametrize("name", readers.READERS)
def test_valid_input_is_read(name):
    """Otherwise the fuzzer would start from refusals."""
    reader = readers.READERS[name]
    assert readers.check(reader, reader.seeds()[0])


@pytest.mark.parametrize("name", readers.READERS)
def test_cut_and_changed_input_is_read_or_refused_in_one_line(name):
    reader = readers.READERS[name]
    for data in reader.seeds():
        for place in range(0, len(data), 1 + len(data) // 8):
            readers.check(reader, data[:place])
            readers.check(reader, data[:place] + b"\n\xff" + data[place + 1 :])


@pytest.mark.slow
@pytest.mark.skipif(find_spec("atheris") is None, reason="no atheris here; x86-64 Linux has it")
@pytest.mark.parametrize("name", readers.READERS)
def test_a_few_seconds_of_fuzzing_find_nothing(tmp_path, name):
    command = [sys.executable, RUN, name, "--seconds=3", f"--corpus={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["executions"] > 10
