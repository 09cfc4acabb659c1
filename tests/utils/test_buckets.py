"""Files and locks of a bucket, against a server on this machine."""

import concurrent.futures
import gzip
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from helpers.cloud_storage import Refused

from sbs_jax.errors import UserError
from sbs_jax.utils import bucket_lock, buckets, files, jsonl
from sbs_jax.utils.buckets import place


@pytest.fixture
def folder(cloud_storage, request):
    """An address of its own for each test."""
    return f"gs://runs/{request.node.name}"


def name_of(address):
    return address.removeprefix("gs://runs/")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(bucket_lock, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(bucket_lock, "EXPIRE_SECONDS", 0.6)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://runs/x", "s3://runs/x: only local folders and gs://"),
        ("gs:/runs/x", "gs:/runs/x: only local folders and gs://"),
        ("gs://runs", "gs://BUCKET/FOLDER"),
        ("gs:///x", "gs://BUCKET/FOLDER"),
    ],
)
def test_what_is_no_folder_of_a_bucket_is_refused(address, message):
    with pytest.raises(UserError, match="^MODEL_DIR .*" + message):
        buckets.require(address, "MODEL_DIR")


def test_without_gcsfs_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(buckets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"MODEL_DIR gs://runs/x: needs gcsfs; run: pip install"):
        buckets.require("gs://runs/x", "MODEL_DIR")
    assert buckets.require("runs/x", "MODEL_DIR") is None


def test_an_object_is_complete_or_absent(cloud_storage, folder):
    path = place(folder) / "results.json"
    with pytest.raises(KeyError), files.atomic_writer(path) as file:
        file.write("half")
        raise KeyError
    assert not path.exists()
    files.write_lines(path, ["ä\n", "b\n"])
    assert cloud_storage.objects[f"{name_of(folder)}/results.json"].data == "ä\nb\n".encode()
    assert cloud_storage.names(name_of(folder)) == [f"{name_of(folder)}/results.json"]
    assert path.read_text(encoding="utf-8") == "ä\nb\n"


def test_one_of_many_creates_an_object(cloud_storage, folder, monkeypatch):
    """All have seen that it is not there before the first writes it."""
    together = threading.Barrier(6)
    monkeypatch.setattr(
        cloud_storage, "before", lambda method, *_: together.wait(10) if method == "PUT" else None
    )
    path = place(folder) / "claim"

    def creates(content: str) -> bool:
        try:
            with files.atomic_writer(path, overwrite=False) as file:
                file.write(content)
        except FileExistsError:
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        created = list(pool.map(creates, "abcdef"))
    monkeypatch.undo()
    assert sum(created) == 1
    assert path.read_text() == "abcdef"[created.index(True)]
    assert not creates("g") and path.read_text() != "g", "later ones are refused"


def test_an_object_is_read_as_it_was_at_one_moment(cloud_storage, folder, monkeypatch):
    """Another process writes it anew after the first request of a reader."""
    name, long = f"{name_of(folder)}/study.jsonl", b'{"a": 1}\n{"a": 2}\n'
    cloud_storage.put(name, b'{"a": 7}\n')
    asked = []

    def before(method, of, body):
        if (method, of) == ("GET", name):
            asked.append(of)
            if len(asked) > 1:
                cloud_storage.put(name, long)

    monkeypatch.setattr(cloud_storage, "before", before)
    whole = ([{"a": 7}], [{"a": 1}, {"a": 2}])
    assert [row for _, row in jsonl.objects(place(folder) / "study.jsonl")] in whole


def test_a_read_logs_in_no_second_time(cloud_storage, folder, monkeypatch):
    import fsspec

    path = place(folder) / "run.json"
    files.write_bytes(path, b"1")
    clients, open_client = [], fsspec.filesystem

    def noted(*args, **named):
        clients.append(open_client(*args, **named))
        return clients[-1]

    monkeypatch.setattr(fsspec, "filesystem", noted)
    assert buckets.read_bytes(path) == b"1"
    (client,) = clients
    assert client is path._backend.fs(path)


def test_what_another_process_writes_is_seen(cloud_storage, folder):
    path = place(folder) / "run.json"
    assert not path.exists() and list(path.parent.glob("*")) == []
    cloud_storage.put(f"{name_of(folder)}/run.json", b"1")
    assert path.is_file() and [entry.name for entry in path.parent.glob("*")] == ["run.json"]
    cloud_storage.put(f"{name_of(folder)}/run.json", b"22")
    assert path.read_bytes() == b"22"


def test_a_growing_file_is_uploaded_at_flush_and_now_and_then(cloud_storage, folder, monkeypatch):
    name = f"{name_of(folder)}/metrics.jsonl"
    log = files.GrowingFile(place(folder) / "metrics.jsonl", ["old\n"])
    log.append("new\n")
    assert name not in cloud_storage.objects
    log.flush()
    first = cloud_storage.objects[name]
    assert first.data == b"old\nnew\n"
    log.flush()
    assert cloud_storage.objects[name] == first, "nothing new is not uploaded"
    monkeypatch.setattr(files, "_UPLOAD_SECONDS", 0.0)
    log.append("newer\n")
    assert cloud_storage.objects[name].data == b"old\nnew\nnewer\n"


def test_a_growing_local_file_has_each_line_at_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("old\n")
    log = files.GrowingFile(path, ["old\n"])
    log.append("new\n")
    assert path.read_text() == "old\nnew\n"
    log.flush()
    assert path.read_text() == "old\nnew\n"


def test_what_the_store_refuses_is_one_line(cloud_storage):
    with pytest.raises(OSError, match="gs://elsewhere/x") as caught:
        files.write_bytes("gs://elsewhere/x", b"1")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"MODEL_DIR gs://elsewhere/run: the bucket cannot be writ"):
        next(iter(enter(files.locked(place("gs://elsewhere/run"), "MODEL_DIR"))))


def test_a_bucket_that_may_not_be_read_is_one_line(cloud_storage, folder, monkeypatch):
    def refuse(method, name, body):
        raise Refused(403)

    monkeypatch.setattr(cloud_storage, "before", refuse)
    with pytest.raises(UserError, match=f"^MODEL_DIR {folder}: the bucket cannot be read .Forb"):
        buckets.reach(folder, "MODEL_DIR")
    with pytest.raises(OSError, match="Forbidden"):
        place(folder).exists()  # never taken for a missing file


def test_errors_of_clients_are_told_from_ours(cloud_storage):
    from gcsfs.retry import HttpError

    assert buckets.is_client_error(HttpError({"code": 503, "message": "try later"}))
    assert not buckets.is_client_error(ValueError("ours"))


def enter(context):
    with context:
        yield


def test_jsonl_is_read_from_a_bucket(cloud_storage, folder):
    cloud_storage.put(f"{name_of(folder)}/a.jsonl.gz", gzip.compress(b'{"a": 1}\n{"a": 2}\n'))
    rows = list(jsonl.objects(place(folder) / "a.jsonl.gz"))
    assert rows == [(f"{folder}/a.jsonl.gz:{i}", {"a": i}) for i in (1, 2)]


# Locks


def test_a_lock_keeps_others_out_and_leaves_nothing(cloud_storage, folder, quick):
    with files.locked(place(folder), "MODEL_DIR"):
        (name,) = cloud_storage.names(name_of(folder))
        assert json.loads(cloud_storage.objects[name].data)["pid"] == os.getpid()
        with pytest.raises(UserError, match=f"is working there .process {os.getpid()} on"):
            next(iter(enter(files.locked(place(folder), "MODEL_DIR"))))
    assert cloud_storage.names(name_of(folder)) == []
    with files.locked(place(folder), "MODEL_DIR"):
        pass


def dead_lock(cloud_storage, folder, **fields):
    holder = {"holder": "somebody", "host": "far", "pid": 1, "machine": "another", **fields}
    cloud_storage.put(f"{name_of(folder)}/lock.json", json.dumps(holder).encode())


def test_a_lock_that_does_not_change_is_taken_over_after_its_time(
    cloud_storage, folder, quick, capsys
):
    dead_lock(cloud_storage, folder)
    began = time.monotonic()
    with files.locked(place(folder), "MODEL_DIR"):
        assert time.monotonic() - began >= bucket_lock.EXPIRE_SECONDS
    said = capsys.readouterr().err
    assert "locked by process 1 on far; waiting up to 0.6 s" in said and "taking it over" in said


def test_a_killed_process_of_this_machine_is_not_waited_for(cloud_storage, folder):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead_lock(cloud_storage, folder, pid=child.pid, machine=bucket_lock._machine())
    began = time.monotonic()
    with files.locked(place(folder), "MODEL_DIR"):
        assert time.monotonic() - began < 5


def test_one_of_many_that_want_a_dead_lock_gets_it(cloud_storage, folder, quick):
    dead_lock(cloud_storage, folder)
    inside, most, got, refused = [], [], [], []
    begin = threading.Barrier(6)

    def want():
        begin.wait()
        try:
            with files.locked(place(folder), "MODEL_DIR"):
                inside.append(1)
                most.append(len(inside))
                got.append(1)
                time.sleep(1.0)
                inside.pop()
        except UserError:
            refused.append(1)

    threads = [threading.Thread(target=want) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1 and len(refused) == 5 and max(most) == 1


def test_a_lost_answer_to_a_renewal_is_no_lost_lock(cloud_storage, folder, quick):
    lock = bucket_lock._Lock(folder, "MODEL_DIR")
    lock.acquire()
    # The renewal arrives, its answer does not.
    name = f"{name_of(folder)}/lock.json"
    cloud_storage.put(name, cloud_storage.objects[name].data)
    assert lock._write(lock._generation)
    assert cloud_storage.objects[name].generation
    lock.release()
    assert cloud_storage.names(name_of(folder)) == []


HOLD = """
import sys, time
from sbs_jax.utils import bucket_lock, files
from sbs_jax.utils.buckets import place
bucket_lock.RENEW_SECONDS, bucket_lock.GIVE_UP_SECONDS = 0.05, float(sys.argv[2])
bucket_lock._CALL_SECONDS = 0.3
with files.locked(place(sys.argv[1]), "MODEL_DIR"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("cause", ["taken over", "unreachable"])
def test_a_holder_that_lost_its_lock_ends_at_once(cloud_storage, folder, cause):
    environment = os.environ | cloud_storage.variables
    patience = {"taken over": "60", "unreachable": "0.5"}[cause]  # a busy machine writes late
    command = [sys.executable, "-c", HOLD, folder, patience]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as child:
        assert child.stdout.readline() == "held\n"
        if cause == "taken over":
            dead_lock(cloud_storage, folder)
        else:

            def refuse(method, name, body):
                raise Refused(503)

            cloud_storage.before = refuse
        try:
            assert child.wait(30) == 75
            error = child.stderr.read()
        finally:
            cloud_storage.before = lambda method, name, body: None
    words = {"taken over": "took the lock over", "unreachable": "could not be written for 0.5 s"}
    assert f"MODEL_DIR {folder}: " in error and words[cause] in error
    cloud_storage.objects.pop(f"{name_of(folder)}/lock.json")
