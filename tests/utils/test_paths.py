"""Paths as users write them, and the folder for caches."""

import os
import pathlib
import subprocess
import sys

import pytest

from sbs_jax.errors import UserError
from sbs_jax.utils import paths


@pytest.fixture
def home(monkeypatch, tmp_path) -> pathlib.Path:
    """A home folder, with nothing else that chooses a folder."""
    for name in ("XDG_CACHE_HOME", "SBS_CACHE_DIR", "SBS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    paths._temporary.cache_clear()
    return tmp_path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("~/a", "{home}/a"),
        ("~", "{home}"),
        ("$ROOT/a", "/root-of-all/a"),
        ("${ROOT}/a", "/root-of-all/a"),
        ("~/$NAME.gin", "{home}/runs.gin"),
        ("a/~/b", "a/~/b"),
        ("gs://bucket/$NAME/x", "gs://bucket/runs/x"),
        ("https://host/a$b", "https://host/a$b"),
        ("hf://google/t5-v1_1-small", "hf://google/t5-v1_1-small"),
        ("t5", "t5"),
        ("-", "-"),
        ("costs$5", "costs$5"),  # an existing file of this name
    ],
)
def test_expand(home, monkeypatch, given, expected):
    monkeypatch.setenv("ROOT", "/root-of-all")
    monkeypatch.setenv("NAME", "runs")
    (home / "costs$5").touch()
    assert paths.expand(given) == expected.format(home=home)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("$NOT_SET/a", "the variable $NOT_SET is not set"),
        ("a/${NOT_SET}", "the variable $NOT_SET is not set"),
        ("~nobody-of-this-name/a", "~nobody-of-this-name has no home folder here"),
    ],
)
def test_expand_refuses_what_it_cannot_know(home, monkeypatch, given, message):
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(UserError) as error:
        paths.expand(given)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "given",
    ["gs://bucket/x", "gs:/bucket/x", "s3://bucket/x", "file:///x", "hf://a/b", "https://a/b"],
)
def test_local_refuses_addresses(home, given):
    with pytest.raises(UserError, match="not a local path"):
        paths.local(given)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("given", ["a:b/c", "runs/gs:/x", "/abs", "12:30/run"])
def test_local_accepts_colons_in_names(given):
    assert paths.local(given) == given


def test_the_cache_is_chosen_in_this_order(home, monkeypatch):
    assert paths.cache_home() == home / ".cache" / "sbs_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "xdg"))
    assert paths.cache_home() == home / "xdg" / "sbs_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says its specification
    assert paths.cache_home() == home / ".cache" / "sbs_jax"
    monkeypatch.setenv("SBS_CACHE_DIR", "~/chosen")
    assert paths.cache_home() == home / "chosen"
    paths.set_cache_dir(home / "flag")
    assert paths.cache_home() == home / "flag"


def test_data_of_before_xdg_are_found(home, monkeypatch):
    (home / ".cache/sbs_jax/data").mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "xdg"))
    assert paths.data_dir() == home / ".cache/sbs_jax/data"
    (home / "xdg/sbs_jax/data").mkdir(parents=True)
    assert paths.data_dir() == home / "xdg/sbs_jax/data"


def test_a_chosen_cache_holds_the_data(home, monkeypatch):
    (home / ".cache/sbs_jax/data").mkdir(parents=True)
    monkeypatch.setenv("SBS_CACHE_DIR", "~/chosen")
    assert paths.data_dir() == home / "chosen/data"
    assert paths.data_address() == str(home / ".cache/sbs_jax/data")  # written before
    paths.set_cache_dir(home / "flag")
    paths.data_dir().mkdir(parents=True)
    assert paths.data_address() == str(home / "flag/data")


@pytest.mark.parametrize("broken", ["file", "none"])
def test_without_a_home_the_cache_is_temporary(home, monkeypatch, capsys, broken):
    monkeypatch.setattr("tempfile.tempdir", str(home))
    if broken == "file":
        (home / "a-file").touch()
        monkeypatch.setenv("HOME", str(home / "a-file"))
    else:

        def no_home() -> pathlib.Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(pathlib.Path, "home", staticmethod(no_home))
    folder = paths.cache_home()
    assert folder == home / f"sbs_jax-{os.getuid()}"
    assert folder.stat().st_mode & 0o077 == 0
    said = capsys.readouterr().err
    assert str(folder) in said and "--cache_dir or $SBS_CACHE_DIR" in said
    paths.cache_home()
    assert capsys.readouterr().err == ""


def test_a_temporary_folder_of_somebody_else_is_not_used(home, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(home))
    (home / f"sbs_jax-{os.getuid()}").mkdir(mode=0o777)
    (home / f"sbs_jax-{os.getuid()}").chmod(0o777)
    (home / "a-file").touch()
    monkeypatch.setenv("HOME", str(home / "a-file"))
    folder = paths.cache_home()
    assert folder.name.startswith("sbs_jax-") and folder.name != f"sbs_jax-{os.getuid()}"
    assert folder.stat().st_mode & 0o077 == 0


def test_a_chosen_cache_that_cannot_be_written_is_an_error(home, monkeypatch):
    (home / "a-file").touch()
    monkeypatch.setenv("SBS_CACHE_DIR", str(home / "a-file"))
    with pytest.raises(UserError, match=r"a-file: .* choose another with --cache_dir or \$SBS_C"):
        paths.cache_home()


def test_every_os_error_is_one_line():
    """Of any verb, here of one that reads a folder where it expects a file."""
    answer = subprocess.run(
        [sys.executable, "-m", "sbs_jax", "predict", "--model_dir=/dev/null", "--input=-"],
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 2
    assert answer.stderr.startswith("sbs: error: /dev/null") and answer.stderr.count("\n") == 1
