"""SeqIO's own cache of our tasks, made by its Beam script: equal to what the tasks give uncached.

Apache Beam wants an older protobuf than this project, so it lives in an environment of its own
(docs/datasets.md); SBS_BEAM_PYTHON names its interpreter.
"""

import os
import subprocess

import pytest

PYTHON = os.environ.get("SBS_BEAM_PYTHON")
TASKS = ("demo_label", "demo_rationale")
COMPARE = """
import sys
import seqio
import sbs_jax.tasks

seqio.set_global_cache_dirs([sys.argv[1]])
for name in sys.argv[2:]:
    task = seqio.get_mixture_or_task(name)
    for split in ("train", "validation", "test"):
        def rows(cached):
            lengths = {"inputs": 32, "targets": 32}
            found = task.get_dataset(lengths, split, use_cached=cached, shuffle=False)
            keys = ("id", "inputs", "targets")
            return sorted([row[key].tolist() for key in keys[1:]] + [row["id"]]
                          for row in found.as_numpy_iterator())
        cached, made = rows(True), rows(False)
        assert cached == made, (name, split)
        print(name, split, len(made))
"""


@pytest.mark.skipif(not PYTHON, reason="SBS_BEAM_PYTHON names no interpreter with apache-beam")
def test_what_beam_caches_is_what_the_tasks_give(tmp_path):
    cache = str(tmp_path / "cache")
    script = [PYTHON, "-m", "seqio.scripts.cache_tasks_main"]
    flags = ["--module_import=sbs_jax.tasks", "--tasks=demo_(label|rationale)"]
    subprocess.run([*script, *flags, f"--output_cache_dir={cache}"], check=True, cwd=tmp_path)
    command = [PYTHON, "-c", COMPARE, cache, *TASKS]
    answer = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True)
    assert "demo_label train 800" in answer.stdout and "demo_rationale test 600" in answer.stdout
