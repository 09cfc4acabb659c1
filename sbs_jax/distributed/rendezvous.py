"""Detects a process's place in a run, and checks that all processes have started."""

import contextlib
import importlib.util
import os
import socket
import time

from sbs_jax.errors import UserError

INITIALIZATION_SECONDS = 300

_RETRY_SECONDS = 0.1


def detect(
    address: str | None = None,
    count: int | None = None,
    index: int | None = None,
    timeout: int = INITIALIZATION_SECONDS,
) -> tuple[str | None, int | None, int | None]:
    """Fills in the missing parts of a process's place in a run, as jax detects them on a cluster.

    jax has no public function that detects without joining, and joining is too late: a missing
    process makes it abort all others. So this calls what `jax.distributed.initialize` calls, which
    is private to jax; where a later jax has no such function, nothing is detected.
    """
    address = address or os.environ.get("JAX_COORDINATOR_ADDRESS")
    try:
        from jax._src.clusters import ClusterEnv

        detect_unset = ClusterEnv.auto_detect_unset_distributed_params
    except (ImportError, AttributeError):
        return address, count, index
    return detect_unset(address, count, index, None, None, timeout)[:3]


def on_tpu_pod() -> bool:
    """Whether this machine is one of several of a TPU slice, where no flag is needed."""
    if importlib.util.find_spec("libtpu") is None:
        return False
    _, count, _ = detect()
    return count is not None and count > 1


def roll_call(address: str, count: int, index: int, timeout: float) -> None:
    """Returns once all `count` processes have started; called before jax, which would abort.

    Process 0 listens at `address` until every other process has sent its number, then frees the
    port for jax.

    Raises:
        UserError: on every process that has started: the numbers missing after `timeout` seconds,
            two processes with the same number, or with different --process_count.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator_address={address}: give IP:port of process 0")
    if not 0 <= index < count:
        raise UserError(f"--process_index={index}: must be from 0 to {count - 1} (--process_count)")
    deadline = time.monotonic() + timeout
    if index == 0:
        _call(int(port), count, deadline, f"at {address} within {timeout:g} s")
    else:
        _answer(host.strip("[]"), int(port), f"{index} {count}\n", deadline, address, timeout)


def _call(port: int, count: int, deadline: float, where: str) -> None:
    present: set[int] = set()
    peers: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(port))
        error = None
        while len(present) < count - 1 and not error:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                peer = stack.enter_context(server.accept()[0])
                peer.settimeout(max(deadline - time.monotonic(), 0.001))
                words = peer.makefile(encoding="ascii").readline().split()
            except TimeoutError:
                missing = [str(i) for i in range(1, count) if i not in present]
                error = f"of {count} processes, missing {where}: {', '.join(missing)}"
                break
            if len(words) != 2 or not all(map(str.isdigit, words)):
                continue  # somebody else's connection
            number, peer_count = map(int, words)
            if peer_count != count:
                error = f"process {number} has --process_count={peer_count}, process 0 has {count}"
            elif number in present:
                error = f"two processes have --process_index={number}"
            present.add(number)
            peers.append(peer)
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.sendall(f"{error or ''}\n".encode())
                peer.recv(1)  # the other side closes first, so that the port is free at once
    if error:
        raise UserError(f"{error}; start every process with its own --process_index")


def _listen(port: int) -> socket.socket:
    if port > 65535:
        raise UserError(f"--coordinator_address: {port} is no port; give one up to 65535")
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise UserError(
            f"--coordinator_address: process 0 cannot listen at port {port} ({reason}); "
            "choose another port"
        ) from None


def _answer(
    host: str, port: int, words: str, deadline: float, address: str, timeout: float
) -> None:
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), timeout=1) as peer:
                peer.settimeout(max(deadline - time.monotonic(), 0) + 1)
                peer.sendall(words.encode())
                verdict = peer.makefile(encoding="utf-8").readline()
            if verdict.strip():
                raise UserError(f"{verdict.strip()}; start every process with its own number")
            if verdict:
                return
        except OSError:
            pass
        time.sleep(_RETRY_SECONDS)
    raise UserError(
        f"process 0 was not at {address} within {timeout:g} s; start it, or correct "
        "--coordinator_address"
    )
