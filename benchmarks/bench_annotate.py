"""Stage 1 without a model: calls per CPU-second, memory, the start from a long journal, 8 shards.

The server is another process on the loopback interface and answers at once, so that the CPU time of
this process is the client's own. Prints one line per figure.
"""

import argparse
import asyncio
import http.server
import json
import multiprocessing
import pathlib
import resource
import tempfile
import time

import openai
import psutil

from sbs_jax.datasets.records import Record
from sbs_jax.teacher import journal, prompts
from sbs_jax.teacher.client import Client
from sbs_jax.teacher.journal import Journal
from sbs_jax.teacher.progress import Prices, Progress
from sbs_jax.teacher.requests import Recipe
from sbs_jax.teacher.runner import Asker

TEXT = "Only oil lets metal slide quietly. So the answer is (d) oil."
USAGE = {"prompt_tokens": 412, "completion_tokens": 48}
CHOICE = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": TEXT}}
BODY = json.dumps({"id": "r", "model": "m", "choices": [CHOICE], "usage": USAGE}).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers every POST with the same completion."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, format: str, *args: object) -> None:
        """Prints nothing."""


def serve(port: multiprocessing.Queue) -> None:
    """Serves until the process is terminated."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.put(server.server_address[1])
    server.serve_forever()


def ask(folder: pathlib.Path, port: int, calls: int, concurrency: int) -> float:
    """CPU seconds of this process for that many distinct questions."""
    recipe = Recipe(prompts.load("demo"), "m")
    records = (Record(str(i), f"can a w{i} swim ?", "yes") for i in range(calls))
    requests = map(recipe.request, records)

    async def run() -> None:
        async with Client(f"http://127.0.0.1:{port}/v1") as client:
            with journal.writing(folder) as written:
                progress = Progress(calls, Prices())
                await Asker(client, written, progress, 1, concurrency).run(requests)
                assert progress.done == calls

    began = time.process_time()
    asyncio.run(run())
    return time.process_time() - began


def bare(port: int, calls: int) -> float:
    """CPU seconds of the HTTP library alone for that many calls of the same size, in turn."""
    recipe = Recipe(prompts.load("demo"), "m")
    body = dict(recipe.request(Record("1", "can a w swim ?", "yes")).body)

    async def run() -> None:
        async with openai.DefaultAsyncHttpxClient() as client:
            for _ in range(calls):
                await client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body)

    began = time.process_time()
    asyncio.run(run())
    return time.process_time() - began


def start(folder: pathlib.Path, row: dict, lines: int, shards: int) -> tuple[float, float]:
    """(CPU seconds, MB) to open journals of that many lines together."""
    folder.mkdir()
    for shard in range(shards):
        with (folder / f"journal-{shard}-of-{shards}.jsonl").open("w") as file:
            for number in range(shard, lines, shards):
                file.write(json.dumps(row | {"key": f"{number:064d}-0"}) + "\n")
    before, began = resident(), time.process_time()
    with Journal(folder) as read:
        assert len(read) == lines
        return time.process_time() - began, resident() - before


def resident() -> float:
    """MB of memory this process holds now."""
    return psutil.Process().memory_info().rss / 1e6


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--lines", type=int, default=500_000)
    flags = parser.parse_args()
    port: multiprocessing.Queue = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(port,), daemon=True)
    server.start()
    with tempfile.TemporaryDirectory() as name:
        folder, address = pathlib.Path(name), port.get()
        ask(folder / "warm", address, 200, flags.concurrency)  # imports the SDK
        before = resident()
        seconds = ask(folder, address, flags.calls, flags.concurrency)
        grown = (resident() - before) * 1e3 / flags.calls
        print(f"client: {flags.calls / seconds:,.0f} calls per CPU-second ({flags.calls:,} calls)")
        print(f"memory: {grown:.2f} KB more for each of these calls")
        seconds = bare(address, 300) / 300
        print(f"its HTTP library alone, in turn: {1 / seconds:,.0f} calls per CPU-second")
        row = json.loads((folder / journal.NAME).open().readline())
        for shards in (1, 8):
            seconds, size = start(folder / f"{shards}", row, flags.lines, shards)
            print(
                f"start from {shards} journals: {seconds:.2f} CPU-seconds and {size:.0f} MB for "
                f"{flags.lines:,} answers"
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak resident memory: {peak:.0f} MB")
    server.terminate()


if __name__ == "__main__":
    main()
