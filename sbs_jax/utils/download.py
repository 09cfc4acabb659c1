"""Downloads one file into a local folder: progress, resume, integrity, complete or absent.

The standard library is enough here, and leaves a pod's install without a further HTTP client: a
GET with a Range header, a digest and a rename.
"""

import contextlib
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.utils.console import Progress, say
from sbs_jax.utils.files import flock

MAX_BYTES = 16 * 2**30  # what claims or turns out to be larger is refused
_CHUNK = 2**20
_TIMEOUT = 60  # seconds without a byte
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_DIGESTS = {"sha256": 64, "blob": 40}  # hexadecimal digits
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


def is_url(source: str) -> bool:
    """Whether `source` names a scheme (``https://``) rather than a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source) is not None


def fetch(
    url: str,
    folder: str | os.PathLike[str],
    digest: str | None = None,
    attempts: int = 5,
    pause: float = 1.0,
) -> Path:
    """Downloads `url` into `folder` unless it is there already; returns the file's path.

    Args:
        url: https, or http on this machine. It may end in its digest: ``...zip#sha256=HEX``.
        folder: made if absent; a download cut short leaves ``NAME.part`` there, from which the
            next call resumes if the server still has the same file (same ETag).
        digest: ``sha256=HEX``, or ``blob=HEX``, the id that git gives to the file.
        attempts: how often a failing transfer is started again from where it stopped.
        pause: seconds before the second attempt; doubles every time.

    Raises:
        UserError: a bad URL, the server refuses, the network keeps failing, the disk is full, or
            the file is not the one expected (then it is deleted). The message is one line.
    """
    url, _, fragment = url.partition("#")
    digest = digest or fragment or None
    _check_url(url)
    _check_digest(url, digest)
    target = Path(folder) / _file_name(url)
    if target.is_file():
        if matches(target, digest):
            return target
        target.unlink()
    part = target.with_name(target.name + ".part")
    with _locked(part, url):
        _transfer_patiently(url, part, attempts, pause)
        if not matches(part, digest):
            _discard(part)
            raise UserError(
                f"{url}: the downloaded file is damaged or another one (its digest is not "
                f"{digest}); nothing was kept: check the address and try again"
            )
        part.replace(target)
        _etag_file(part).unlink(missing_ok=True)
    return target


def matches(path: Path, digest: str | None) -> bool:
    """Whether the file has this ``sha256=HEX`` or ``blob=HEX``; True where none is given."""
    if digest is None:
        return True
    kind, _, expected = digest.partition("=")
    hasher = hashlib.new("sha1" if kind == "blob" else kind)
    if kind == "blob":  # git hashes a header and the content
        hasher.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest() == expected.lower()


def _check_url(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        return
    raise UserError(f"{url}: only https addresses are fetched; download it yourself, give the file")


def _check_digest(url: str, digest: str | None) -> None:
    if digest is None:
        return
    kind, _, value = digest.partition("=")
    if not re.fullmatch(rf"[0-9a-fA-F]{{{_DIGESTS.get(kind, 0)}}}", value) or not value:
        raise UserError(f"{url}#{digest}: a digest is sha256=(64 digits) or blob=(40 digits)")


def _file_name(url: str) -> str:
    """A readable name that no other URL has."""
    name = os.path.basename(urllib.parse.urlsplit(url).path) or "download"
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[-80:].lstrip(".")
    return f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{safe}"


def _etag_file(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _etag_file(part).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(part: Path, url: str) -> Iterator[None]:
    """Keeps a second process from appending to the same part file."""
    with _writing(part.parent):
        part.parent.mkdir(parents=True, exist_ok=True)
        lock = part.with_suffix(".lock").open("w")
    with lock, flock(lock.fileno(), f"{url}: another process is downloading it; wait for it"):
        yield


def _transfer_patiently(url: str, part: Path, attempts: int, pause: float) -> None:
    for attempt in range(1, attempts + 1):
        try:
            return _transfer(url, part)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                _discard(part)  # the part is as long as the file, or longer: it is another file's
            elif error.code not in _TRANSIENT:
                raise UserError(f"{url}: the server says {error.code} {error.reason}") from None
            problem = f"the server says {error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            problem = str(getattr(error, "reason", error)) or type(error).__name__
        if attempt < attempts:
            seconds = pause * 2 ** (attempt - 1)
            say(f"download: {problem}; again in {seconds:g} s")
            time.sleep(seconds)
    raise UserError(
        f"{url}: not downloaded after {attempts} attempts ({problem}); the same command continues "
        "where this one stopped"
    )


def _transfer(url: str, part: Path) -> None:
    """One GET that appends to `part`; raises OSError where the body ends early."""
    etag_file = _etag_file(part)
    etag = etag_file.read_text() if etag_file.exists() and part.exists() else ""
    offset = part.stat().st_size if etag else 0
    request = urllib.request.Request(url)
    if offset:
        request.add_header("Range", f"bytes={offset}-")
        request.add_header("If-Range", etag)
    with _opener(url).open(request, timeout=_TIMEOUT) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            offset = 0
        length = response.headers.get("Content-Length")
        total = offset + int(length) if length and length.isdigit() else None
        if total is not None and total > MAX_BYTES:
            raise UserError(f"{url}: {total} bytes are more than the {MAX_BYTES} accepted")
        received = _receive(url, response, part, offset, total)
    if total is not None and received != total:
        raise OSError(f"the connection closed after {received} of {total} bytes")


def _receive(
    url: str, response: http.client.HTTPResponse, part: Path, offset: int, total: int | None
) -> int:
    """Writes the body behind the first `offset` bytes of `part`; returns the part's new size."""
    etag = response.headers.get("ETag", "")
    name = os.path.basename(urllib.parse.urlsplit(url).path)
    progress = Progress(f"download {name}")
    with _writing(part):
        file = part.open("ab" if offset else "wb")
        # A weak ETag promises equal meaning, not equal bytes, so it cannot carry a resume.
        _etag_file(part).write_text("" if etag.startswith("W/") else etag)
    with file:
        received = offset
        while chunk := response.read(_CHUNK):
            received += len(chunk)
            if received > MAX_BYTES:
                raise UserError(f"{url}: more than the {MAX_BYTES} bytes accepted")
            with _writing(part):
                file.write(chunk)
            if progress.due():
                say(f"download {name}: {_mebibytes(received, total)}")
    say(f"download {name}: {_mebibytes(received, total)}")
    return received


def _mebibytes(received: int, total: int | None) -> str:
    of = f" of {total / 2**20:.1f}" if total else ""
    return f"{received / 2**20:.1f}{of} MiB"


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to where `fetch` itself would go."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: Any,
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:
        _check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(url: str) -> urllib.request.OpenerDirector:
    if urllib.parse.urlsplit(url).hostname in _LOOPBACK:
        return urllib.request.build_opener(_Redirects, urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(_Redirects)
