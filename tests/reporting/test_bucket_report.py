"""Reports of what lies in a bucket, and into one: as those of the same files on a disk."""

import pathlib

import pytest
from helpers.studies import random_study

from sbs_jax.cli import main
from sbs_jax.reporting import figures, page, study_files


def upload(server, folder: pathlib.Path, name: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            server.put(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def test_a_report_from_and_into_a_bucket(tmp_path, cloud_storage, monkeypatch, capsys):
    study = random_study(tmp_path / "study", n=40, fractions=(1.0,))
    (study / study_files.STUDY_TEXTS).write_text('{"title": "What the bucket holds"}')
    upload(cloud_storage, study, "reported/study")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    # The study is in the folder that is named.
    assert main(["report", "--runs=gs://runs/reported", "--out=gs://runs/reported/again"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("What the bucket holds\n")
    assert printed.endswith(f"\nwritten: gs://runs/reported/again/{page.PAGE}\n")
    assert list((tmp_path / "here").iterdir()) == []
    names = [name.removeprefix("reported/again/") for name in cloud_storage.names("reported/again")]
    pictures = {f"accuracy.{end}" for end in ("png", "svg", "csv", "json")}
    assert {page.PAGE, page.MARKDOWN, page.NUMBERS, *pictures} <= {*names}
    monkeypatch.setattr(figures, "available", lambda: False)  # most of a report's time
    page.write([study], tmp_path / "local")
    written = cloud_storage.objects[f"reported/again/{page.NUMBERS}"].data
    assert written == (tmp_path / "local" / page.NUMBERS).read_bytes()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://runs/x", "--out s3://runs/x: only local folders and gs:// work here"),
        ("gs://runs", "--out gs://runs: give bucket and folder, gs://BUCKET/FOLDER"),
        ("gs://elsewhere/x", "gs://elsewhere/x"),
    ],
)
def test_an_address_that_cannot_be_written_is_one_line(
    tmp_path, cloud_storage, monkeypatch, capsys, address, message
):
    monkeypatch.setattr(figures, "available", lambda: False)
    study = random_study(tmp_path / "study", n=40, fractions=(1.0,))
    assert main(["report", f"--runs={study}", f"--out={address}"]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1
