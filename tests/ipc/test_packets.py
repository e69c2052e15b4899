import array
import os
import socket
from collections.abc import Iterator

import msgpack
import msgspec
import pytest

from aiocluster.errors import ChannelClosed, ProtocolError
from aiocluster.ipc.error_text import MAX_CAUSE_CHARS, MAX_TRACEBACK_CHARS
from aiocluster.ipc.messages import (
    Exited,
    FromZygote,
    Message,
    PrepareFailed,
    ToZygote,
    Watch,
)
from aiocluster.ipc.packets import (
    MAX_FDS,
    MAX_PACKET_BYTES,
    packet_pair,
    receive_packet,
    send_packet,
)
from tests.ipc.examples import EXAMPLES, kinds
from tests.support.connections import at_fd_limit

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

Pair = tuple[socket.socket, socket.socket]

ZYGOTES = [m for m in EXAMPLES if type(m) in kinds(ToZygote) | kinds(FromZygote)]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = packet_pair()
    with ours, theirs:
        yield ours, theirs


def inode(fd: int) -> int:
    return os.fstat(fd).st_ino


def send_raw(sock: socket.socket, packet: bytes, fds: list[int]) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    sock.sendmsg([packet], [rights] if fds else [])


def send_for_ever(sock: socket.socket) -> None:
    while True:
        send_packet(sock, Watch(1))


def largest() -> PrepareFailed:
    """Return a message whose packet has exactly MAX_PACKET_BYTES."""
    overhead = len(msgpack.packb(msgspec.to_builtins(PrepareFailed("", "x" * 70_000)))) - 70_000
    return PrepareFailed("", "x" * (MAX_PACKET_BYTES - overhead))


@pytest.mark.parametrize("message", ZYGOTES, ids=lambda m: type(m).__name__)
def test_every_message_arrives_as_it_was_sent(pair: Pair, message: Message) -> None:
    """What the one side sends is what the other side gets."""
    send_packet(pair[0], message)

    assert receive_packet(pair[1], type(message)) == (message, [])


@pytest.mark.parametrize("number", [1, 2, MAX_FDS])
def test_descriptors_come_with_their_message_and_in_order(pair: Pair, number: int) -> None:
    """Each is the receiver's own, and close-on-exec; the sender keeps its own."""
    mine = [os.memfd_create(f"{index}") for index in range(number)]
    send_packet(pair[0], Watch(1), mine)
    send_packet(pair[0], Watch(2))

    first = receive_packet(pair[1], ToZygote)
    second = receive_packet(pair[1], ToZygote)

    assert first is not None
    assert first[0] == Watch(1)
    assert [inode(fd) for fd in first[1]] == [inode(fd) for fd in mine]
    assert not any(os.get_inheritable(fd) for fd in first[1])
    assert second == (Watch(2), [])
    for fd in mine + first[1]:
        os.close(fd)


def test_packets_are_never_joined(pair: Pair) -> None:
    """One receive is one send, however many wait."""
    for worker_id in range(20):
        send_packet(pair[0], Exited(worker_id, 0))

    received = [receive_packet(pair[1], FromZygote) for _ in range(20)]

    assert received == [(Exited(worker_id, 0), []) for worker_id in range(20)]


def test_the_largest_packet_arrives_whole(pair: Pair) -> None:
    """The limit is one that the kernel, by default, really carries."""
    message = largest()
    send_packet(pair[0], message)

    assert receive_packet(pair[1], FromZygote) == (message, [])


def test_a_byte_more_is_refused_by_the_sender(pair: Pair) -> None:
    """It says so, and nothing of it is sent."""
    message = largest()
    with pytest.raises(ProtocolError, match=f"PrepareFailed of {MAX_PACKET_BYTES + 1} bytes"):
        send_packet(pair[0], PrepareFailed("x", message.traceback))

    send_packet(pair[0], Watch(1))
    assert receive_packet(pair[1], ToZygote) == (Watch(1), [])


def test_the_longest_failure_fits_into_a_packet(pair: Pair) -> None:
    """An app that fails at length is still an app that fails with its reason."""
    failure = PrepareFailed("𝄞" * MAX_CAUSE_CHARS, "𝄞" * MAX_TRACEBACK_CHARS)
    send_packet(pair[0], failure)

    assert receive_packet(pair[1], FromZygote) == (failure, [])


@pytest.mark.parametrize("message", ZYGOTES, ids=lambda m: type(m).__name__)
def test_a_message_for_the_other_side_is_refused(pair: Pair, message: Message) -> None:
    """And what came with it does not stay open."""
    expected = FromZygote if type(message) in kinds(ToZygote) else ToZygote
    send_packet(pair[0], message, [0, 0, 0])

    with pytest.raises(ProtocolError, match="not a message for this side"):
        receive_packet(pair[1], expected)


@pytest.mark.parametrize(
    "packet",
    [
        b"\xc1",
        b"\x92",
        b"\x93\x3d\x01\x01",
        msgpack.packb([61, 1]) + b"more",
        msgpack.packb([61, 1])[:-1],
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 2000,
        b"\x92\xff\x81\x90\x01",
        b"\x92\x3d\xa1\xff",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_garbage_is_refused(pair: Pair, packet: bytes) -> None:
    """And what came with it does not stay open."""
    send_raw(pair[0], packet, [0, 0])

    with pytest.raises(ProtocolError):
        receive_packet(pair[1], ToZygote)


def test_no_first_byte_makes_garbage_a_message(pair: Pair) -> None:
    """And none raises anything but a ProtocolError."""
    for first in range(256):
        send_raw(pair[0], bytes([first]) + b"\xc0" * 30, [0])
        with pytest.raises(ProtocolError):
            pytest.fail(f"{first:#x}: {receive_packet(pair[1], ToZygote)}")


def test_a_packet_that_was_cut_is_refused(pair: Pair) -> None:
    """Half a packet is not a packet."""
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
    send_raw(pair[0], msgpack.packb([80, True, "x" * MAX_PACKET_BYTES]), [0])

    with pytest.raises(ProtocolError, match="whole"):
        receive_packet(pair[1], FromZygote)


def test_more_descriptors_than_any_message_has_are_refused(pair: Pair) -> None:
    """Those that did arrive are closed."""
    send_packet(pair[0], Watch(1), [0] * (MAX_FDS + 1))

    with pytest.raises(ProtocolError, match="whole"):
        receive_packet(pair[1], ToZygote)


def test_at_the_limit_of_open_files_a_message_comes_without_its_descriptors(pair: Pair) -> None:
    """All or none, and it is for the receiver to say what that means."""
    send_packet(pair[0], Watch(1), [0, 0, 0])
    send_packet(pair[0], Watch(2), [0])

    with at_fd_limit(free=2):
        first = receive_packet(pair[1], ToZygote)
    second = receive_packet(pair[1], ToZygote)

    assert first == (Watch(1), [])
    assert second is not None
    assert len(second[1]) == 1
    os.close(second[1][0])


def test_an_empty_packet_is_an_end_and_leaves_nothing_open(pair: Pair) -> None:
    """The kernel does not tell an empty packet from the end, so nor do we."""
    send_raw(pair[0], b"", [0])

    assert receive_packet(pair[1], ToZygote) is None


def test_the_end_is_told_after_the_last_packet(pair: Pair) -> None:
    """And as often as one asks."""
    ours, theirs = pair
    send_packet(ours, Exited(1, 9))
    ours.close()

    assert receive_packet(theirs, FromZygote) == (Exited(1, 9), [])
    assert receive_packet(theirs, FromZygote) is None
    assert receive_packet(theirs, FromZygote) is None


def test_last_words_are_heard_also_of_one_that_did_not_listen(pair: Pair) -> None:
    """A zygote that says why it fails may leave orders unread: its reason still arrives."""
    ours, theirs = pair
    send_packet(ours, Watch(1))
    send_packet(theirs, PrepareFailed("why", ""))
    theirs.close()

    assert receive_packet(ours, FromZygote) == (PrepareFailed("why", ""), [])
    assert receive_packet(ours, FromZygote) is None


def test_sending_to_nobody_is_a_closed_channel(pair: Pair) -> None:
    """The zygote stops by it."""
    pair[1].close()
    with pytest.raises(ChannelClosed):
        send_packet(pair[0], Watch(1))
    with pytest.raises(ChannelClosed):
        send_packet(pair[0], Watch(1))


def test_sending_to_one_that_left_without_reading_is_a_closed_channel(pair: Pair) -> None:
    """However it left."""
    send_packet(pair[0], Watch(1))
    pair[1].close()
    with pytest.raises(ChannelClosed):
        send_packet(pair[0], Watch(1))


def test_a_socket_that_must_not_block_does_not(pair: Pair) -> None:
    """The primary has a loop to run."""
    ours, theirs = pair
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        receive_packet(ours, FromZygote)
    with pytest.raises(BlockingIOError):
        send_for_ever(ours)

    assert receive_packet(theirs, ToZygote) == (Watch(1), [])
