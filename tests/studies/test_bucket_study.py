"""A study whose STUDY_DIR is in a bucket: what lies there, killed, shared, refused."""

import contextlib
import functools
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import pytest
from helpers import xla
from helpers.cloud_storage import Refused
from helpers.runs import config_of

from sbs_jax.cli import main
from sbs_jax.reporting import study_files
from sbs_jax.reporting.study_files import StudyTexts
from sbs_jax.studies import runner, workers
from sbs_jax.studies.cells import Run, cell_dir
from sbs_jax.studies.runner import Study
from sbs_jax.utils.buckets import place

BINDINGS = [
    "TRAIN_STEPS = 4",
    "EVAL_PERIOD = 2",
    "EVALUATOR_NUM_EXAMPLES = 20",
    "OUTPUT_RATIONALE = False",
    "T5Config.num_encoder_layers = 1",
    "T5Config.num_decoder_layers = 1",
    "TrainConfig.max_decode_length = 2",
]
RUNS = ("standard-5pct-seed0", "step_by_step-5pct-seed0")


def command(name: str, **fields: object) -> list[str]:
    """`sbs study` of two small runs in the bucket, one after the other; fields of StudyConfig."""
    given = {"fractions": (0.05,), "seeds": (0,), "workers": 1, "bindings": BINDINGS, **fields}
    flags = [f"--gin.StudyConfig.{field}={value!r}" for field, value in given.items()]
    address = f"--gin.STUDY_DIR='gs://runs/{name}'"
    return ["study", "--gin_file=studies/demo.gin", address, *flags]


def read_rows(name: str) -> list[dict]:
    lines = (place(f"gs://runs/{name}") / study_files.STUDY_ROWS).read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory, cloud_storage):
    """A working directory, which stays empty, and a cache folder."""
    here, cache = (tmp_path_factory.mktemp(name) for name in ("here", "cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setenv("SBS_CACHE_DIR", str(cache))
        yield cache
        assert list(here.iterdir()) == []


@pytest.fixture(scope="module")
def study(elsewhere):
    """The name of a study that has run."""
    assert main(command("whole")) == 0
    return "whole"


@pytest.mark.slow
def test_everything_lies_in_the_bucket(study, cloud_storage, elsewhere):
    names = {name.removeprefix(f"{study}/") for name in cloud_storage.names(f"{study}/")}
    reports = {"report.html", "results.md", "results.json"}
    assert {study_files.STUDY_TEXTS, study_files.STUDY_ROWS, *reports} <= names
    assert [name for name in names if re.fullmatch(r"\w+\.png", name)]
    for run in RUNS:
        assert {f"runs/{run}/{file}" for file in ("run.json", "results.json")} <= names
        assert [name for name in names if name.startswith(f"runs/{run}/checkpoints/4/")]
    assert not [name for name in names if name.endswith(("lock.json", ".tmp", ".alive"))]
    rows = read_rows(study)
    assert [(row["model_dir"], row["n"]) for row in rows] == [(f"runs/{run}", 20) for run in RUNS]
    (log,) = elsewhere.glob("studies/whole-*/logs/worker-0.log")
    copy = cloud_storage.objects[f"{study}/logs/{socket.gethostname()}/worker-0.log"]
    assert copy.data == log.read_bytes() and copy.data.count(b"== gs://runs/whole/runs/") == 2


@pytest.mark.slow
def test_the_same_command_finds_it_finished(study, cloud_storage, capsys):
    results = [f"{study}/runs/{run}/results.json" for run in RUNS]
    before = [cloud_storage.objects[name].generation for name in results]
    assert main(command(study)) == 0
    printed = capsys.readouterr()
    assert "2 of 2 runs are finished already" in printed.err
    assert "step-by-step minus standard" in printed.out
    assert [cloud_storage.objects[name].generation for name in results] == before


@pytest.mark.slow
def test_another_study_is_refused_there(study, capsys):
    assert main(command(study, bindings=[*BINDINGS, "LEARNING_RATE = 0.5"])) == 2
    said = capsys.readouterr().err
    assert "gs://runs/whole/study.jsonl:1: standard, fraction 0.05, seed 0 was run with" in said
    assert "optimizer was" in said and len(said.splitlines()) == 1


@pytest.mark.slow
def test_values_are_chosen_and_the_least_data_looked_for(elsewhere, capsys):
    """Two tries, then the first look of a search, which ends it: one seed gives no reading."""
    given = command(
        "chosen",
        arms={"standard": "experiments/demo_finetune.gin"},
        choices={"LEARNING_RATE": (1e-9, 3e-3)},
        fractions=(0.025, 0.05),
        search=True,
    )
    assert main(given) == 0
    text = capsys.readouterr().out
    assert "the same 2 tries for every arm: standard: LEARNING_RATE = " in text
    tried = [row for row in read_rows("chosen/choices") if "error" not in row]
    assert [row["arm"] for row in tried] == ["standard-try0", "standard-try1"]
    assert [row["fraction"] for row in read_rows("chosen")] == [0.05]
    (path,) = study_files.read_study(place("gs://runs/chosen")).texts.search
    assert "Search, standard: 5% no reading: one seed" in path
    assert main([*given, "--dry_run"]) == 0
    assert "measured in 1 rows" in capsys.readouterr().out


def test_a_failed_run_is_a_row_and_its_log_is_copied(elsewhere, cloud_storage, capsys):
    folder = place("gs://runs/failed")
    broken = functools.partial(int, "no number")
    runs = [Run("standard", config_of(cell_dir(folder, "standard", 1.0, 0)))]
    made = Study(folder, runs, StudyTexts(), broken, 1, workers.ONE_CPU_THREAD)
    ((_, reason),) = runner.run(made)
    assert reason.startswith("ValueError: invalid literal")
    (row,) = read_rows("failed")
    assert (row["error"], row["tries"]) == (reason, 1)
    (name,) = cloud_storage.names("failed/logs/")
    assert cloud_storage.objects[name].data.count(b"Traceback") == 2
    assert f"{elsewhere}/studies/failed-" in capsys.readouterr().err, "the user is told where"


def test_compiled_programs_are_kept_on_this_machine(elsewhere, cloud_storage, monkeypatch):
    name, folder = "JAX_COMPILATION_CACHE_DIR", place("gs://runs/compiled")
    monkeypatch.setenv(name, "mine")
    assert runner.environment(folder, one_cpu_thread=False)[name] == "mine"
    monkeypatch.delenv(name)
    kept_in = runner.environment(folder, one_cpu_thread=False)[name]
    assert kept_in == str(elsewhere / "compiled")


def start(given: list[str]) -> subprocess.Popen:
    root = str(pathlib.Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "XLA_FLAGS": xla.flags(devices=1)}
    started = [sys.executable, "-m", "sbs_jax", *given]
    return subprocess.Popen(started, env=environment, stderr=subprocess.PIPE, text=True)


def kill_at(given: list[str], server, request: str) -> None:
    """Kills a study and its worker as it makes a request, which is not carried out."""

    def before(method: str, name: str, body: bytes) -> None:
        if re.fullmatch(request, f"{method} {name}"):
            children = pathlib.Path(f"/proc/{study.pid}/task/{study.pid}/children")
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for process in (study.pid, *map(int, children.read_text().split())):
                    os.kill(process, signal.SIGKILL)
            raise Refused(503)

    with start(given) as study:
        server.before = before
        try:
            said = study.communicate(timeout=240)[1]
        finally:
            server.before = lambda method, name, body: None
    assert study.returncode == -signal.SIGKILL, said


@pytest.mark.slow
def test_a_killed_study_continues(elsewhere, cloud_storage):
    """In the second run, amid the second checkpoint: that run continues, the first is left."""
    one, other = RUNS
    kill_at(command("killed"), cloud_storage, rf"PUT killed/runs/{other}/checkpoints/4/state/\S+")
    assert [row["model_dir"] for row in read_rows("killed")] == [f"runs/{one}"]
    assert "killed/lock.json" in cloud_storage.objects
    finished = cloud_storage.objects[f"killed/runs/{one}/results.json"]
    with start(command("killed")) as study:
        said = study.communicate(timeout=240)[1]
    assert study.returncode == 0, said
    assert "1 of 2 runs are finished already" in said and "[2/2] step-by-step" in said
    assert [row["model_dir"] for row in read_rows("killed")] == [f"runs/{run}" for run in RUNS]
    assert cloud_storage.objects[f"killed/runs/{one}/results.json"] == finished
    (name,) = cloud_storage.names("killed/logs/")
    assert b"continues from step 2 of gs://" in cloud_storage.objects[name].data
    assert not [name for name in cloud_storage.names("killed/") if name.endswith("lock.json")]


@pytest.mark.slow
def test_two_machines_share_a_study(elsewhere, cloud_storage):
    """One is killed in its first run; two others take over what it had, and share the rest."""
    given = command("shared", shared=True)
    kill_at(given, cloud_storage, rf"PUT shared/runs/{RUNS[0]}/checkpoints/2/state/\S+")
    (sign,) = [name for name in cloud_storage.names("shared/claims/") if name.endswith(".alive")]
    assert f"shared/claims/runs-{RUNS[0]}.0" in cloud_storage.objects
    old = cloud_storage.objects[sign]._replace(updated=0.0)  # five minutes are over
    cloud_storage.objects[sign] = old
    with start(given) as one, start(given) as other:
        said = [process.communicate(timeout=240)[1] for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0), said
    assert sorted(row["model_dir"] for row in read_rows("shared")) == [f"runs/{r}" for r in RUNS]
    assert not any("error" in row for row in read_rows("shared"))
    done = [re.findall(r"\[\d/2\] (.+?, seed \d)", text) for text in said]
    assert len({*done[0], *done[1]}) == len(done[0]) + len(done[1]) == 2
    claims = set(cloud_storage.names("shared/claims/")) - {sign}
    assert not any(cloud_storage.objects[name].data for name in claims), "all claims are given up"
    assert len({name.split("/")[2] for name in cloud_storage.names("shared/logs/")}) == 2


def test_a_study_in_a_bucket_may_be_looked_at_first(elsewhere, cloud_storage, capsys):
    assert main([*command("looked"), "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("2 runs in gs://runs/looked, 1 at a time\n")
    assert f"gs://runs/looked/runs/{RUNS[0]}  demo_finetune: 4 updates" in printed
    assert cloud_storage.names("looked") == []


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://runs/x", "STUDY_DIR s3://runs/x: only local folders and gs:// work here"),
        ("gs://runs", "STUDY_DIR gs://runs: give bucket and folder, gs://BUCKET/FOLDER"),
    ],
)
def test_what_is_no_folder_of_a_bucket_is_refused(capsys, address, message):
    assert main(["study", "--gin_file=studies/demo.gin", f"--gin.STUDY_DIR='{address}'"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"sbs: error: {message}") and len(said.splitlines()) == 1
