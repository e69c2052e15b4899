"""Peeking, with real connections over loopback."""

import asyncio
import os
import resource
import select
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

import pytest

from aiocluster.policies.request_head import MAX_HEAD_BYTES, by_from
from aiocluster.primary.ingress.inspector import ConnectionInspector, Inspected, InspectorOptions
from aiocluster.primary.ingress.pending_limit import PendingLimit
from aiocluster.primary.ingress.proxy_protocol import MAX_PROXY_BYTES, TrustedProxies
from aiocluster.primary.sockets.connection import Connection
from tests.support.connections import open_fds
from tests.support.looks import Looks
from tests.support.program import PATIENCE
from tests.support.waiting import soon, turns, turns_until

HEAD = b"GET /a HTTP/1.1\r\nHost: x\r\nX-Session-Id: abc\r\n\r\n"
OTHER_HEAD = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
LOCALHOST = TrustedProxies(["127.0.0.0/8"])
PROXY = b"PROXY TCP4 203.0.113.7 10.0.0.2 5000 80\r\n"
CLIENT = ("203.0.113.7", 5000)


class Front:
    """A peeker, its clients, and what it has told."""

    def __init__(self, looks: Looks) -> None:
        self.looks = looks
        self.known: list[Inspected] = []
        self.batches: list[int] = []
        self.inspector: ConnectionInspector
        self._server = socket.create_server(("127.0.0.1", 0))
        self._clients: list[socket.socket] = []

    def begin(
        self,
        by: str = "header:x-session-id",
        *,
        timeout: float = PATIENCE,
        proxies: TrustedProxies | None = None,
        max_held: int = 4096,
        holding: PendingLimit | None = None,
        were_served: bool = False,
    ) -> ConnectionInspector:
        options = InspectorOptions(
            by=by_from(by), timeout=timeout, proxies=proxies, were_served=were_served
        )
        self.inspector = ConnectionInspector(
            options, holding or PendingLimit(max_held), self._on_known
        )
        return self.inspector

    def connect(self, data: bytes = b"") -> tuple[socket.socket, Connection]:
        """Return a client that has sent `data`, and the accepted connection."""
        client = socket.create_connection(self._server.getsockname())
        self._clients.append(client)
        if data:
            client.sendall(data)
        return client, Connection(self._accepted(), 3)

    def take(self, data: bytes = b"") -> socket.socket:
        """Give the peeker a connection whose client has sent `data`; return the client."""
        client, connection = self.connect(data)
        self.inspector.take([connection])
        return client

    async def until_known(self, count: int = 1) -> Inspected:
        """Wait until so many are known; return the last."""
        await turns_until(lambda: len(self.known) >= count)
        return self.known[-1]

    def close(self) -> None:
        self.known += self.inspector.close()
        for peeked in self.known:
            os.close(peeked.connection.fd)
        for client in self._clients:
            client.close()
        self._server.close()

    def _accepted(self) -> int:
        accepted, _ = self._server.accept()
        accepted.setblocking(False)
        return accepted.detach()

    def _on_known(self, known: list[Inspected]) -> None:
        self.batches.append(len(known))
        self.known += known


@pytest.fixture
async def front(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Front]:
    before = tcp_sockets()
    front = Front(Looks(monkeypatch))
    yield front
    front.close()
    assert tcp_sockets() <= before


def tcp_sockets() -> set[str]:
    """Return the TCP sockets of this process: uvloop makes others of its own."""
    return {fd for fd in open_fds() if " socket:" in fd and is_tcp(int(fd.split()[0]))}


def is_tcp(fd: int) -> bool:
    with socket.socket(fileno=os.dup(fd)) as sock:
        return sock.family == socket.AF_INET


@pytest.fixture
def many_fds() -> Iterator[None]:
    """Let this process open both ends of 5,000 connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 12_000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def received(peeked: Inspected) -> bytes:
    """Read what is there for a worker."""
    with socket.socket(fileno=os.dup(peeked.connection.fd)) as sock:
        return sock.recv(1_000_000)


def reset(client: socket.socket) -> None:
    """End it at once, without a word of farewell."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


async def count_looks(front: Front, act: Callable[[], object], count: int) -> int:
    """Return how often the peeker looked at anything, over `act` and `count` turns of the loop."""
    before = front.looks.count
    act()
    # The loop really polls: a descriptor that stays readable would be told of in each turn.
    for _ in range(count):
        await asyncio.sleep(0)
    return front.looks.count - before


async def test_a_head_that_is_there_is_known_at_once(front: Front) -> None:
    """It is told before `take` returns, with its listener, and is all there for the worker."""
    front.begin()

    front.take(HEAD + b"body")

    assert [peeked.affinity for peeked in front.known] == [b"abc"]
    assert front.known[0].connection.listener == 3
    assert front.known[0].client is None
    assert received(front.known[0]) == HEAD + b"body"
    assert front.looks.count == 1
    assert sum(front.inspector.fallbacks.values()) == 0


async def test_those_accepted_together_are_told_together(front: Front) -> None:
    """One call a batch, so that the dispatcher can hand them over as one."""
    front.begin()

    front.inspector.take([front.connect(HEAD)[1] for _ in range(5)])

    assert front.batches == [5]


@pytest.mark.parametrize("step", [1, 7])
async def test_a_head_that_comes_in_pieces_is_waited_for(front: Front, step: int) -> None:
    """Whatever its pieces, what is found is the same, and no byte of it is taken."""
    inspector = front.begin()
    client = front.take(HEAD[:1])

    for start in range(1, len(HEAD), step):
        client.sendall(HEAD[start : start + step])
        await turns(5)

    assert (await front.until_known()).affinity == b"abc"
    assert received(front.known[0]) == HEAD
    assert inspector.held == 0


async def test_half_a_head_does_not_keep_the_loop_busy(front: Front) -> None:
    """It stays readable, as nobody reads it, and yet is looked at once for each arrival."""
    front.begin()
    client = front.take()
    front.take(HEAD[:20])
    # When it is watched, the kernel tells once more of what was there before.
    await turns_until(lambda: front.looks.count >= 3)

    assert await count_looks(front, lambda: None, 500) == 0
    assert await count_looks(front, lambda: client.sendall(HEAD[:9]), 500) == 1
    assert await count_looks(front, lambda: client.sendall(HEAD[9:12]), 500) == 1
    assert front.known == []


async def test_a_client_that_ends_halfway_is_not_waited_for(front: Front) -> None:
    """Nothing more can come: it goes by its address, with what it has sent."""
    inspector = front.begin()
    client = front.take(HEAD[:20])

    client.shutdown(socket.SHUT_WR)

    assert (await front.until_known()).affinity == b"127.0.0.1"
    assert inspector.fallbacks["closed"] == 1
    assert received(front.known[0]) == HEAD[:20]


@pytest.mark.parametrize("data", [b"", HEAD[:20]])
async def test_one_that_had_ended_before_we_looked(front: Front, data: bytes) -> None:
    """The end was there when it was accepted."""
    inspector = front.begin()
    client, connection = front.connect(data)
    client.shutdown(socket.SHUT_WR)

    inspector.take([connection])

    assert (await front.until_known()).affinity == b"127.0.0.1"
    assert inspector.fallbacks["closed"] == 1


async def test_one_that_has_ended_after_its_head_is_known_by_it(front: Front) -> None:
    """A client may say that it sends nothing more and wait for its answer."""
    front.begin()
    client, connection = front.connect(HEAD)
    client.shutdown(socket.SHUT_WR)

    front.inspector.take([connection])

    assert front.known[0].affinity == b"abc"


async def test_a_connection_that_is_reset_is_given_back(front: Front) -> None:
    """Nobody knows where it came from any more, and a worker will see at once that it is dead."""
    inspector = front.begin()
    client = front.take(HEAD[:20])

    reset(client)

    assert (await front.until_known()).affinity == b""
    assert inspector.fallbacks["closed"] == 1


async def test_an_ipv6_client_goes_by_its_whole_address(front: Front) -> None:
    """It is longer than one of IPv4."""
    inspector = front.begin()
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        client = socket.create_connection(server.getsockname()[:2])
        accepted, _ = server.accept()
    accepted.setblocking(False)

    with client:
        client.sendall(OTHER_HEAD)
        inspector.take([Connection(accepted.detach(), 0)])

    assert front.known[0].affinity == b"::1"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nA: " + b"a" * MAX_HEAD_BYTES, "too_long"),
        (b"\x16\x03\x01", "tls"),
        (b"SSH-2.0\r\n", "not_http"),
        (OTHER_HEAD, "absent"),
    ],
)
async def test_what_has_no_affinity_goes_by_its_address(
    front: Front, data: bytes, reason: str
) -> None:
    """And is counted, by the reason."""
    inspector = front.begin()

    front.take(data)

    assert front.known[0].affinity == b"127.0.0.1"
    assert {name: count for name, count in inspector.fallbacks.items() if count} == {reason: 1}
    assert received(front.known[0]) == data


async def test_who_says_nothing_in_time_goes_by_its_address(front: Front) -> None:
    """Each after its own time, those that sent half of a head too."""
    inspector = front.begin(timeout=0.05)
    front.take()
    client = front.take(HEAD[:20])

    await front.until_known(2)

    assert [peeked.affinity for peeked in front.known] == [b"127.0.0.1"] * 2
    assert inspector.fallbacks["timeout"] == 2
    client.sendall(HEAD[20:])
    assert await count_looks(front, lambda: None, 50) == 0


async def test_each_has_its_own_time(front: Front) -> None:
    """That of one is up, and the next is still waited for."""
    inspector = front.begin(timeout=0.01)
    _, first = front.connect()
    inspector.take([first])
    inspector._options = replace(inspector._options, timeout=PATIENCE)
    client = front.take()

    await front.until_known()
    assert [peeked.connection for peeked in front.known] == [first]

    client.sendall(HEAD)
    assert (await front.until_known(2)).affinity == b"abc"


async def test_what_has_come_when_time_is_up_still_counts(front: Front) -> None:
    """A loop that was late itself does not hold that against its clients."""
    inspector = front.begin(timeout=0.0)
    client, connection = front.connect()
    inspector.take([connection])
    client.sendall(HEAD)

    assert (await front.until_known()).affinity == b"abc"
    assert inspector.fallbacks["timeout"] == 0


@pytest.mark.usefixtures("many_fds")
async def test_five_thousand_silent_ones_hold_up_nobody(front: Front) -> None:
    """At most so many are held; the longest silent give way, and who speaks is known at once."""
    inspector = front.begin(max_held=4096)
    inspector.take([front.connect()[1] for _ in range(5000)])
    assert (inspector.held, len(front.known)) == (4096, 904)
    assert inspector.fallbacks["crowded"] == 904

    assert await count_looks(front, lambda: None, 200) == 0
    front.take(HEAD)
    assert front.known[-1].affinity == b"abc"
    client = front.take(HEAD[:20])
    client.sendall(HEAD[20:])
    # One more of the silent ones has given way to it.
    assert (await front.until_known(907)).affinity == b"abc"


async def test_many_whose_time_is_up_do_not_block_the_loop(front: Front) -> None:
    """They are given back in parts, and others have their turn between."""
    inspector = front.begin(timeout=0.0)
    inspector.take([front.connect()[1] for _ in range(300)])

    await front.until_known(300)

    assert front.batches == [256, 44]
    assert inspector.fallbacks["timeout"] == 300


async def test_the_oldest_gives_way(front: Front) -> None:
    """Who has just come has not had its time to say something."""
    inspector = front.begin(max_held=2)
    _, first = front.connect()
    clients = [front.connect() for _ in range(2)]

    inspector.take([first, *(connection for _, connection in clients)])

    assert [peeked.connection for peeked in front.known] == [first]
    clients[0][0].sendall(HEAD)
    assert (await front.until_known(2)).affinity == b"abc"


async def test_peekers_share_one_bound(front: Front) -> None:
    """Who has been silent for longest gives way, also to one at another address."""
    holding = PendingLimit(2)
    first = front.begin(holding=holding)
    front.take()
    front.take()

    second = front.begin(holding=holding)
    front.take()

    assert (first.held, second.held, holding.held) == (1, 1, 2)
    assert (await front.until_known()).affinity == b"127.0.0.1"
    assert (first.fallbacks["crowded"], second.fallbacks["crowded"]) == (1, 0)
    front.known += first.close()
    assert holding.held == 1


async def test_one_given_back_is_watched_no_longer(front: Front) -> None:
    """Its descriptor lives on in a worker, and what happens to it there wakes nobody here."""
    inspector = front.begin()
    client = front.take(HEAD[:20])
    client.sendall(HEAD[20:])
    await front.until_known()

    client.sendall(b"more")
    sock = socket.socket(fileno=os.dup(front.known[0].connection.fd))
    with sock:
        await turns_until(lambda: sock.recv(100, socket.MSG_PEEK).endswith(b"more"))
    assert inspector.held == 0
    assert select.select([inspector._epoll], [], [], 0)[0] == []


async def test_what_the_kernel_will_not_watch_is_given_back(front: Front) -> None:
    """Its bounds are not ours: here, that on duplicates of one connection (500)."""
    inspector = front.begin()
    await turns()
    _, silent = front.connect()

    inspector.take([Connection(os.dup(silent.fd), 0) for _ in range(600)])
    os.close(silent.fd)

    assert inspector.held + len(front.known) == 600
    assert inspector.fallbacks["crowded"] == len(front.known) > 0


async def test_closing_gives_back_what_is_held(front: Front) -> None:
    """As it is, and a second time nothing; what has come meanwhile still counts."""
    inspector = front.begin()
    front.take(HEAD[:20])
    front.take().sendall(HEAD)

    given_back = inspector.close()

    assert [peeked.affinity for peeked in given_back] == [b"127.0.0.1", b"abc"]
    assert inspector.fallbacks["stopped"] == 1
    assert inspector.close() == []
    front.known += given_back


async def test_after_closing_nothing_is_held(front: Front) -> None:
    """What a listener still accepts as it closes is told at once, whatever has come of it."""
    inspector = front.begin()
    inspector.close()

    front.take(HEAD)
    front.take(HEAD[:20])

    assert [peeked.affinity for peeked in front.known] == [b"abc", b"127.0.0.1"]
    assert inspector.held == 0


async def test_the_next_program_goes_on_with_what_is_held(front: Front) -> None:
    """Nothing is lost: neither the bytes nor what a proxy had said."""
    inspector = front.begin(proxies=LOCALHOST)
    half = front.take(PROXY + HEAD[:9])
    none = front.take(PROXY[:9])
    state = inspector.state()
    assert [held.awaits_proxy for held in state] == [False, True]

    inspector._held.clear()  # as if there had never been this program
    assert inspector.close() == []
    front.begin(proxies=LOCALHOST).adopt(state)
    half.sendall(HEAD[9:])
    none.sendall(PROXY[9:] + HEAD)
    await front.until_known(2)

    assert {(peeked.affinity, peeked.client) for peeked in front.known} == {(b"abc", CLIENT)}


# ---- those that were with a worker before


async def test_one_that_was_served_before_goes_by_its_next_request(front: Front) -> None:
    """Also after an empty line; who it is, if a proxy has told, is told again."""
    front.begin(were_served=True)
    client, connection = front.connect()
    front.inspector.take([connection._replace(slot=3, client=CLIENT)])

    client.sendall(b"\r\n" + HEAD)

    known = await front.until_known()
    assert (known.affinity, known.connection.slot, known.client) == (b"abc", 3, CLIENT)


@pytest.mark.parametrize("why", ["timeout", "closed", "crowded", "stopped"])
async def test_one_that_was_served_before_and_is_silent_is_closed(front: Front, why: str) -> None:
    """No request is lost by that, and nobody is given who may belong to another."""
    timeout = 0.01 if why == "timeout" else PATIENCE
    inspector = front.begin(were_served=True, timeout=timeout, max_held=1)
    client = front.take()
    if why == "closed":
        client.shutdown(socket.SHUT_WR)
    elif why == "crowded":
        front.take()
    elif why == "stopped":
        assert inspector.close() == []

    with client:
        await turns_until(lambda: bool(select.select([client], [], [], 0)[0]))
        assert client.recv(1) == b""
    assert front.known == []
    assert sum(inspector.fallbacks.values()) == 0


async def test_half_a_request_is_not_lost(front: Front) -> None:
    """It goes by its address, as any other of which no more comes in time."""
    inspector = front.begin(were_served=True, timeout=0.01)
    front.take(HEAD[:20])

    assert (await front.until_known()).affinity == b"127.0.0.1"
    assert inspector.fallbacks["timeout"] == 1
    assert received(front.known[0]) == HEAD[:20]


# ---- behind a proxy


@pytest.mark.parametrize("cut", [None, 0, 1, 20, len(PROXY), len(PROXY) + 5])
async def test_the_proxy_header_is_read_and_nothing_else(front: Front, cut: int | None) -> None:
    """The client's address is told, and the request is all there."""
    front.begin(proxies=LOCALHOST)
    data = PROXY + HEAD

    client = front.take(data[:cut])
    if cut is not None:
        client.sendall(data[cut:])
    peeked = await front.until_known()

    assert (peeked.affinity, peeked.client) == (b"abc", CLIENT)
    assert received(peeked) == HEAD


async def test_by_ip_is_by_the_address_that_the_proxy_tells(front: Front) -> None:
    """Known as soon as its header is, whatever follows."""
    front.begin("ip", proxies=LOCALHOST)

    front.take(PROXY)

    assert front.known == [Inspected(front.known[0].connection, b"203.0.113.7", CLIENT)]


async def test_a_fallback_is_by_the_address_that_the_proxy_tells(front: Front) -> None:
    """Else all clients of one proxy would go to one worker."""
    inspector = front.begin(proxies=LOCALHOST)

    front.take(PROXY + OTHER_HEAD)

    assert front.known[0].affinity == b"203.0.113.7"
    assert inspector.fallbacks["absent"] == 1


async def test_a_proxys_own_check_has_the_proxys_address(front: Front) -> None:
    """LOCAL and UNKNOWN name no client."""
    front.begin("ip", proxies=LOCALHOST)

    front.take(b"PROXY UNKNOWN\r\n" + HEAD)

    assert (front.known[0].affinity, front.known[0].client) == (b"127.0.0.1", None)


async def test_the_longest_header_and_the_longest_head(front: Front) -> None:
    """One look sees both, however much that is."""
    front.begin(proxies=LOCALHOST)
    rest = MAX_PROXY_BYTES - 16
    header = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00" + rest.to_bytes(2, "big") + b"\x00" * rest
    padding = b"A: " + b"a" * (MAX_HEAD_BYTES - len(HEAD) - 5) + b"\r\n"

    front.take(header + HEAD[:26] + padding + HEAD[26:])

    assert front.known[0].affinity == b"abc"
    assert len(received(front.known[0])) == MAX_HEAD_BYTES


@pytest.mark.parametrize(
    ("data", "networks", "reason"),
    [
        (PROXY + HEAD, ["10.0.0.0/8"], "untrusted"),
        (HEAD, ["127.0.0.1"], "malformed"),
        (b"PROXY TCP4 nonsense\r\n", ["127.0.0.1"], "malformed"),
    ],
)
async def test_untrusted_and_malformed_are_closed(
    front: Front, data: bytes, networks: list[str], reason: str
) -> None:
    """Nobody gets an address by writing one."""
    inspector = front.begin(proxies=TrustedProxies(networks))

    client = front.take(data)

    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert {name: count for name, count in inspector.refusals.items() if count} == {reason: 1}
    assert front.known == []
    assert inspector.held == 0


async def test_malformed_in_a_later_piece_is_closed_too(front: Front) -> None:
    """It is watched no longer, and its number may be another's."""
    inspector = front.begin(proxies=LOCALHOST)
    client = front.take(PROXY[:20])

    client.sendall(b"nonsense\r\n")

    await turns_until(lambda: inspector.refusals["malformed"] == 1)
    assert inspector.held == 0
    front.take(PROXY + HEAD)
    assert front.known[0].affinity == b"abc"


@pytest.mark.parametrize("end", ["shutdown", "reset"])
async def test_a_proxy_that_ends_within_its_header(front: Front, end: str) -> None:
    """There is nothing to be given to a worker."""
    inspector = front.begin(proxies=LOCALHOST)
    client = front.take(PROXY[:20])

    reset(client) if end == "reset" else client.shutdown(socket.SHUT_WR)

    await turns_until(lambda: inspector.refusals["closed"] == 1)
    assert inspector.held == 0


async def test_a_proxy_header_that_never_comes(front: Front) -> None:
    """The rest of it would look like a request to a worker; so it is closed."""
    inspector = front.begin(proxies=LOCALHOST, timeout=0.01)
    silent, half = front.take(), front.take(PROXY[:20])

    await turns_until(lambda: inspector.refusals["timeout"] == 2)

    assert silent.recv(1) == b""
    with pytest.raises(ConnectionResetError):
        half.recv(1)


async def test_crowded_and_stopped_without_a_proxy_header(front: Front) -> None:
    """As in any other case where it is not known who the client is."""
    inspector = front.begin(proxies=LOCALHOST, max_held=1)
    front.take()
    front.take()

    assert inspector.close() == []
    assert (inspector.refusals["crowded"], inspector.refusals["stopped"]) == (1, 1)


async def test_a_silent_proxy_does_not_keep_the_loop_busy(front: Front) -> None:
    """Half of its header stays readable, as half of a head does."""
    front.begin(proxies=LOCALHOST)
    front.take(PROXY[:20])
    await turns_until(lambda: front.looks.count == 2)

    assert await count_looks(front, lambda: None, 500) == 0


async def test_soon_is_soon_enough(front: Front) -> None:
    """Who is held while the loop does other things is known in the next turn."""
    front.begin()
    told = asyncio.get_running_loop().create_future()
    front.inspector._on_known = told.set_result
    client = front.take()
    client.sendall(HEAD)

    known = await soon(told)

    front.known += known
    assert known[0].affinity == b"abc"
