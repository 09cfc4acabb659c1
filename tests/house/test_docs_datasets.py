"""docs/datasets.md is executed as it stands."""

import os
import pathlib
import re
import subprocess
import sys

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "datasets.md"


def test_the_examples_run_and_show_both_engines(tmp_path: pathlib.Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    script = tmp_path / "my_tasks.py"
    after = (
        "task = seqio.get_mixture_or_task('colours_label')\n"
        "first = next(task.get_dataset(lengths, 'train', shuffle=False).as_numpy_iterator())\n"
        "print(first['inputs_pretokenized'].decode(), first['targets_pretokenized'].decode())\n"
    )
    script.write_text("\n".join([*blocks, after]), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "SBS_DATA_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        "label [label] What colour is a leaf? -> green",
        "rationale [rationale] What colour is a leaf? -> A leaf looks green.",
    ]
    assert lines[2:6] == [
        "colours_label [label] What colour is a leaf? -> green",
        "colours_label [label] What colour is a sky? -> blue",
        "colours_rationale [rationale] What colour is a leaf? -> A leaf looks green.",
        "colours_rationale [rationale] What colour is a sky? -> A sky looks blue.",
    ]
    assert lines[6:] == ["predict: What colour is a leaf? green"]


def test_the_page_names_every_argument_and_method() -> None:
    import inspect

    from sbs_jax.datasets import methods, registry

    text = PAGE.read_text(encoding="utf-8")
    for name in inspect.signature(registry.add_dataset).parameters:
        if name != "name":
            assert f"`{name}" in text, name
    for method in methods.METHODS:
        assert f"`D_{method}`" in text, method
