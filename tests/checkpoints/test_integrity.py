"""Checksums of a checkpoint: a changed, shortened or missing file is named, whoever reads it."""

import json

import pytest

from sbs_jax.checkpoints import integrity

CHUNK = 2**22
FILES = {"state/a": b"abc", "state/b": b"", "state/d/c": bytes(CHUNK) + b"end", "extra/e": b"{}"}


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "stamp").write_text("left out")
    integrity.write(tmp_path)
    return tmp_path


def test_what_is_whole_is_sound(folder):
    assert integrity.recorded(folder) and integrity.damage(folder) is None
    sums = json.loads((folder / "checksums.json").read_text())
    assert {name: size for name, (size, _) in sums.items()} == {n: len(c) for n, c in FILES.items()}
    (folder / "stamp").write_text("Orbax writes here later")
    assert integrity.damage(folder) is None


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_read(folder, name):
    path = folder / name
    path.write_bytes(FILES[name] + b"x")
    more = f"{name} has {len(FILES[name]) + 1} bytes instead of {len(FILES[name])}"
    assert integrity.damage(folder) == more
    path.write_bytes(FILES[name][:-1] + b"x")
    assert integrity.damage(folder).startswith(f"{name} has ")
    path.unlink()
    assert integrity.damage(folder) == f"{name}: No such file or directory"


@pytest.mark.parametrize("shares", [1, 2, 3, 5])
def test_hosts_that_divide_the_reading_leave_no_file_out(folder, shares):
    for name in FILES:
        (folder / name).write_bytes(b"changed")
    found = {integrity.damage(folder, share, shares) for share in range(shares)}
    assert {text.split()[0] for text in found if text} <= set(FILES)
    assert len(found - {None}) == min(shares, len(FILES))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state/a": 3}', '{"state/a": [1, 2, 3]}'])
def test_checksums_that_cannot_be_read(folder, text):
    (folder / "checksums.json").write_text(text)
    assert integrity.damage(folder) == "checksums.json cannot be read"
    (folder / "checksums.json").unlink()
    assert not integrity.recorded(folder)
