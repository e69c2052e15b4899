"""The two ends of a channel in one process, without a socket between them.

If a program serves in one process, its worker and its primary are both in that process. Their
messages pass the same codec and the same window as over a socket, so a message that could not be
sent on Linux cannot be sent here either.
"""

import asyncio
import contextvars

from aiocluster.ipc.channel import Channel


def connect(one: Channel, other: Channel) -> None:
    """Open both ends: each receives what the other sends, a turn or two of the loop later."""
    pair = _Pair(one, other)
    one.connection_made(_End(pair, other))
    other.connection_made(_End(pair, one))


class _Pair:
    """The state that both ends share. All data arrives in the context of `connect`."""

    def __init__(self, *channels: Channel) -> None:
        self._channels = channels
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._is_closing = self._is_lost = False

    def write(self, reader: Channel, data: bytes) -> None:
        self._loop.call_soon(self._deliver, reader, data, context=self._context)

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self._lose, context=self._context)

    def _deliver(self, reader: Channel, data: bytes) -> None:
        if not self._is_lost:
            reader.feed(data)

    def _lose(self) -> None:
        self._is_lost = True
        for channel in self._channels:
            channel.connection_lost(None)


class _End(asyncio.Transport):
    """The transport of one end, with the methods that a channel needs."""

    def __init__(self, pair: _Pair, reader: Channel) -> None:
        super().__init__()
        self._pair = pair
        self._reader = reader

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._pair.write(self._reader, bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self._pair.close()

    def abort(self) -> None:
        self._pair.close()
