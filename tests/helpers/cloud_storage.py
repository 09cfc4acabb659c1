"""Google Cloud Storage on loopback: the parts of its JSON API that the libraries here use.

Objects are in memory. Generations and preconditions (`ifGenerationMatch`) count as in the service.
Source: https://cloud.google.com/storage/docs/json_api/v1
"""

import base64
import datetime
import http.server
import itertools
import json
import re
import sys
import threading
import time
import urllib.parse
import zlib
from collections.abc import Callable
from typing import NamedTuple

BUCKET = "runs"
_OBJECTS = re.compile(r"(?:/upload|/download)?/storage/v1/b/([^/]+)/o(?:/([^?]+))?")
_COPY = re.compile(r"/storage/v1/b/[^/]+/o/([^/]+)/(?:rewriteTo|copyTo)/b/[^/]+/o/([^/?]+)")
_BUCKET = re.compile(r"/storage/v1/b/([^/?]+)")


class Object(NamedTuple):
    """An object's content, generation, and time of its last write in seconds since 1970."""

    data: bytes
    generation: int
    updated: float


class Refused(Exception):
    """A request that is answered with an error status."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


class CloudStorage(http.server.ThreadingHTTPServer):
    """A server with one bucket.

    Attributes:
        objects: by name; tests may read and change them.
        asked: (method, path) of every request.
        before: called with method, name and body before a request is carried out; may raise
            Refused, or kill a process.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, Object] = {}
        self.asked: list[tuple[str, str]] = []
        self.before: Callable[[str, str, bytes], None] = lambda method, name, body: None
        self.uploads: dict[str, tuple[str, dict, bytearray]] = {}
        self._generations = itertools.count(1)
        self.lock = threading.RLock()

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def variables(self) -> dict[str, str]:
        """What makes the libraries of a process talk to this server, without login."""
        login = {"GOOGLE_AUTH_TOKEN_FOR_TESTING": "none", "NO_GCE_CHECK": "true"}
        return {"STORAGE_EMULATOR_HOST": self.url, **login}

    def names(self, prefix: str = "") -> list[str]:
        """The names of the objects below a prefix, sorted."""
        with self.lock:
            return sorted(name for name in self.objects if name.startswith(prefix))

    def put(self, name: str, data: bytes, query: dict[str, str] | None = None) -> Object:
        """Writes an object under the preconditions of a request."""
        with self.lock:
            self._check(name, query or {})
            self.objects[name] = Object(data, next(self._generations), time.time())
            return self.objects[name]

    def get(self, name: str, query: dict[str, str] | None = None) -> Object:
        """An object; Refused where there is none, or another generation than asked for."""
        with self.lock:
            if name not in self.objects:
                raise Refused(404)
            self._check(name, query or {})
            return self.objects[name]

    def remove(self, name: str, query: dict[str, str]) -> None:
        """Deletes an object."""
        with self.lock:
            self.get(name, query)
            del self.objects[name]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client may end at any time."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def _check(self, name: str, query: dict[str, str]) -> None:
        generation = self.objects[name].generation if name in self.objects else 0
        if query.get("ifGenerationMatch", str(generation)) != str(generation):
            raise Refused(412)
        if query.get("ifGenerationNotMatch") == str(generation):
            raise Refused(304)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: CloudStorage
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        body = self._body()
        self._query = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        self.server.asked.append((self.command, self.path))
        try:
            self._route(path, body)
        except Refused as refused:
            text = json.dumps({"error": {"code": refused.status, "message": "refused"}})
            self._send(refused.status, b"" if refused.status == 304 else text.encode())
        except BrokenPipeError:  # gcsfs asks in two ways and drops the slower answer
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _answer

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _route(self, path: str, body: bytes) -> None:
        if path.startswith("/batch"):
            return self._batch(body)
        if copied := _COPY.fullmatch(path):
            source, target = map(urllib.parse.unquote, copied.groups())
            self.server.before("COPY", target, b"")
            done = self.server.put(target, self.server.get(source).data)
            return self._json({"done": True, "resource": _described(target, done)})
        if place := _OBJECTS.fullmatch(path):
            bucket, name = place[1], urllib.parse.unquote(place[2] or "")
            if bucket != BUCKET:
                raise Refused(404)
            if path.startswith("/upload"):
                return self._upload(body)
            return self._object(name) if name else self._list()
        if place := _BUCKET.fullmatch(path):
            if place[1] != BUCKET:
                raise Refused(404)
            return self._json({"kind": "storage#bucket", "name": BUCKET, "id": BUCKET})
        raise Refused(404)

    def _object(self, name: str) -> None:
        self.server.before(self.command, name, b"")
        if self.command == "DELETE":
            self.server.remove(name, self._query)
            return self._send(204, b"")
        found = self.server.get(name, self._query)
        if self._query.get("alt") != "media":
            return self._json(_described(name, found))
        data, status = found.data, 200
        if wanted := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first, last = wanted.groups()
            start = int(first) if first else max(0, len(data) - int(last))
            end = min(int(last) + 1, len(data)) if first and last else len(data)
            if start >= len(data):
                raise Refused(416)
            self._range = f"bytes {start}-{end - 1}/{len(data)}"
            data, status = data[start:end], 206
        return self._send(status, data, found)

    def _list(self) -> None:
        """Every page holds everything: no caller here asks for less."""
        prefix, delimiter = self._query.get("prefix", ""), self._query.get("delimiter")
        self.server.before("LIST", prefix, b"")
        start, end = self._query.get("startOffset", ""), self._query.get("endOffset")
        items, folders = [], set()
        with self.server.lock:
            for name in self.server.names(prefix):
                if name < start or (end and name >= end):
                    continue
                below, found, _ = name[len(prefix) :].partition(delimiter or "\0")
                if found and (folder := prefix + below + found) != name:
                    folders.add(folder)
                else:
                    items.append(_described(name, self.server.objects[name]))
        answer: dict = {"kind": "storage#objects", "items": items}
        self._json(answer | ({"prefixes": sorted(folders)} if folders else {}))

    def _upload(self, body: bytes) -> None:
        if upload := self._query.get("upload_id"):
            return self._resume(upload, body)
        kind, name = self._query.get("uploadType"), self._query.get("name", "")
        if kind == "multipart":
            boundary = self.headers["Content-Type"].partition("boundary=")[2].strip("\"'").encode()
            described, content = body.split(b"--" + boundary)[1:3]
            name = name or json.loads(described.partition(b"\r\n\r\n")[2] or described)["name"]
            body = content.lstrip(b"\r\n").partition(b"\r\n\r\n")[2]
            body = body.removesuffix(b"\r\n")
        if kind == "resumable":
            name = name or json.loads(body)["name"]
            upload = str(len(self.server.uploads))
            self.server.uploads[upload] = (name, self._query, bytearray())
            place = f"{self.server.url}{self.path}&upload_id={upload}"
            return self._send(200, b"", location=place)
        self.server.before("PUT", name, body)
        return self._json(_described(name, self.server.put(name, body, self._query)))

    def _resume(self, upload: str, body: bytes) -> None:
        name, query, data = self.server.uploads[upload]
        data.extend(body)
        if self.headers.get("Content-Range", "").endswith("/*"):
            self._range = f"bytes=0-{len(data) - 1}"
            return self._send(308, b"")
        self.server.before("PUT", name, bytes(data))
        return self._json(_described(name, self.server.put(name, bytes(data), query)))

    def _batch(self, body: bytes) -> None:
        """Deletes several objects in one request."""
        boundary = self.headers["Content-Type"].partition("boundary=")[2].strip("\"'")
        answers = []
        for number, name in enumerate(re.findall(rb"DELETE \S*?/o/(\S+?)(?:\?\S*)? HTTP", body)):
            status = "204 No Content"
            try:
                found = urllib.parse.unquote(name.decode())
                self.server.before("DELETE", found, b"")
                self.server.remove(found, {})
            except Refused:
                status = "404 Not Found"
            answers.append(
                f"--{boundary}\r\nContent-Type: application/http\r\n"
                f"Content-ID: <response-{number + 1}>\r\n\r\nHTTP/1.1 {status}\r\n"
                "Content-Length: 0\r\n\r\n\r\n"
            )
        text = "".join(answers) + f"--{boundary}--\r\n"
        self._send(200, text.encode(), kind=f"multipart/mixed; boundary={boundary}")

    _range = ""

    def _json(self, value: dict) -> None:
        self._send(200, json.dumps(value).encode(), kind="application/json")

    def _send(
        self,
        status: int,
        data: bytes,
        found: Object | None = None,
        kind: str = "application/octet-stream",
        location: str = "",
    ) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(data)), "Location": location}
        if self._range:
            headers["Range" if status == 308 else "Content-Range"] = self._range
            self._range = ""
        if found:
            headers["x-goog-generation"] = str(found.generation)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


def _described(name: str, found: Object) -> dict:
    written = datetime.datetime.fromtimestamp(found.updated, datetime.UTC)
    crc = zlib.crc32(found.data).to_bytes(4, "big")  # nobody here compares CRC-32C
    return {
        "kind": "storage#object",
        "id": f"{BUCKET}/{name}/{found.generation}",
        "name": name,
        "bucket": BUCKET,
        "size": str(len(found.data)),
        "generation": str(found.generation),
        "metageneration": "1",
        "etag": base64.b64encode(crc).decode(),
        "contentType": "application/octet-stream",
        "updated": f"{written:%Y-%m-%dT%H:%M:%S.%fZ}",
        "timeCreated": "2026-01-01T00:00:00.000Z",
    }
