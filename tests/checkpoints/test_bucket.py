"""gs:// addresses through TensorStore's own driver, from a bucket on this machine."""

import http.server
import json
import os
import pathlib
import subprocess
import sys
import urllib.parse

import pytest
from helpers import made_checkpoints as made
from helpers.serving import serving

from sbs_jax.checkpoints.formats import hf, t5x

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Bucket(http.server.BaseHTTPRequestHandler):
    """The objects of one bucket by Cloud Storage's JSON API."""

    def do_GET(self):
        path, _, query = self.path.partition("?")
        name = urllib.parse.unquote(path.removeprefix("/storage/v1/b/public-bucket/o/"))
        file = self.server.folder / name
        self.server.asked.append(name)
        if "alt=media" not in query or not file.is_file():
            self.send_error(404)
            return
        data = file.read_bytes()
        if name.endswith(self.server.cut):
            data = data[:-20]
        self.send_response(200)
        self.send_header("x-goog-generation", "1")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def bucket(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    server.folder, server.asked, server.cut = tmp_path / "bucket", [], "never"
    (server.folder / "models").mkdir(parents=True)
    t5x.write(server.folder / "models" / "checkpoint_5", made.checkpoint(step=5))
    with serving(server):
        yield server


def convert(server, source, target):
    """In a process of its own: TensorStore reads the server's address once."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "TENSORSTORE_GCS_HTTP_URL": f"http://127.0.0.1:{server.server_port}",
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{server.server_port}",  # gcsfs: is it there?
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
    }
    command = [sys.executable, "-m", "sbs_jax", "convert", "--to=hf", source, str(target)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_checkpoint_of_a_bucket_is_converted(bucket, tmp_path):
    done = convert(bucket, "gs://public-bucket/models/checkpoint_5", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "T5X checkpoint of step 5" in done.stdout
    made.assert_same_params(hf.read(str(tmp_path / "out")).params, made.checkpoint().params)
    assert "models/checkpoint_5/checkpoint" in bucket.asked
    assert json.loads((tmp_path / "out" / "config.json").read_text())["d_model"] == 16


def test_what_is_wrong_with_a_bucket_is_one_line(bucket, tmp_path):
    bucket.cut = "embedding/0.0"
    for address, reason in (
        ("gs://public-bucket/models/checkpoint_5", "embedding/0.0: cut short"),
        ("gs://public-bucket/models/checkpoint_6", "no file 'checkpoint', the index"),
    ):
        done = convert(bucket, address, tmp_path / "out")
        assert done.returncode == 2
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("sbs: ")]
        assert line.startswith(f"sbs: error: {address}") and reason in line
        assert [path.name for path in tmp_path.iterdir()] == ["bucket"]
