import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from random import Random

import msgpack
import pytest

from aiocluster.errors import ProtocolError
from aiocluster.ipc.handoff import (
    MAX_BATCH,
    MAX_LISTENERS,
    Taken,
    give,
    give_told,
    handoff_pair,
    next_batch_size,
    take,
    take_all,
    untaken_bytes,
)
from tests.support.connections import none_lost

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    sender, receiver = handoff_pair()
    with sender, receiver:
        yield sender, receiver


class Connections:
    """Descriptors that can be told apart, wherever a duplicate of one turns up."""

    def __init__(self, number: int) -> None:
        self.fds = [os.memfd_create(f"connection-{index}") for index in range(number)]
        self._indexes = {os.fstat(fd).st_ino: index for index, fd in enumerate(self.fds)}

    def __enter__(self) -> "Connections":
        return self

    def __exit__(self, *exc_info: object) -> None:
        for fd in self.fds:
            os.close(fd)

    def recognise(self, batch: list[Taken] | None) -> list[tuple[int, int]]:
        """Return (which of ours, listener) for each that was taken, and close it."""
        assert batch is not None
        found = [(self._indexes[os.fstat(fd).st_ino], listener) for fd, listener, _ in batch]
        for fd, *_ in batch:
            os.close(fd)
        return found


def fill(sender: socket.socket, fd: int) -> int:
    """Give batches of one until one is refused; return how many were not."""
    return next(
        number for number in count() if not give(sender, [fd], bytes([number % MAX_LISTENERS]))
    )


@pytest.mark.parametrize("size", [1, MAX_BATCH])
def test_the_size_of_the_next_batch_is_known_before_it_is_taken(pair: Pair, size: int) -> None:
    """To look takes nothing, opens nothing and destroys nothing."""
    sender, receiver = pair
    assert next_batch_size(receiver) == 0
    with Connections(size) as ours:
        assert give(sender, ours.fds, bytes(size))

        assert next_batch_size(receiver) == next_batch_size(receiver) == size

        assert len(ours.recognise(take(receiver))) == size


def test_connections_go_both_ways(pair: Pair) -> None:
    """A worker gives back on its own end."""
    primary, worker = pair
    with Connections(2) as ours:
        assert give(primary, ours.fds[:1], b"\1")
        assert give(worker, ours.fds[1:], b"\2")

        assert ours.recognise(take(worker)) == [(0, 1)]
        assert ours.recognise(take(primary)) == [(1, 2)]


@pytest.mark.parametrize("size", [1, 2, 100, MAX_BATCH])
def test_a_batch_arrives_whole(pair: Pair, size: int) -> None:
    """From one connection to as many as the kernel allows, each with its listener."""
    listeners = bytes(index % 256 for index in range(size))
    with Connections(size) as connections:
        assert give(pair[0], connections.fds, listeners)

        assert connections.recognise(take(pair[1])) == list(enumerate(listeners))


def test_what_was_given_still_belongs_to_the_giver(pair: Pair) -> None:
    """The worker gets duplicates: the primary closes its own."""
    with Connections(1) as connections:
        give(pair[0], connections.fds, b"\x00")
        os.fstat(connections.fds[0])
        connections.recognise(take(pair[1]))
        os.fstat(connections.fds[0])


def test_a_connection_lives_on_when_the_giver_has_closed_it(pair: Pair) -> None:
    """In the queue it is the kernel's, and its client notices nothing."""
    client, server = socket.socketpair()
    with client:
        with server:
            give(pair[0], [server.fileno()], b"\x03")
        ((fd, listener, told),) = take(pair[1]) or []
        assert told is None
        with socket.socket(fileno=fd) as taken:
            taken.sendall(b"hello")
            assert client.recv(5) == b"hello"
    assert listener == 3


def test_batches_are_not_mixed(pair: Pair) -> None:
    """Each take is one give, in order, and each connection keeps its own listener."""
    sizes = [1, 3, 2, MAX_BATCH, 1]
    with Connections(sum(sizes)) as connections:
        left = list(enumerate(connections.fds))
        given = []
        for size in sizes:
            batch, left = left[:size], left[size:]
            listeners = bytes((index * 7) % 256 for index, _ in batch)
            assert give(pair[0], [fd for _, fd in batch], listeners)
            given.append([(index, (index * 7) % 256) for index, _ in batch])

        assert [connections.recognise(take(pair[1])) for _ in sizes] == given


def test_taken_connections_do_not_leak_into_programs(pair: Pair) -> None:
    """A client must not stay connected because a worker started a long-lived program."""
    with Connections(2) as connections:
        for fd in connections.fds:
            os.set_inheritable(fd, True)
        give(pair[0], connections.fds, b"\x00\x01")
        batch = take(pair[1])

        assert [os.get_inheritable(fd) for fd, *_ in batch or []] == [False, False]
        connections.recognise(batch)


def test_the_sockets_themselves_do_not_leak_and_do_not_block(pair: Pair) -> None:
    """Neither side ever waits here."""
    for end in pair:
        assert not end.get_inheritable()
        assert not end.getblocking()


def test_an_empty_queue_says_so(pair: Pair) -> None:
    """Nothing to take is not the end."""
    with pytest.raises(BlockingIOError):
        take(pair[1])


def test_a_full_queue_refuses_and_the_giver_still_owns(pair: Pair) -> None:
    """What is refused is not lost: it goes to another worker."""
    with Connections(2) as connections:
        first, refused = connections.fds
        number = fill(pair[0], first)
        assert number > 0
        assert not give(pair[0], [refused], b"\x07")
        os.fstat(refused)

        taken = connections.recognise(take_all(pair[1], none_lost))

    assert taken == [(0, index % MAX_LISTENERS) for index in range(number)]


def test_a_queue_has_room_again_once_it_is_taken_from(pair: Pair) -> None:
    """Full is a state, not an end."""
    with Connections(1) as connections:
        fill(pair[0], connections.fds[0])
        connections.recognise(take_all(pair[1], none_lost))

        assert give(pair[0], connections.fds, b"\x09")
        assert connections.recognise(take(pair[1])) == [(0, 9)]


def test_nobody_can_take_from_a_closed_end(pair: Pair) -> None:
    """A worker that is gone is like one that is full: the connection goes elsewhere."""
    sender, receiver = pair
    receiver.close()
    with Connections(1) as connections:
        assert not give(sender, connections.fds, b"\x00")
        assert not give(sender, connections.fds, b"\x00")
        os.fstat(connections.fds[0])


def test_the_end_is_told_after_all_was_taken(pair: Pair) -> None:
    """A primary that dies after giving has still given."""
    sender, receiver = pair
    with Connections(1) as connections:
        give(sender, connections.fds, b"\x05")
        sender.close()

        assert connections.recognise(take(receiver)) == [(0, 5)]
        assert take(receiver) is None
        assert take(receiver) is None


def test_a_giver_with_a_bug_hears_of_it(pair: Pair) -> None:
    """Only what passes by itself counts as full."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        give(pair[0], [1_000_000], b"\x00")
    with Connections(MAX_BATCH + 1) as connections, pytest.raises(OSError, match="Invalid"):
        give(pair[0], connections.fds, bytes(MAX_BATCH + 1))


def test_what_a_dead_worker_left_can_be_taken_back(pair: Pair) -> None:
    """The primary's duplicate of the worker's end keeps the queue alive; nobody is dropped."""
    sender, receiver = pair
    with ExitStack() as stack:
        duplicate = stack.enter_context(receiver.dup())
        connections = stack.enter_context(Connections(5))
        give(sender, connections.fds[:1], b"\x01")
        give(sender, connections.fds[1:3], b"\x02\x03")
        give(sender, connections.fds[3:], b"\x04\x05")
        taken = connections.recognise(take(receiver))
        receiver.close()

        assert taken == [(0, 1)]
        assert connections.recognise(take_all(duplicate, none_lost)) == [
            (1, 2),
            (2, 3),
            (3, 4),
            (4, 5),
        ]
        assert take_all(duplicate, none_lost) == []


def test_taking_all_ends_where_the_other_side_closed(pair: Pair) -> None:
    """The end of the queue is the end."""
    sender, receiver = pair
    with Connections(1) as connections:
        give(sender, connections.fds, b"\x05")
        sender.close()

        assert connections.recognise(take_all(receiver, none_lost)) == [(0, 5)]


AT_THE_LIMIT = """
import os, resource, sys
from aiocluster.ipc.handoff import TruncatedBatch, give, handoff_pair, take, take_all

free, batches = int(sys.argv[1]), int(sys.argv[2])
sender, receiver = handoff_pair()
given = [os.memfd_create(f"{index}") for index in range(10)]
inodes = [os.fstat(fd).st_ino for fd in given]
for _ in range(batches):
    assert give(sender, given, bytes(range(100, 110)))
for fd in given:
    os.close(fd)
lowest = os.dup(0)
os.close(lowest)
before = os.listdir("/proc/self/fd")
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, hard))
lost = 0
try:
    arrived = take_all(receiver, print) if batches > 1 else take(receiver)
except TruncatedBatch as truncated:
    arrived, lost = truncated.arrived, truncated.lost
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
print(lost, *((inodes.index(os.fstat(fd).st_ino), listener) for fd, listener, _ in arrived))
for fd, *_ in arrived:
    os.close(fd)
assert os.listdir("/proc/self/fd") == before
"""


def at_the_limit(free: int, *, batches: int = 1) -> str:
    """Take 10 connections a batch where only `free` descriptors may still be opened."""
    command = [sys.executable, "-c", AT_THE_LIMIT, str(free), str(batches)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_at_the_descriptor_limit_the_loss_is_told() -> None:
    """What the kernel destroyed is counted, what arrived is served, and nothing leaks."""
    assert at_the_limit(3) == "7 (0, 100) (1, 101) (2, 102)"


def test_with_no_descriptor_left_all_is_lost_and_told() -> None:
    """Even the worst case is not taken for the end."""
    assert at_the_limit(0) == "10"


def test_just_below_the_limit_nothing_is_lost() -> None:
    """The limit is the kernel's, to the last descriptor."""
    assert at_the_limit(10).startswith("0 (0, 100)")


def test_taking_all_takes_what_it_can() -> None:
    """A truncated batch does not keep the others from being taken back."""
    assert at_the_limit(12, batches=3).endswith("(9, 109) (0, 100) (1, 101)")


# ---- whose client a proxy has told


def test_who_a_proxy_has_told_comes_with_its_connection(pair: Pair) -> None:
    """Alone, in the order of the others."""
    client = ("2001:db8:ffff:ffff:ffff:ffff:ffff:fffe", 65535)
    with Connections(3) as ours:
        assert give(pair[0], ours.fds[:1], b"\x01")
        assert give_told(pair[0], ours.fds[1], 2, client)
        assert give(pair[0], ours.fds[2:], b"\x03")

        sizes, clients, listeners = [], [], []
        for _ in range(3):
            sizes.append(next_batch_size(pair[1]))
            batch = take(pair[1])
            clients += [told for _, _, told in batch or []]
            listeners += ours.recognise(batch)

    assert sizes == [1, 1, 1]
    assert clients == [None, client, None]
    assert listeners == [(0, 1), (1, 2), (2, 3)]


def test_what_is_not_taken_yet_is_known(pair: Pair) -> None:
    """Each batch counts, until the other side takes it."""
    sender, receiver = pair
    assert untaken_bytes(sender) == 0
    with Connections(2) as connections:
        assert give(sender, connections.fds, b"\0\0")
        one = untaken_bytes(sender)
        assert give(sender, connections.fds, b"\0\0")
        assert untaken_bytes(sender) == 2 * one > 0

        for _ in range(2):
            connections.recognise(take(receiver))

    assert untaken_bytes(sender) == 0


# ---- what is no batch


@pytest.mark.parametrize(
    ("packet", "fds", "why"),
    [
        (b"\0\0\0", 1, "3 connections with 1 descriptors"),
        (b"\0", 2, "1 connections with 2 descriptors"),
        (b"\0", 0, "1 connections with 0 descriptors"),
        (b"", 1, "0 connections with 1 descriptors"),
        (b"\xff\0" + msgpack.packb(["::1", 5]), 2, "1 connections with 2 descriptors"),
        (b"\xff\0" + msgpack.packb(["::1", 5]), 0, "1 connections with 0 descriptors"),
        (b"\xff", 0, "no client"),
        (b"\xff\0\xc1", 1, "no client"),
        (b"\xff\0" + msgpack.packb(["::1"]), 1, "no client"),
        (b"\xff\0" + msgpack.packb([5, "::1"]), 1, "no client"),
    ],
)
def test_what_is_no_batch_is_refused_and_leaks_nothing(
    pair: Pair, packet: bytes, fds: int, why: str
) -> None:
    """Its descriptors are closed, and the next batch is read as ever."""
    with Connections(fds + 1) as ours:
        socket.send_fds(pair[0], [packet], ours.fds[:fds])
        assert give(pair[0], ours.fds[fds:], b"\7")
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ProtocolError, match=why):
            take(pair[1])
        assert len(os.listdir("/proc/self/fd")) == before

        assert ours.recognise(take(pair[1])) == [(fds, 7)]


def test_taking_all_leaves_out_what_is_no_batch(pair: Pair) -> None:
    """What a dead worker had still sent well goes on."""
    with Connections(3) as ours:
        assert give(pair[0], ours.fds[:1], b"\1")
        socket.send_fds(pair[0], [b"\0\0\0"], ours.fds[1:2])
        assert give(pair[0], ours.fds[2:], b"\2")

        assert ours.recognise(take_all(pair[1], none_lost)) == [(0, 1), (2, 2)]


def test_any_packet_is_a_batch_or_is_refused(pair: Pair) -> None:
    """Whatever a faulty worker sends, nothing else is raised and no descriptor stays open."""
    chance = Random(11)
    before = len(os.listdir("/proc/self/fd"))
    with Connections(3) as ours:
        for _ in range(2000):
            packet = chance.randbytes(chance.choice((0, 1, 2, 3, 40)))
            packet = (b"\xff" + packet) if chance.random() < 0.3 else packet
            socket.send_fds(pair[0], [packet], ours.fds[: chance.randrange(4)])
            try:
                batch = take(pair[1])
            except ProtocolError:
                continue
            for fd, listener, _ in batch or []:
                assert 0 <= listener <= 255
                os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == before
