"""How the load client asks: a mode is one round on an open connection.

A round sends one request or a few, and raises Failure when they are not answered as they must
be; `client.asked` has the tokens of those that were not. Nothing is tried again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from tests.chaos import websocket
from tests.chaos.connection import Connection, Response
from tests.chaos.content import large_body, receipt
from tests.chaos.tally import Failure, Tally

# What a server may say when it closes a WebSocket in good order: going away, service restart.
_TOLD_CODES = (1001, 1012)

# Of a slow reader: less than its answers, or the kernel would hide that it is slow; more than a
# segment of the loopback, 64 KiB, since below that TCP itself waits for its timers.
_SLOW_RECEIVE_BYTES = 2**17


@dataclass(slots=True)
class Client:
    """One of the connections of a mode: its dice, the clock, and whom it tells."""

    dice: Random
    tally: Tally
    now: Callable[[], float]
    asked: list[str] = field(default_factory=list)

    def ask(self) -> tuple[str, float]:
        """Begin a request: return its token, which no other has, and the time."""
        token = f"{self.dice.getrandbits(64):016x}"
        self.asked.append(token)
        return token, self.now()

    def take(self, connection: Connection, began: float, response: Response, body: bytes) -> None:
        """Count the answer to the oldest request, or fail."""
        if response.status != 200:
            raise Failure("status", f"{response.status}: {response.body[:200]!r}")
        if response.body != body:
            raise Failure("body", f"{response.body[:80]!r} instead of {body[:80]!r}")
        self.took(connection, began)

    def took(self, connection: Connection, began: float) -> None:
        """The oldest request was answered well."""
        del self.asked[0]
        self.tally.answer(began, self.now(), connection.worker or "")

    async def pause(self, longest: float) -> None:
        """Do nothing for some time, half of the times for none."""
        if self.dice.random() < 0.5:
            await asyncio.sleep(self.dice.random() * longest)


@dataclass(frozen=True, slots=True)
class Mode:
    """A round, how many of them a connection may live for, how far its kernel may read ahead."""

    round: Callable[[Client, Connection], Awaitable[None]]
    lives: tuple[int, int] = (1, 200)
    receive_bytes: int = 0


async def keepalive(client: Client, connection: Connection) -> None:
    """One GET, which is not the last on its connection."""
    await _get(client, connection, "")


async def one_request(client: Client, connection: Connection) -> None:
    """One GET on a connection that is for it alone."""
    await _get(client, connection, "Connection: close\r\n")


async def post(client: Client, connection: Connection) -> None:
    """One body of any size, by length or in chunks, in several writes."""
    token, began = client.ask()
    body = client.dice.randbytes(_size(client.dice))
    make = _chunked_post if client.dice.random() < 0.5 else _post
    for piece in _pieces(make(token, body), client.dice):
        await connection.send(piece)
        await client.pause(0.001)
    client.take(connection, began, await connection.response(), receipt(token, body))


async def pipeline(client: Client, connection: Connection) -> None:
    """Several requests in one write, seldom in a few that cut them anywhere."""
    dice = client.dice
    requests, answers = b"", []
    for _ in range(dice.randint(2, 12)):
        token, began = client.ask()
        body = dice.randbytes(dice.randint(0, 2000))
        get = dice.random() < 0.5
        requests += _request("GET", f"/echo/{token}") if get else _post(token, body)
        answers.append((began, token.encode() if get else receipt(token, body)))
    for piece in _pieces(requests, dice) if dice.random() < 0.3 else [requests]:
        await connection.send(piece)
    for began, answer in answers:
        if connection.is_over:
            # "Connection: close" says that what came after is not begun: it may be sent again.
            client.tally.tell("pipelined behind a last answer", len(client.asked))
            client.asked.clear()
            return
        client.take(connection, began, await connection.response(), answer)


async def slow(client: Client, connection: Connection) -> None:
    """A large answer, read with pauses."""
    token, began = client.ask()
    size = client.dice.randint(2**18, 2**20)
    await connection.send(_request("GET", f"/large/{token}/{size}"))
    for _ in range(client.dice.randint(1, 4)):  # which is less than all of it
        await connection.read_some()
        await client.pause(0.05)
    client.take(connection, began, await connection.response(), large_body(token, size))


async def messages(client: Client, connection: Connection) -> None:
    """One message over a WebSocket, and its echo."""
    if not connection.is_upgraded:
        token, began = client.ask()
        await connection.send(websocket.upgrade(f"/websocket/{token}", client.dice))
        websocket.check_upgraded(await connection.response())
        connection.is_upgraded = True
        client.took(connection, began)
    elif connection.has_data():
        await _hear_close(client, connection, await websocket.read_frame(connection))
    else:
        await _echo(client, connection)


MODES = {
    "keepalive": Mode(keepalive),
    "close": Mode(one_request, lives=(1, 1)),
    "post": Mode(post),
    "pipeline": Mode(pipeline),
    "slow": Mode(slow, lives=(1, 20), receive_bytes=_SLOW_RECEIVE_BYTES),
    "websocket": Mode(messages),
}


async def _get(client: Client, connection: Connection, header: str) -> None:
    token, began = client.ask()
    await connection.send(_request("GET", f"/echo/{token}", header))
    client.take(connection, began, await connection.response(), token.encode())


async def _echo(client: Client, connection: Connection) -> None:
    token, began = client.ask()
    text = f"{token} {'x' * client.dice.choice((0, 10, 1000, 70_000))}".encode()
    await connection.send(websocket.frame(websocket.TEXT, text, client.dice))
    kind, payload = await websocket.read_frame(connection)
    if kind != websocket.TEXT:
        await _hear_close(client, connection, (kind, payload))
    elif payload != text:
        raise Failure("body", f"{payload[:80]!r} instead of {text[:80]!r}")
    else:
        client.took(connection, began)


async def _hear_close(client: Client, connection: Connection, frame: tuple[int, bytes]) -> None:
    """The server says something unasked: it must be that it closes, and why."""
    kind, payload = frame
    code = websocket.close_code(payload)
    if kind != websocket.CLOSE or code not in _TOLD_CODES:
        raise Failure("status", f"frame {kind:#x} {payload[:80]!r}, close code {code}")
    client.tally.tell(f"WebSocket closed with {code}")
    client.asked.clear()
    connection.is_over = True
    await connection.send(websocket.frame(websocket.CLOSE, payload[:2], client.dice))


def _request(method: str, path: str, headers: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: chaos\r\n{headers}\r\n".encode()


def _post(token: str, body: bytes) -> bytes:
    return _request("POST", f"/post/{token}", f"Content-Length: {len(body)}\r\n") + body


def _chunked_post(token: str, body: bytes) -> bytes:
    half = len(body) // 2
    chunks = [chunk for chunk in (body[:half], body[half:]) if chunk]
    head = _request("POST", f"/post/{token}", "Transfer-Encoding: chunked\r\n")
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def _size(dice: Random) -> int:
    """Mostly small, seldom more than what a worker buffers."""
    return dice.randint(0, dice.choice((0, 100, 2000, 2000, 2**16, 2**19)))


def _pieces(data: bytes, dice: Random) -> Sequence[bytes]:
    """Cut into up to six pieces, anywhere."""
    cuts = sorted(dice.randint(0, len(data)) for _ in range(dice.randint(0, 5)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]
