"""WebSockets by hand, as a client: what RFC 6455 asks of one, and not more."""

import base64
from random import Random

from tests.chaos.connection import Connection, Response
from tests.chaos.tally import Failure

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA

_FINAL = 0x80
_MASKED = 0x80


def upgrade(path: str, dice: Random) -> bytes:
    """Return the request that asks for a WebSocket."""
    key = base64.b64encode(dice.randbytes(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: chaos\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()


def frame(kind: int, payload: bytes, dice: Random) -> bytes:
    """Return one whole frame, masked as a client's must be."""
    size = len(payload)
    if size < 126:
        length = bytes([_MASKED | size])
    elif size < 2**16:
        length = bytes([_MASKED | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([_MASKED | 127]) + size.to_bytes(8, "big")
    mask = dice.randbytes(4)
    return bytes([_FINAL | kind]) + length + mask + _masked(payload, mask)


async def read_frame(connection: Connection) -> tuple[int, bytes]:
    """Read one frame: its kind and its payload."""
    first, second = await connection.exactly(2)
    size = second & 0x7F
    if not first & _FINAL or second & _MASKED:
        raise Failure("body", f"not a frame that a server sends whole: {first:#x} {second:#x}")
    if size >= 126:
        size = int.from_bytes(await connection.exactly(2 if size == 126 else 8), "big")
    return first & 0xF, await connection.exactly(size)


def close_code(payload: bytes) -> int:
    """Return the code in a close frame; 1005 when it has none, as the RFC says."""
    return int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005


def check_upgraded(response: Response) -> None:
    """Fail unless the server has switched."""
    if response.status != 101:
        raise Failure("status", f"{response.status} for a WebSocket")


def _masked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    pattern = (mask * (size // 4 + 1))[:size]
    number = int.from_bytes(payload, "big") ^ int.from_bytes(pattern, "big")
    return number.to_bytes(size, "big")
