"""Stage 1 to the report with a real language model: SmolLM2-135M-Instruct on llama.cpp's server.

The server runs in a Python of its own, $SBS_LLM_PYTHON, which `make test-llm` makes; without it the
tests skip. The questions are 100 of CQA and 100 of SVAMP where the released data are beside the
checkout, and the demonstration's without them. The model is weak on purpose: it writes what parsers
must survive. About ten minutes on one core.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from sbs_jax.cli import main
from sbs_jax.datasets import demo
from sbs_jax.datasets.records import Record, read_jsonl, write_jsonl
from sbs_jax.datasets.release import Release
from sbs_jax.reporting import page

PYTHON = os.environ.get("SBS_LLM_PYTHON", "")
SERVE = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "serve_smollm2.py"
COUNT = int(os.environ.get("SBS_LLM_QUESTIONS", "100"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="needs llama.cpp and a model: make test-llm"),
]


@pytest.fixture(scope="module")
def base_url():
    command = [PYTHON, str(SERVE), "--threads=1", "--slots=4"]
    # llama.cpp's log would fill a pipe that nobody reads.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            yield server.stdout.readline().decode().strip() + "/v1"
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Task -> its file of training questions."""
    folder = tmp_path_factory.mktemp("questions")
    shared = pathlib.Path(os.environ.get("SBS_SHARED", SERVE.parents[2] / "shared"))
    if (shared / "data" / "release").is_dir():
        release = Release(str(shared / "data" / "release"), folder)
        read = {task: release.records(task, "train") for task in ("cqa", "svamp")}
    else:
        read = {"demo": iter(demo.questions("train"))}
    files = {}
    for task, records in read.items():
        files[task] = folder / f"{task}.jsonl"
        asked = (next(records) for _ in range(COUNT))
        write_jsonl(files[task], (Record(r.id, r.input, r.label) for r in asked))
    return files


def annotate(base_url, out, task, path, *flags):
    common = [f"--base_url={base_url}", "--model=smollm2", "--concurrency=4", "--timeout=600"]
    asked = ["--max_tokens=80", f"--task={task}", f"--input={path}", f"--out={out}"]
    assert main(["annotate", *common, *asked, *flags]) == 0
    return json.loads((out / "parse_report.json").read_text())


@pytest.fixture(scope="module", params=["chat", "completions"])
def annotated(request, base_url, questions, tmp_path_factory):
    """Task -> the folder of its answers through one API."""
    root = tmp_path_factory.mktemp(request.param)
    for task, path in questions.items():
        report = annotate(base_url, root / task, task, path, f"--api={request.param}")
        print(f"{task} {request.param}: {report['outcomes']}")
        assert report["completions"] == COUNT and report["unanswered"] == 0
    return {task: root / task for task in questions}


def test_most_completions_are_read_and_none_asked_twice(annotated, questions):
    for task, out in annotated.items():
        records = list(read_jsonl(out / f"{task}.jsonl"))
        assert [r.id for r in records] == [r.id for r in read_jsonl(questions[task])]
        # The least that was measured is .65 (docs/annotate.md).
        assert sum(bool((r.llm_label or "").strip()) for r in records) > 0.5 * COUNT
        rows = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
        assert len(rows) == len({row["key"] for row in rows}) == COUNT
        assert all(row["usage"]["completion_tokens"] <= 80 for row in rows)


def test_a_student_of_these_answers_reaches_the_report_and_selects(
    annotated, base_url, questions, tmp_path
):
    """The student's least sure questions, and as many at random, are asked of the same server."""
    task, out = next(iter(annotated.items()))
    folder = tmp_path / "data"
    records = list(read_jsonl(out / f"{task}.jsonl"))
    held = max(2, COUNT // 10)
    for split, part in (
        ("train", records[2 * held :]),
        ("validation", records[:held]),
        ("test", records[held : 2 * held]),
    ):
        write_jsonl(folder / f"{split}.jsonl", part)
    name = f"llm_{task}_{out.parent.name}".rstrip("0123456789")
    (tmp_path / f"{name}_tasks.py").write_text(
        "from sbs_jax.datasets import add_dataset\n"
        f"add_dataset({name!r}, records={str(folder)!r}, vocabulary='bytes')\n"
    )
    (tmp_path / "own.gin").write_text(
        f"include 'experiments/demo_step_by_step.gin'\nimport {name}_tasks\n"
        f"MIXTURE_OR_TASK_NAME = '{name}_step_by_step'\nVOCABULARY = 'bytes'\nVOCAB_SIZE = 384\n"
        "TASK_FEATURE_LENGTHS = {'inputs': 320, 'targets': 96}\nTRAIN_STEPS = 20\n"
        "EVAL_PERIOD = 20\nBATCH_SIZE = 8\n"
    )
    run = tmp_path / "run"
    sys.path.insert(0, str(tmp_path))
    try:
        gin = ["--gin_file=own.gin", f"--gin_search_paths={tmp_path}", f"--gin.MODEL_DIR='{run}'"]
        assert main(["train", *gin]) == 0
        assert main(["report", f"--out={tmp_path / 'report'}", f"--runs={run}"]) == 0
        select = ["--select=uncertain", f"--student={run}", "--budget=4"]
        annotate(base_url, tmp_path / "selected", task, questions[task], *select)
    finally:
        sys.path.remove(str(tmp_path))
    arms = {
        arm: list(read_jsonl(tmp_path / "selected" / arm / f"{task}.jsonl"))
        for arm in ("uncertain", "random")
    }
    asked = (tmp_path / "selected" / "journal.jsonl").read_text().splitlines()
    assert {arm: len(records) for arm, records in arms.items()} == {"uncertain": 4, "random": 4}
    assert len(asked) == len({record.id for records in arms.values() for record in records})
    text = (tmp_path / "report" / page.PAGE).read_text()
    assert name in text and "teacher" in text.casefold()


def test_a_schema_is_obeyed(base_url, questions, tmp_path):
    task, path = next(iter(questions.items()))
    out = tmp_path / "structured"
    report = annotate(base_url, out, task, path, "--structured", "--limit=10")
    rows = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    whole = [row["text"] for row in rows if row["finish_reason"] == "stop"]
    answers = [json.loads(text) for text in whole]
    assert all(answer.keys() == {"rationale", "answer"} for answer in answers)
    assert report["outcomes"].get("json", 0) >= len(whole)
