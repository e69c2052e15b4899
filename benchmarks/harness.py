"""Starts a side, waits until it serves and is quiet, loads it, and always ends it.

A side is one server under test. Every server runs in a process group of its own, and what it left
outside that group is ended too, whatever happened: an error here, Ctrl-C, a SIGTERM.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil

from benchmarks import processes

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
START_TIMEOUT = 30.0
STOP_TIMEOUT = 8.0
# A load that is not over by then is a failure of the server: the longest here takes a third of it.
LOAD_TIMEOUT = 60.0


class BenchmarkFailed(Exception):
    """A side did not start, or did not answer every request: there is nothing to compare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One server under test, and how it is started on a port."""

    name: str
    origin: str
    command: Callable[[int], list[str]]
    installed: bool = True
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Server:
    """A side that runs: its primary is the process that was started."""

    side: Side
    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def pid(self) -> int:
        return self.process.pid


@dataclass(frozen=True, slots=True)
class Load:
    """What the load client saw. `bodies` counts connections by the body of their first answer."""

    ok: int
    failures: dict[str, int]
    seconds: float
    bodies: dict[str, int]


@dataclass(frozen=True, slots=True)
class TimedLoad:
    """What the load client that keeps times saw: the milliseconds of each answer, by path."""

    seconds: float
    milliseconds: dict[str, list[float]]
    bodies: dict[str, int]


def parse_options(
    doc: str | None, argv: Sequence[str] | None, rounds: int | None
) -> argparse.Namespace:
    """`--quick` and `--rounds`, the same for every benchmark."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a short run, for a first look")
    parser.add_argument(
        "--rounds", type=int, help=f"measured rounds a side (default: {rounds or 'its own'})"
    )
    options = parser.parse_args(argv)
    if options.rounds is None:
        options.rounds = 2 if options.quick else rounds
    return options


def _leave(number: int, frame: object) -> None:
    # By an exception, so that every running server is ended on the way out.
    sys.exit(f"ended by {signal.Signals(number).name}")


def present(sides: Sequence[Side]) -> list[Side]:
    """Those that are installed; says which are not."""
    for side in sides:
        if not side.installed:
            print(f"{side.name}: not installed ({side.origin})")
    return [side for side in sides if side.installed]


def alternated(sides: Sequence[T], rounds: int) -> Iterator[T]:
    """Every side once a round, each round begun by another one: drift favours nobody."""
    for number in range(rounds):
        shift = number % len(sides) if sides else 0
        yield from (*sides[shift:], *sides[:shift])


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def run_to_end(command: Sequence[str], timeout: float) -> str:
    """What a program that ends by itself prints; ends it and its children when it does not."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True)
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise BenchmarkFailed(f"{command}: not over after {timeout:.0f} s") from None
    finally:
        _end(process)
    if process.returncode:
        raise BenchmarkFailed(f"{command}: ended with {process.returncode}")
    return output.decode()


@contextlib.contextmanager
def running(side: Side) -> Iterator[Server]:
    """Start `side`; enter when it serves and is quiet; end it whatever happens."""
    with tempfile.TemporaryFile() as log:
        port = free_port()
        process = subprocess.Popen(
            side.command(port),
            cwd=ROOT,
            env={**os.environ, **side.env},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            server = Server(side, port, process)
            _wait_until_serving(server)
            wait_until_quiet(server)
            yield server
        except BenchmarkFailed as failure:
            log.seek(0)
            tail = log.read().decode(errors="replace")[-2000:]
            raise BenchmarkFailed(f"{failure}\n--- its log ends ---\n{tail}") from failure
        finally:
            _end(process)


@contextlib.contextmanager
def all_running(sides: Sequence[Side]) -> Iterator[list[Server]]:
    """All sides at once, so that turns can be short; one that idles costs the others nothing."""
    with contextlib.ExitStack() as servers:
        yield [servers.enter_context(running(side)) for side in sides]


def answer(port: int, path: str, timeout: float) -> str:
    """The body of one GET on a connection of its own; OSError when there is none."""
    with socket.create_connection((HOST, port), timeout=timeout) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        received = b"".join(iter(lambda: sock.recv(4096), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ConnectionError(f"no 200 but {head[:40]!r}")
    return body.decode()


def load(server: Server, mode: str, *, connections: int, requests: int, path: str = "/") -> Load:
    """Run benchmarks.load against `server` in a process of its own; all must be answered."""
    command = [sys.executable, "-m", "benchmarks.load", mode, "--port", str(server.port)]
    command += ["--connections", str(connections), "--requests", str(requests), "--path", path]
    command += ["--timeout", str(LOAD_TIMEOUT)]
    if path == "/":
        command += ["--expect", "hello"]
    result = Load(**json.loads(run_to_end(command, LOAD_TIMEOUT + 10)))
    if result.failures or result.ok != requests:
        raise BenchmarkFailed(
            f"{server.side.name}: {result.ok} of {requests} answered, {result.failures}"
        )
    return result


def timed_load(server: Server, mode: str, **options: object) -> TimedLoad:
    """Run benchmarks.timed_load against `server` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.timed_load", mode, "--port", str(server.port)]
    for name, value in {**options, "timeout": LOAD_TIMEOUT}.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    try:
        return TimedLoad(**json.loads(run_to_end(command, LOAD_TIMEOUT + 10)))
    except BenchmarkFailed as failure:
        raise BenchmarkFailed(f"{server.side.name}: {failure}") from None


def wait_until_quiet(server: Server, timeout: float = START_TIMEOUT) -> None:
    """Return once nothing in the tree works: all have booted, or closed what was open."""
    deadline = time.monotonic() + timeout
    quiet_since = None
    before = _activity(server)
    while time.monotonic() < deadline:
        time.sleep(0.1)
        members, cpu = after = _activity(server)
        # Heartbeats go on for ever: 3 % of a core counts as quiet.
        if members == before[0] and cpu - before[1] < 0.003:
            quiet_since = quiet_since or time.monotonic()
            if time.monotonic() - quiet_since >= 0.3:
                return
        else:
            quiet_since = None
        before = after
    raise BenchmarkFailed(f"{server.side.name}: still busy {timeout:.0f} s later")


def _activity(server: Server) -> tuple[set[int], float]:
    return set(processes.tree(server.pid)), processes.tree_cpu(server.pid)


def _wait_until_serving(server: Server) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise BenchmarkFailed(f"{server.side.name}: ended with {server.process.returncode}")
        with contextlib.suppress(OSError):
            if answer(server.port, "/", timeout=5.0) == "hello":
                return
        time.sleep(0.02)
    raise BenchmarkFailed(f"{server.side.name}: does not serve after {START_TIMEOUT:.0f} s")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask, then kill the group; then whatever of the tree had left the group."""
    members = _descendants(process.pid)
    process.terminate()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT)
    finally:  # a second Ctrl-C comes here, too
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for member in members:
            # psutil knows by the start time that the pid is still that process.
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
