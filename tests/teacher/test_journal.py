"""The journal: nothing that was answered is lost, whatever happens to process, disk or file."""

import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_jax.errors import UserError
from sbs_jax.teacher import folder_settings as folder_settings
from sbs_jax.teacher import journal


def row(key, text="text"):
    return {"key": key, "text": text, "usage": {}}


def write(folder, *rows, name=journal.NAME):
    with journal.writing(folder, name) as written:
        written.add(rows)


def test_rows_come_back(tmp_path):
    write(tmp_path, row("a", "one"), row("b", "two\nlines \ud800 \u2028 é"))
    write(tmp_path, row("c"))
    with journal.Journal(tmp_path) as read:
        texts = [read.get(key)["text"] for key in "abc"]
        assert texts == ["one", "two\nlines \ud800 \u2028 é", "text"]
        assert (len(read), "a" in read, "d" in read, read.get("d")) == (3, True, False, None)


def test_what_is_added_can_be_read_at_once(tmp_path):
    with journal.writing(tmp_path) as written:
        written.add([row("a", "one")])
        assert written.get("a")["text"] == "one"
        written.add([row("b", "two")])
        assert written.get("b")["text"] == "two"


TEXTS = st.lists(st.text(max_size=30), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(texts=TEXTS, cut=st.integers(0, 10_000), more=st.text(max_size=10))
def test_a_journal_cut_anywhere_keeps_its_whole_rows(texts, cut, more):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, *(row(str(i), text) for i, text in enumerate(texts)))
        path = pathlib.Path(folder, journal.NAME)
        whole = path.read_bytes()
        kept = whole[: cut % (len(whole) + 1)]
        path.write_bytes(kept)
        # A row whose line break alone is missing is whole as well.
        ends = [end.end() - 1 for end in re.finditer(b"\n", whole)]
        survivors = sum(end <= len(kept) for end in ends)
        write(folder, row("new", more))
        with journal.Journal(folder) as read:
            assert [read.get(str(i))["text"] for i in range(survivors)] == texts[:survivors]
            assert read.get("new")["text"] == more
            assert len(read) == survivors + 1 and read.unreadable == 0


def test_a_row_that_lacks_only_its_line_break_is_kept(tmp_path):
    write(tmp_path, row("a", "one"))
    path = tmp_path / journal.NAME
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    write(tmp_path, row("b", "two"))
    with journal.Journal(tmp_path) as read:
        assert (read.get("a")["text"], read.get("b")["text"]) == ("one", "two")


@settings(max_examples=60, deadline=None)
@given(junk=st.binary(max_size=60))
def test_junk_in_the_file_is_skipped(junk):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, row("a", "one"))
        with pathlib.Path(folder, journal.NAME).open("ab") as file:
            file.write(junk + b"\n")
        write(folder, row("b", "two"))
        with journal.Journal(folder) as read:
            assert (read.get("a")["text"], read.get("b")["text"], len(read)) == ("one", "two", 2)


@pytest.mark.parametrize(
    "line", [b"{", b"[1]", b'{"key": 1, "text": "x"}', b'{"key": "a"}', b"\xff", b'{"a":' * 5000]
)
def test_unreadable_lines_are_counted(tmp_path, line):
    (tmp_path / journal.NAME).write_bytes(line + b"\n" + b'{"key": "b", "text": "x"}\n\n')
    read = journal.Journal(tmp_path)
    assert (len(read), read.unreadable) == (1, 1)


def test_several_journals_are_one(tmp_path):
    write(tmp_path, row("a", "first"), name="journal-0-of-2.jsonl")
    write(tmp_path, row("a", "second"), row("b"), name="journal-1-of-2.jsonl")
    with journal.Journal(tmp_path) as read:
        assert (len(read), read.get("a")["text"]) == (2, "first")


def test_two_writers_are_refused(tmp_path):
    code = (
        "import sys; from sbs_jax.teacher import journal\n"
        "with journal.writing(sys.argv[1]): print('in', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "in\n"
        with (
            pytest.raises(UserError, match=rf"another annotate run \(process {other.pid}\)"),
            journal.writing(tmp_path),
        ):
            pass
        with journal.writing(tmp_path, "journal-0-of-2.jsonl"):
            pass  # a shard's file is its own
        other.communicate()
    write(tmp_path, row("a"))  # the lock went with its process


def test_a_full_disk_leaves_whole_lines(tmp_path):
    """The limit on a file's size stands in for the disk's: the write fails half-way."""
    code = """
import resource, signal, sys
from sbs_jax.errors import UserError
from sbs_jax.teacher import journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with journal.writing(sys.argv[1]) as written:
    written.add([{"key": "a", "text": "x" * 500}])
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        written.add([{"key": "b", "text": "x" * 800}])
    except UserError as error:
        print(error)
"""
    assert resource.RLIMIT_FSIZE  # the platform has such a limit
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "journal.jsonl: cannot be written (File too large); make room" in done.stdout
    lines = (tmp_path / journal.NAME).read_bytes()
    assert lines.count(b"\n") == 1 and lines.endswith(b"}\n")
    write(tmp_path, row("b"))
    assert len(journal.Journal(tmp_path)) == 2


def test_settings_are_claimed_once(tmp_path):
    settings = {"model": "a", "temperature": 0.0, "exemplars": [1, 2, 3]}
    folder_settings.claim(tmp_path, settings)
    folder_settings.claim(tmp_path, dict(settings))
    with pytest.raises(UserError) as raised:
        folder_settings.claim(tmp_path, settings | {"temperature": 0.7, "exemplars": [1, 5, 3]})
    assert "made with other settings: temperature was 0.0, now 0.7; exemplars (number 2" in str(
        raised.value
    )
    assert json.loads((tmp_path / folder_settings.NAME).read_text()) == settings
    assert os.listdir(tmp_path) == [folder_settings.NAME]


OLD_LINES = [
    ({"text": [{"type": "text", "text": "a"}], "finish_reason": "stop"}, "a"),  # content as parts
    ({"text": "a", "finish_reason": {"type": "stop"}}, "a"),
    ({"text": "a", "finish_reason": None}, "a"),
    ({"text": "", "finish_reason": "length"}, ""),
    ({"text": "", "finish_reason": "stop"}, None),
    ({"text": " \n", "finish_reason": None}, None),
    ({"text": "half", "finish_reason": "error"}, None),
    ({"text": "half", "finish_reason": "content_filter"}, None),
    ({"text": 7, "finish_reason": "stop"}, None),
]


@pytest.mark.parametrize(("line", "text"), OLD_LINES)
def test_lines_of_earlier_versions(tmp_path, line, text):
    row = {"key": "k-0", "params": {}} | line
    (tmp_path / "journal.jsonl").write_text(json.dumps(row) + "\n")
    with journal.Journal(tmp_path) as lines:
        assert ("k-0" in lines) == (text is not None)
        assert text is None or lines.get("k-0")["text"] == text
    imported = {name: value for name, value in row.items() if name != "params"}
    if isinstance(line["text"], str):  # an imported completion stays what it is
        (tmp_path / "journal.jsonl").write_text(json.dumps(imported) + "\n")
        with journal.Journal(tmp_path) as lines:
            assert "k-0" in lines
