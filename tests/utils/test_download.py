"""Downloads from a server on this machine: resume, integrity, faults, and what is left behind."""

import hashlib
import http.server
import pathlib
from collections.abc import Iterator

import pytest
from helpers.serving import serving

from sbs_jax.errors import UserError
from sbs_jax.utils import download

BODY = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(BODY).hexdigest()
BLOB = hashlib.sha1(b"blob %d\0" % len(BODY) + BODY).hexdigest()


class _Server(http.server.ThreadingHTTPServer):
    """Serves BODY at every path; `faults` are taken one per request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.body = BODY
        self.etag = '"one"'
        self.ranges_served = True
        self.faults: list[int | str] = []
        self.requests: list[str | None] = []

    def handle_error(self, *_: object) -> None:
        """A client that refuses a body hangs up on purpose; no traceback for that."""

    def url(self, path: str = "datasets.zip") -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append(asked)
        fault = self.server.faults.pop(0) if self.server.faults else None
        if self.path.startswith("/elsewhere"):
            return self._redirect("ftp://127.0.0.1/file")
        if self.path.startswith("/moved"):
            return self._redirect("/datasets.zip")
        if isinstance(fault, int):
            return self.send_error(fault)
        start = self._start(asked)
        if start >= len(self.server.body) > 0:
            return self.send_error(416)
        self._send(start, cut=fault == "cut")

    def _start(self, asked: str | None) -> int:
        fresh = self.headers.get("If-Range") == self.server.etag
        if not (asked and fresh and self.server.ranges_served):
            return 0
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def _send(self, start: int, cut: bool) -> None:
        body = self.server.body[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)

    def _redirect(self, where: str) -> None:
        self.send_response(302)
        self.send_header("Location", where)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with serving(_Server()) as running:
        yield running


def _fetch(url: str, folder: pathlib.Path, **options: object) -> pathlib.Path:
    return download.fetch(url, folder, pause=0.001, **options)


def _left(folder: pathlib.Path) -> set[str]:
    """Suffixes of the files in `folder`, without the empty lock file."""
    return {path.suffix for path in folder.iterdir() if path.suffix != ".lock"}


@pytest.mark.parametrize(
    "digest", [None, f"sha256={SHA256}", f"blob={BLOB}", f"blob={BLOB.upper()}"]
)
def test_a_file_is_fetched_once(server: _Server, tmp_path: pathlib.Path, digest, capsys) -> None:
    path = _fetch(server.url(), tmp_path / "new", digest=digest)
    assert path.read_bytes() == BODY and path.name.endswith("-datasets.zip")
    assert "download datasets.zip: 1.0 of 1.0 MiB" in capsys.readouterr().err
    assert _fetch(server.url(), tmp_path / "new", digest=digest) == path
    assert len(server.requests) == 1 and _left(path.parent) == {".zip"}


def test_the_digest_may_stand_behind_the_url(server: _Server, tmp_path: pathlib.Path) -> None:
    assert _fetch(f"{server.url()}#sha256={SHA256}", tmp_path).read_bytes() == BODY
    with pytest.raises(UserError, match="damaged or another one"):
        _fetch(f"{server.url('other')}#sha256={'0' * 64}", tmp_path)


def test_a_cut_connection_is_continued(server: _Server, tmp_path: pathlib.Path, capsys) -> None:
    server.faults = ["cut", "cut"]
    assert _fetch(server.url(), tmp_path, digest=f"blob={BLOB}").read_bytes() == BODY
    half, quarter = len(BODY) // 2, len(BODY) // 4
    assert server.requests == [None, f"bytes={half}-", f"bytes={half + quarter}-"]
    assert "the connection closed after 512000 of 1024000 bytes" in capsys.readouterr().err
    assert _left(tmp_path) == {".zip"}


def test_a_later_call_continues(server: _Server, tmp_path: pathlib.Path) -> None:
    server.faults = ["cut"]
    with pytest.raises(UserError, match=r"not downloaded after 1 attempts .* continues"):
        _fetch(server.url(), tmp_path, attempts=1)
    assert _left(tmp_path) == {".part", ".etag"}
    assert _fetch(server.url(), tmp_path).read_bytes() == BODY
    assert server.requests[1] == f"bytes={len(BODY) // 2}-"


def test_a_file_that_changed_in_between_starts_over(server: _Server, tmp_path) -> None:
    server.faults = ["cut"]
    with pytest.raises(UserError):
        _fetch(server.url(), tmp_path, attempts=1)
    server.body, server.etag = BODY[::-1], '"two"'
    assert _fetch(server.url(), tmp_path).read_bytes() == BODY[::-1]


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_strong_etag_nothing_is_resumed(server: _Server, tmp_path, etag: str) -> None:
    server.faults, server.etag = ["cut"], etag
    assert _fetch(server.url(), tmp_path).read_bytes() == BODY
    assert server.requests == [None, None]


def test_a_server_without_ranges_starts_over(server: _Server, tmp_path: pathlib.Path) -> None:
    server.faults, server.ranges_served = ["cut"], False
    assert _fetch(server.url(), tmp_path).read_bytes() == BODY


def test_a_part_longer_than_the_file_is_dropped(server: _Server, tmp_path: pathlib.Path) -> None:
    server.faults = ["cut"]
    with pytest.raises(UserError):
        _fetch(server.url(), tmp_path, attempts=1)
    (part,) = tmp_path.glob("*.part")
    part.write_bytes(BODY + b"more")
    assert _fetch(server.url(), tmp_path).read_bytes() == BODY
    assert server.requests[1:] == [f"bytes={len(BODY) + 4}-", None]


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_passing_failure_is_tried_again(server: _Server, tmp_path, code: int, capsys) -> None:
    server.faults = [code, code]
    assert _fetch(server.url(), tmp_path).read_bytes() == BODY
    assert capsys.readouterr().err.count(f"the server says {code}") == 2


def test_attempts_are_bounded(server: _Server, tmp_path: pathlib.Path) -> None:
    server.faults = [503] * 9
    with pytest.raises(UserError, match=r"not downloaded after 3 attempts .*503"):
        _fetch(server.url(), tmp_path, attempts=3)
    assert len(server.requests) == 3


def test_a_refusal_is_final(server: _Server, tmp_path: pathlib.Path) -> None:
    server.faults = [404]
    with pytest.raises(UserError, match="the server says 404"):
        _fetch(server.url(), tmp_path)
    assert len(server.requests) == 1 and not _left(tmp_path)


def test_nobody_listens(server: _Server, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"not downloaded after 2 attempts .*refused"):
        _fetch("http://127.0.0.1:1/x.zip", tmp_path, attempts=2)


def test_a_wrong_file_is_not_kept(server: _Server, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="damaged or another one"):
        _fetch(server.url(), tmp_path, digest=f"blob={'0' * 40}")
    assert not _left(tmp_path)


def test_a_file_damaged_on_disk_is_fetched_again(server: _Server, tmp_path: pathlib.Path) -> None:
    path = _fetch(server.url(), tmp_path, digest=f"blob={BLOB}")
    path.write_bytes(BODY[:-1])
    assert _fetch(server.url(), tmp_path, digest=f"blob={BLOB}").read_bytes() == BODY


def test_redirects(server: _Server, tmp_path: pathlib.Path) -> None:
    assert _fetch(server.url("moved/datasets.zip"), tmp_path).read_bytes() == BODY
    with pytest.raises(UserError, match=r"ftp://127\.0\.0\.1/file: only https"):
        _fetch(server.url("elsewhere"), tmp_path)


@pytest.mark.parametrize(
    "url",
    ["http://example.org/x.zip", "ftp://127.0.0.1/x", "file:///etc/hostname", "https.zip://x"],
)
def test_other_addresses_are_refused(tmp_path: pathlib.Path, url: str) -> None:
    assert download.is_url(url)
    with pytest.raises(UserError, match="only https addresses"):
        _fetch(url, tmp_path)


@pytest.mark.parametrize("digest", ["sha256=", "sha256=xyz", "md5=0", "blob=" + "0" * 64, "v1.0"])
def test_a_digest_that_is_none_is_refused(tmp_path: pathlib.Path, digest: str) -> None:
    with pytest.raises(UserError, match="a digest is sha256="):
        _fetch(f"https://127.0.0.1:1/x.zip#{digest}", tmp_path)


def test_a_file_larger_than_accepted(server: _Server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match="1024000 bytes are more than the 1000 accepted"):
        _fetch(server.url(), tmp_path)


def test_two_processes_do_not_write_one_part(server: _Server, tmp_path: pathlib.Path) -> None:
    path = _fetch(server.url(), tmp_path)
    path.unlink()
    with (
        download._locked(path.with_name(path.name + ".part"), "x"),
        pytest.raises(UserError, match="another process is downloading it"),
    ):
        _fetch(server.url(), tmp_path)


def test_a_folder_that_cannot_be_written(server: _Server, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot be written"):
        _fetch(server.url(), tmp_path / "file")


def test_paths_are_no_urls() -> None:
    assert not any(map(download.is_url, ["data/x.zip", "/x.zip", "x:y.zip", "C:\\x.zip", "~/x"]))
