"""The wheel: what it installs, and that it runs away from the checkout."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = sorted((ROOT / "requirements").glob("constraints-*.txt"))
# Their versions depend on the machine, or on the service that a user has an account with.
UNLOCKED_EXTRAS = {"tpu", "cuda12", "cuda13", "wandb", "mlflow"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path, warnings = _build(tmp_path_factory.mktemp("source"))
    assert "would be ignored" not in warnings, warnings
    return path


def _build(source: pathlib.Path) -> tuple[pathlib.Path, str]:
    """Built by the backend itself, from a copy: no network, nothing left in the checkout."""
    for name in ("sbs_jax", "gin", "tasks", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    built = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = (source / "dist").glob("*.whl")
    return path, built.stderr


@pytest.fixture(scope="module")
def installed(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The wheel unpacked, as in a site-packages folder."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def _sources() -> set[str]:
    """Every file a user needs, under the name it has in the wheel."""
    names = set()
    for folder, prefix, pattern in (
        ("sbs_jax", "sbs_jax", "*"),
        ("tasks", "sbs_jax/tasks", "*.py"),
        ("gin", "sbs_jax/gin", "*.gin"),
    ):
        for path in (ROOT / folder).rglob(pattern):
            if path.is_file() and "__pycache__" not in path.parts:
                names.add(f"{prefix}/{path.relative_to(ROOT / folder).as_posix()}")
    return names


def test_the_wheel_holds_our_package_and_nothing_else(wheel: pathlib.Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == _sources()
    assert {name.partition("/")[0] for name in held} == {"sbs_jax"}


@pytest.mark.slow
def test_two_builds_of_one_commit_are_equal(tmp_path_factory, monkeypatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first, second = (_build(tmp_path_factory.mktemp("source"))[0] for _ in range(2))
    assert first.read_bytes() == second.read_bytes()


def test_the_wheel_installs_the_command(installed: pathlib.Path) -> None:
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "sbs = sbs_jax.cli.main:main" in entry_points.read_text()


def test_the_wheel_runs_from_any_directory(installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    code = (
        "import sbs_jax.tasks; from sbs_jax.utils import paths; "
        "print(sbs_jax.tasks.__file__, paths.gin_dir(), paths.asset('demo.model'), sep='\\n')"
    )
    answer = _run(installed, tmp_path, "-c", code)
    assert [line.startswith(str(installed)) for line in answer.splitlines()] == [True] * 3, answer


def test_a_packaged_experiment_resolves_in_the_wheel(
    installed: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    flags = ["--gin_file=experiments/demo_step_by_step.gin", "--gin.MODEL_DIR='run'", "--dry_run"]
    answer = _run(installed, tmp_path, "-m", "sbs_jax", "train", *flags)
    read = re.findall(r"^# (/\S+\.gin)$", answer, re.MULTILINE)
    assert read and all(name.startswith(str(installed)) for name in read), answer


def _run(installed: pathlib.Path, cwd: pathlib.Path, *args: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    answer = subprocess.run(
        [sys.executable, *args], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.parametrize("path", CONSTRAINTS, ids=lambda path: path.stem)
def test_constraints_pin_every_dependency(path: pathlib.Path) -> None:
    lines = path.read_text().splitlines()
    pins = dict(re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups() for line in lines)
    versions = {_normal(name): version for name, version in pins.items()}
    wanted = list(PROJECT["dependencies"])
    for extra, requirements in PROJECT["optional-dependencies"].items():
        wanted += [] if extra in UNLOCKED_EXTRAS else requirements
    for requirement in map(Requirement, wanted):
        assert versions[_normal(requirement.name)] in requirement.specifier, requirement


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_supported_python_has_constraints() -> None:
    supported = {
        classifier.rpartition(" ")[2].replace(".", "")
        for classifier in PROJECT["classifiers"]
        if re.search(r"Python :: 3\.\d+$", classifier)
    }
    assert {path.stem.removeprefix("constraints-py") for path in CONSTRAINTS} == supported


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_help_lists_the_targets() -> None:
    answer = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = {line.split()[1] for line in answer.stdout.splitlines()}
    assert {"help", "setup", "demo", "test", "lint", "bench"} <= listed
