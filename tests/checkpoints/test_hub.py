"""Models of the hub: asked for by name only; a hub of this machine speaks its protocol."""

import hashlib
import http.server
import json
import pathlib
import sys

import pytest
from helpers import made_checkpoints as made
from helpers import torch_files
from helpers.serving import serving
from safetensors.numpy import load_file

from sbs_jax.checkpoints import initial
from sbs_jax.checkpoints.formats import hf, hf_write
from sbs_jax.cli import main
from sbs_jax.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "google/t5-tiny"


class Hub(http.server.BaseHTTPRequestHandler):
    """One model, the files of `self.server.folder`, under the hub's addresses."""

    def do_GET(self):
        self._answer(body=True)

    def do_HEAD(self):
        self._answer(body=False)

    def _answer(self, body):
        path = self.path.partition("?")[0].lstrip("/")
        self.server.asked.append(path)
        files = {file.name: file for file in self.server.folder.iterdir()}
        if path in (f"api/models/{NAME}", f"api/models/{NAME}/revision/main"):
            siblings = [{"rfilename": name} for name in files]
            self._send(json.dumps({"id": NAME, "sha": COMMIT, "siblings": siblings}).encode(), body)
            return
        if path == f"api/models/{NAME}/tree/{COMMIT}":
            sizes = {name: file.stat().st_size for name, file in files.items()}
            tree = [{"type": "file", "path": n, "size": s, "oid": "0"} for n, s in sizes.items()]
            self._send(json.dumps(tree).encode(), body)
            return
        for revision in (COMMIT, "main"):
            name = path.removeprefix(f"{NAME}/resolve/{revision}/")
            if name in files:
                self._send(files[name].read_bytes(), body)
                return
        missing = "Entry" if path.startswith(f"{NAME}/resolve") else "Repo"
        if path.startswith(f"api/models/{NAME}/revision/"):
            missing = "Revision"
        self.send_response(404)
        self.send_header("X-Error-Code", f"{missing}NotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, data, body):
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The server; `folder` holds the model's files."""
    constants = pytest.importorskip("huggingface_hub.constants")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.asked = tmp_path / "served", []
    hf_write.write(server.folder, made.checkpoint())
    endpoint = f"http://127.0.0.1:{server.server_port}"
    # What HF_ENDPOINT and HF_HOME set, before the library is imported.
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with serving(server):
        yield server


def convert(*arguments):
    return main(["convert", *map(str, arguments)])


@pytest.mark.parametrize("source", [f"hf://{NAME}", f"hf://{NAME}@main", NAME])
def test_a_model_is_converted_by_its_name(hub, tmp_path, capsys, source):
    flags = ["--from=hf"] if "://" not in source else []
    assert convert(*flags, "--to=hf", source, tmp_path / "out") == 0
    assert f"{source if flags == [] else 'hf://' + source}: Hugging Face" in capsys.readouterr().out
    made.assert_same_params(hf.read(str(tmp_path / "out")).params, made.checkpoint().params)
    hub.asked.clear()
    assert convert(*flags, "--to=hf", source, tmp_path / "again") == 0
    assert not [path for path in hub.asked if path.endswith("safetensors")], "it is cached"


def test_a_sharded_model_and_nothing_else_of_it(hub):
    for file in hub.folder.iterdir():
        file.unlink()
    hub.folder.rmdir()
    hf_write.write(hub.folder, made.checkpoint(), shard_bytes=20_000)
    (hub.folder / "pytorch_model.bin").write_bytes(b"large")
    (hub.folder / "tf_model.h5").write_bytes(b"large")
    params = initial.load_params(f"hf://{NAME}", made.UNTIED)
    assert params["encoder"]["encoder_norm"]["scale"].shape == (16,)
    fetched = {path.rpartition("/")[2] for path in hub.asked}
    assert {path.name for path in hub.folder.glob("model-*")} <= fetched
    assert not {"pytorch_model.bin", "tf_model.h5"} & fetched


def test_pickled_weights_where_there_are_no_others(hub):
    state = torch_files.state_of(load_file(hub.folder / "model.safetensors"))
    (hub.folder / "model.safetensors").unlink()
    torch_files.write_archive(hub.folder / "pytorch_model.bin", state)
    made.assert_same_params(initial.find(f"hf://{NAME}").params, made.checkpoint().params)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("hf://google/other", "cannot be downloaded (404 "),
        (f"hf://{NAME}@v9", "cannot be downloaded (404 "),
        ("hf://a/b/c", "not hf://OWNER/NAME"),
    ],
)
def test_what_is_not_there_is_one_line(hub, tmp_path, capsys, source, reason):
    assert convert("--to=t5x", source, tmp_path / "out") == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("sbs: ")]
    assert line.startswith(f"sbs: error: {source}: ") and reason in line
    assert not (tmp_path / "out").exists()


def test_a_hub_that_does_not_answer_is_one_line(hub, tmp_path, capsys, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert convert("--to=t5x", f"hf://{NAME}", tmp_path / "out") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"sbs: error: hf://{NAME}: cannot be downloaded (")


def test_a_model_without_weights_is_one_line(hub, tmp_path, capsys):
    (hub.folder / "model.safetensors").unlink()
    assert convert("--to=t5x", f"hf://{NAME}", tmp_path / "out") == 2
    assert "no model.safetensors" in capsys.readouterr().err


def test_a_folder_goes_first_and_a_mistyped_one_asks_nobody(hub, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = pathlib.Path(NAME)
    hf_write.write(source, made.checkpoint(made.TIED))
    assert convert("--from=hf", "--to=hf", NAME, "out") == 0
    assert hf.read("out").config == made.TIED
    assert convert("--to=hf", "google/t5-tinny", "again") == 2
    assert "a model of the hub is hf://google/t5-tinny" in capsys.readouterr().err
    with pytest.raises(UserError, match="no checkpoint found"):
        initial.load_params("google/t5-tinny", made.UNTIED)
    assert hub.asked == []


def test_without_the_library_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert convert("--to=hf", f"hf://{NAME}", tmp_path / "out") == 2
    assert "pip install 'sbs_jax[export]'" in capsys.readouterr().err
