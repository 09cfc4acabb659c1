"""A lock in a bucket: one object, written only if no other process wrote it meanwhile.

The service refuses a write whose precondition, the generation of the object, no longer holds
(https://cloud.google.com/storage/docs/request-preconditions). The rules:

1. Who creates the object holds the lock; who holds it rewrites it every 10 s.
2. An object that does not change for 120 s belongs to a holder that died: it is taken over. At once
   if the holder was a process of this machine that is gone.
3. A holder that could not write for 80 s, or finds the object changed, ends its process at once, as
   a kill would: there are never two writers, and no clocks of two machines are compared.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.utils import buckets
from sbs_jax.utils.console import say

NAME = "lock.json"
RENEW_SECONDS, GIVE_UP_SECONDS, EXPIRE_SECONDS = 10.0, 80.0, 120.0

_LOOK_SECONDS = 1.0
_CALL_SECONDS = 5.0  # so that a holder gives up before its lock expires, whatever hangs
_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h


@contextlib.contextmanager
def held(folder: str, name: str) -> Iterator[None]:
    """Holds the lock of a bucket's folder, in a thread that renews it.

    Args:
        folder: a `gs://` address.
        name: of the setting, for messages.

    Raises:
        UserError: another process holds it, or the bucket cannot be written.
    """
    lock = _Lock(folder, name)
    try:
        lock.acquire()
    except (ValueError, OSError) as error:
        raise UserError(
            f"{name} {folder}: the bucket cannot be written ({buckets.reason(error)}); check its "
            "name, your permissions, and `gcloud auth application-default login`"
        ) from None
    done = threading.Event()
    thread = threading.Thread(target=lock.keep, args=(done,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        lock.release()


class _Lock:
    """The object, and what this process knows of it."""

    def __init__(self, folder: str, name: str) -> None:
        self._where = f"{name} {folder}"
        # A renewal must end, one way or the other, long before the lock expires.
        self._store = buckets.key_value_store(folder, retries=3)
        self._id = uuid.uuid4().hex
        self._generation = b""
        self._confirmed = 0.0

    def acquire(self) -> None:
        """Creates the object, or takes it over from a holder that died."""
        content = self._read()
        if content.state == "value" and not _is_gone(_holder(content.value)):
            content = self._watch(content)
        if not self._write(content.stamp.generation):
            raise self._busy(self._read().value)

    def _watch(self, before: Any) -> Any:
        """Waits until the object is gone, or has not changed for `EXPIRE_SECONDS`."""
        say(
            f"{self._where}: locked by {_described(before.value)}; waiting up to "
            f"{EXPIRE_SECONDS:g} s to see whether it lives"
        )
        deadline = time.monotonic() + EXPIRE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(min(_LOOK_SECONDS, EXPIRE_SECONDS / 10))
            now = self._read()
            if now.state != "value":
                return now
            if now.stamp.generation != before.stamp.generation:
                raise self._busy(now.value)
        say(f"{self._where}: the lock is of a process that died; taking it over")
        return before

    def _busy(self, content: bytes) -> UserError:
        return UserError(
            f"{self._where}: another process is working there ({_described(content)}); wait for "
            "it, or choose another folder"
        )

    def _write(self, generation: bytes) -> bool:
        """Writes the object if it still has this generation; whether it is ours now."""
        content = json.dumps({"holder": self._id, **_myself()}).encode()
        for _ in range(2):
            began = time.monotonic()
            stamp = self._store.write(NAME, content, if_equal=generation).result(_CALL_SECONDS)
            if stamp.generation:
                self._generation, self._confirmed = stamp.generation, began
                return True
            # Refused; but the other write may be our own, whose answer was lost.
            now = self._read()
            if _holder(now.value).get("holder") != self._id:
                return False
            self._generation = generation = now.stamp.generation
        return True

    def _read(self) -> Any:
        return self._store.read(NAME).result(_CALL_SECONDS)

    def keep(self, done: threading.Event) -> None:
        """Renews the lock until `done`; ends the process where that fails for too long."""
        while not done.wait(RENEW_SECONDS):
            try:
                kept = self._write(self._generation)
            except (ValueError, OSError):  # the network; the next round tries again
                kept = True
            if not kept:
                _end(f"{self._where}: another process took the lock over while this one hung")
            if time.monotonic() - self._confirmed > GIVE_UP_SECONDS:
                _end(f"{self._where}: the bucket could not be written for {GIVE_UP_SECONDS:g} s")

    def release(self) -> None:
        """Deletes the object if it is still ours; a lock that stays expires."""
        with contextlib.suppress(ValueError, OSError):
            self._store.write(NAME, None, if_equal=self._generation).result(_CALL_SECONDS)


def _end(problem: str) -> None:
    print(
        f"sbs: error: {problem}; this process ends at once, so that there are no two writers; the "
        "same command continues from the last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    os._exit(_TRY_AGAIN)


def _myself() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine()}


def _machine() -> str | None:
    """Identifies the machine and the container to which a process number belongs."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not on Linux: nothing is known about other processes
        return None


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that no longer runs."""
    machine = _machine()
    if machine is None or holder.get("machine") != machine:
        return False
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError, TypeError):
        pass
    return False


def _holder(content: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(content)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _described(content: bytes) -> str:
    holder = _holder(content)
    return f"process {holder.get('pid', '?')} on {holder.get('host', 'an unknown machine')}"
