"""Real sockets, threads, children and databases, and what is said of them."""

import _thread
import asyncio
import mmap
import os
import select
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from multiprocessing import resource_tracker
from pathlib import Path

import pytest
import uvloop

from aiocluster.zygote.holdings import anonymous_bytes, children, look, running_children
from aiocluster.zygote.leftovers import left_behind


@contextmanager
def connected(family: int, address: object) -> Iterator[socket.socket]:
    with socket.socket(family) as listener, socket.socket(family) as client:
        listener.bind(address)  # type: ignore[arg-type]
        listener.listen()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        listener.close()
        with server:
            yield client


@pytest.mark.parametrize(
    ("family", "address", "peer"),
    [
        (socket.AF_INET, ("127.0.0.1", 0), "a connection to 127.0.0.1:"),
        (socket.AF_INET6, ("::1", 0), "a connection to [::1]:"),
        (socket.AF_UNIX, "", "a connection to @"),  # the kernel finds a name
    ],
)
def test_a_connection_is_named_by_its_peer(family: int, address: object, peer: str) -> None:
    """TCP of both kinds, and a Unix socket: whatever library opened it."""
    before = look()
    with connected(family, address):
        found = left_behind(before, look())

    assert any(one.startswith(peer) for one in found), found


def test_a_connection_that_is_being_made_is_found() -> None:
    """A client that does not wait for it will have it all the same."""
    with socket.socket() as listener, ExitStack() as opened:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        before = look()
        for _ in range(3):  # more than its queue takes: the last one waits
            client = opened.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        found = left_behind(before, look())

    assert any("does not answer yet" in one for one in found), found


def test_a_listening_socket_is_named_by_its_address() -> None:
    """As of a metrics server that the module started."""
    before = look()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = left_behind(before, look())

    assert [one.split(" (")[0] for one in found] == [f"a listening socket on 127.0.0.1:{port}"]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_that_is_not_connected_is_not_found(kind: int) -> None:
    """Each process may do with its copy what it wants."""
    before = look()
    with socket.socket(type=kind):
        assert left_behind(before, look()) == []


def test_a_connected_datagram_socket_is_not_found() -> None:
    """A syslog or statsd client: each message is whole."""
    with (
        socket.socket(type=socket.SOCK_DGRAM) as server,
        socket.socket(type=socket.SOCK_DGRAM) as client,
    ):
        server.bind(("127.0.0.1", 0))
        before = look()
        client.connect(server.getsockname())
        with socket.socket(fileno=os.dup(client.fileno())):
            assert left_behind(before, look()) == []


@pytest.mark.parametrize("new_loop", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
def test_an_event_loop_is_one_finding(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """However many descriptors it has; once it is closed there is none."""
    before = look()
    with closing(new_loop()) as loop:
        loop.run_until_complete(asyncio.sleep(0))
        found = left_behind(before, look())
    after = left_behind(before, look())

    assert [one.split(" (")[0] for one in found] == ["an event loop"]
    assert after == []


def test_an_epoll_is_taken_for_a_loop() -> None:
    """Whose descriptors they are the kernel does not say."""
    before = look()
    with closing(select.epoll()):
        assert left_behind(before, look())[0].startswith("an event loop (descriptor ")


def test_a_thread_is_named_also_one_that_threading_does_not_know() -> None:
    """Those that have ended are not there."""
    over = threading.Event()
    ended = threading.Thread(target=int)
    before = look()
    threads = [threading.Thread(target=over.wait, name="flusher"), ended]
    for thread in threads:
        thread.start()
    ended.join()
    begun, unknown_over = threading.Event(), threading.Event()

    def unknown() -> None:
        begun.set()
        over.wait()
        unknown_over.set()

    _thread.start_new_thread(unknown, ())
    begun.wait()
    try:
        found = left_behind(before, look())
    finally:
        over.set()
        threads[0].join()
        unknown_over.wait()

    assert set(found) == {"thread 'flusher'", "thread '(without a name)'"}


def _wait_until_it_runs(cat: "subprocess.Popen[bytes]") -> None:
    """Popen returns while the kernel has not yet set the command line of the new process."""
    assert cat.stdin is not None
    assert cat.stdout is not None
    cat.stdin.write(b"\n")
    cat.stdin.flush()
    assert cat.stdout.read(1) == b"\n"


def test_a_child_is_named_by_its_command_while_it_runs() -> None:
    """A zombie that the module has not asked for is over."""
    before = look()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        _wait_until_it_runs(child)
        running = left_behind(before, look())
        assert child.pid in running_children()
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        dead = left_behind(before, look())
        assert child.pid in children()

    assert running == [f"child process {child.pid} (cat)"]
    assert dead == []


def test_the_resource_tracker_is_no_finding() -> None:
    """It is made to be shared over forks: memory that all workers share has one."""
    before = look()
    resource_tracker.ensure_running()
    try:
        assert left_behind(before, look()) == []
    finally:
        resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def test_a_database_is_named_by_its_file(tmp_path: Path) -> None:
    """Locks of SQLite do not survive a fork."""
    path = tmp_path / "shop.db"
    before = look()
    with closing(sqlite3.connect(path)) as connection:
        empty = left_behind(before, look())
        connection.execute("CREATE TABLE orders (id)")
        connection.commit()
        filled = left_behind(before, look())
    closed = left_behind(before, look())

    assert empty == ["an sqlite3 connection"]
    assert [one.split(" (")[0] for one in filled] == [f"the SQLite database {path}"]
    assert closed == []


def test_a_database_in_memory_is_found() -> None:
    """It has no descriptor at all."""
    before = look()
    with closing(sqlite3.connect(":memory:")):
        found = left_behind(before, look())

    assert found == ["an sqlite3 connection"]


INHERITED = """
import os, socket
from aiocluster.zygote.holdings import inherited, look
from aiocluster.zygote.leftovers import left_behind
own = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
for one in left_behind(inherited([own[1].fileno()]), look()): print(one)
"""


def test_what_the_program_was_started_with_is_not_its_own() -> None:
    """A socket that systemd handed down is none that the program opened; nor is ours."""
    with socket.create_server(("127.0.0.1", 0)) as handed_down:
        fd = handed_down.fileno()
        output = subprocess.check_output(
            [sys.executable, "-c", INHERITED], pass_fds=[fd], text=True
        ).splitlines()

    assert len(output) == 1
    assert output[0].startswith("a listening socket on 127.0.0.1:")


def test_memory_grows_with_what_is_made() -> None:
    """Of what is written, not of what is mapped."""
    size = 2**25
    before = anonymous_bytes()
    # A mapping of its own: what is allocated as usual may be memory that was in use before.
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        mapped = anonymous_bytes()
        block[:] = b"x" * size
        written = anonymous_bytes()

    assert mapped - before < size // 2
    assert written - before > size // 2
