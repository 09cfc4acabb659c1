"""A server that answers in a thread while a test runs."""

import contextlib
import socketserver
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[Any]:
    """Serves until the block ends; then the server is closed."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
