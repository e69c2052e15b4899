"""A connection that is only memory: whoever feeds it decides what arrives in one piece."""

import asyncio
import socket
from collections.abc import Iterable
from typing import Any


class MemoryTransport(asyncio.Transport):
    """Gives what is fed to its protocol, and keeps in `output` what the protocol writes."""

    def __init__(self, protocol: asyncio.Protocol, output: bytearray) -> None:
        super().__init__()
        self._protocol = protocol
        self._output = output
        self._closing = False
        self.is_paused = False
        self.unsent = 0  # bytes that its client has not read yet
        protocol.connection_made(self)

    def feed(self, data: bytes) -> None:
        """Let `data` arrive in one piece, unless nobody is there any more."""
        assert not self.is_paused
        if not self._closing:
            self._protocol.data_received(data)

    # ---- as asyncio.Transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self if name == "socket" else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._output += data

    def writelines(self, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        for piece in pieces:
            self.write(piece)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    # ---- as much of a socket as is looked at

    family = socket.AF_INET

    def fileno(self) -> int:
        return 17
