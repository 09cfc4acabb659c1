"""A loopback HTTP proxy that spoils a seeded share of the answers of a server behind it."""

import contextlib
import http.client
import http.server
import random
import socket
import threading
import time
import urllib.parse
from typing import Any

from helpers.stub_server import Server

# Each as likely as the others, among the spoiled calls.
FAULTS = (
    "rate_limit",  # 429 with Retry-After; the server is not asked
    "server_error",  # 500; the server is not asked
    "drop",  # the connection closes before an answer
    "drop_answered",  # as before, but the server has done its work: it must be paid
    "stall",  # no answer until the client gives up
    "truncate",  # half a body, then the connection closes
    "garbage",  # status 200, but the body is no JSON
    "empty",  # status 200 and no choices
)


class FaultProxy(Server):
    """Forwards to `upstream` (a base URL); `rate` of the calls meet a fault.

    Attributes:
        delivered: whole good answers written to a client: what its user has to pay.
        received: calls that arrived.
        met: the faults that happened, by name.
    """

    def __init__(self, upstream: str, rate: float, seed: int, stall_seconds: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urllib.parse.urlsplit(upstream)
        self.rate = rate
        self.stall_seconds = stall_seconds
        self.draw = random.Random(seed)
        self.lock = threading.Lock()
        self.delivered = self.received = 0
        self.met: dict[str, int] = dict.fromkeys(FAULTS, 0)

    def next_fault(self) -> str | None:
        with self.lock:
            self.received += 1
            if self.draw.random() >= self.rate:
                return None
            fault = self.draw.choice(FAULTS)
            self.met[fault] += 1
            return fault


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self.server.next_fault()
        if fault == "rate_limit":
            self._send(429, b'{"error": {"message": "slow down"}}', ("Retry-After", "0.01"))
        elif fault == "server_error":
            self._send(500, b'{"error": {"message": "oops"}}', ("Retry-After", "0.01"))
        elif fault == "garbage":
            self._send(200, b'{"choices": [{"mess')
        elif fault == "empty":
            self._send(200, b'{"id": "x", "choices": []}')
        elif fault == "drop":
            self._hang_up()
        elif fault == "stall":
            time.sleep(self.server.stall_seconds)
            self._hang_up()
        else:
            self._forward(asked, fault)

    def _forward(self, asked: bytes, fault: str | None) -> None:
        upstream = self.server.upstream
        with contextlib.closing(
            http.client.HTTPConnection(upstream.hostname or "", upstream.port)
        ) as connection:
            connection.request("POST", self.path, asked, {"Content-Type": "application/json"})
            response = connection.getresponse()
            status, body = response.status, response.read()
        if fault == "drop_answered":
            self._hang_up()
        elif fault == "truncate":
            self._send(status, body, cut=len(body) // 2)
            self._hang_up()
        else:
            self._send(status, body)
            with self.server.lock:
                self.server.delivered += status == 200

    def _send(
        self, status: int, body: bytes, *headers: tuple[str, str], cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), *headers):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""
