"""A real HTTP server on the loopback interface that speaks OpenAI's two completion APIs.

What it answers is scripted; what it was asked is kept. Tests use it in place of a teacher.
"""

import collections
import dataclasses
import http.server
import json
import threading
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Call:
    """One request as it arrived."""

    path: str
    body: dict[str, Any]
    authorization: str | None

    @property
    def text(self) -> str:
        """The prompt, of either API."""
        if "prompt" in self.body:
            return self.body["prompt"]
        return self.body["messages"][-1]["content"]


@dataclasses.dataclass(frozen=True)
class Raw:
    """A response other than a completion."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


def error(status: int, message: str, code: str | None = None, **headers: str) -> Raw:
    """An error as OpenAI words it."""
    body = {"error": {"message": message, "type": "error", "param": None, "code": code}}
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Raw(status, json.dumps(body).encode(), named)


# (The call, the number of the sample among all samples of its prompt) -> text, or a response.
Script = Callable[[Call, int], str | Raw]


class Server(http.server.ThreadingHTTPServer):
    """Handler threads die with the process and are not waited for."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed closes its connection: no reason to print a traceback."""


class StubServer(Server):
    """Answers every prompt by `script`; an ignored ``n`` gives one choice, as some servers do."""

    def __init__(self, script: Script, honours_n: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script
        self.honours_n = honours_n
        self.calls: list[Call] = []
        self.samples: collections.Counter[str] = collections.Counter()
        self.lock = threading.Lock()

    def respond(self, call: Call) -> Raw:
        """Answers a call and counts it."""
        wanted = call.body.get("n", 1) if self.honours_n else 1
        texts = []
        with self.lock:
            self.calls.append(call)
            for _ in range(wanted):
                said = self.script(call, self.samples[call.text])
                if isinstance(said, Raw):
                    return said
                self.samples[call.text] += 1
                texts.append(said)
            number = len(self.calls)
        return Raw(200, json.dumps(completion(call, texts, f"stub-{number}")).encode())


def completion(call: Call, texts: list[str], response_id: str) -> dict[str, Any]:
    """A response body with these choices."""
    chat = "messages" in call.body
    choices = [
        {"index": index, "finish_reason": "stop"}
        | ({"message": {"role": "assistant", "content": text}} if chat else {"text": text})
        for index, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": len(call.text) // 4, "completion_tokens": 10 * len(texts)}
    model = f"{call.body['model']}-answered"
    return {"id": response_id, "model": model, "choices": choices, "usage": usage}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StubServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        call = Call(self.path, body, self.headers["Authorization"])
        raw = self.server.respond(call)
        self.send_response(raw.status)
        for name, value in (("Content-Type", "application/json"), *raw.headers):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw.body)))
        self.end_headers()
        self.wfile.write(raw.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""
