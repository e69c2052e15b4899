"""The end of a WebSocket's connection in a drain: after both close frames, or a second later.

aiohttp's `WebSocketResponse.close()` sends a close frame and waits for the client's. But if
another task waits in `receive()`, `close()` only ends that wait, and closes the connection at
once; so does the end of a handler. A client that has not answered by then no longer can, and
reports 1006, an abnormal closure. So in a drain the connection stays open until the client's
close frame arrives; the data before that frame is read and dropped.

The second begins when the kernel has sent all data written before the close frame. If a client
was slow to take it, the client has as long again: as much may lie unread at its side.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from aiocluster.worker.http.lingering_close import LingeringTransport, unsent_bytes
from aiocluster.worker.http.request_boundary import BoundaryTrackingHandler

# Seconds that a client has to answer a close frame: a round trip, and a turn of a busy client.
_ANSWER_TIME = 1.0


class Patience:
    """The time that a client has to answer a close frame that was written at `now`."""

    def __init__(self, now: float) -> None:
        self._begun = now
        self._was_slow = False

    def seconds_more(self, unsent: int, now: float) -> float:
        """Return for how many more seconds to wait for the answer; 0: no longer.

        Call this after `_ANSWER_TIME`, and then each time that the returned seconds are over.
        `unsent` is the number of bytes that wait for room at the client's side.
        """
        if unsent:
            self._was_slow = True
            return _ANSWER_TIME
        if self._was_slow:
            self._was_slow = False
            return max(_ANSWER_TIME, now - self._begun)
        return 0.0


async def wait_for_answer(answered: asyncio.Future[Any], unsent: Callable[[], int]) -> None:
    """Wait until `answered` is done, or the client's time is over."""
    loop = asyncio.get_running_loop()
    patience, seconds = Patience(loop.time()), _ANSWER_TIME
    while seconds:
        done, _ = await asyncio.wait({answered}, timeout=seconds)
        if done:
            return
        seconds = patience.seconds_more(unsent(), loop.time())


class ClosingHandshake:
    """The end of one WebSocket's connection; its `close` replaces the transport's."""

    def __init__(
        self,
        websocket: web.WebSocketResponse,
        handler: BoundaryTrackingHandler,
        transport: LingeringTransport,
        start_task: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._websocket = websocket
        self._transport = transport
        self._unsent = partial(unsent_bytes, handler)
        self._start_task = start_task
        self._ended: asyncio.Future[None] | None = None  # once an answer is awaited
        transport.close_instead = self.close

    def close(self) -> None:
        """Close the connection as soon as the client has answered. Idempotent."""
        if not is_answer_due(self._websocket):
            code = self._websocket.close_code
            self._end(answered=code not in (None, WSCloseCode.ABNORMAL_CLOSURE))
        elif self._ended is None:
            self._ended = asyncio.get_running_loop().create_future()
            self._start_task(self._await_answer(self._ended))

    async def _await_answer(self, ended: asyncio.Future[None]) -> None:
        # If this does not read the answer, aiohttp's `close` does, and closes the transport again.
        reading = self._read_answer() if self._websocket._closing else None
        try:
            await wait_for_answer(ended, self._unsent)
        finally:
            if reading is not None:
                reading.cancel()
            self._end(answered=False)

    def _read_answer(self) -> "asyncio.Task[bool]":
        def note(reading: "asyncio.Task[bool]") -> None:
            self._end(answered=not reading.cancelled() and reading.result())

        reading = asyncio.create_task(_read_to_close(self._websocket))
        reading.add_done_callback(note)
        return reading

    def _end(self, *, answered: bool) -> None:
        self._transport.finish(in_doubt=not answered)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)


def is_answer_due(websocket: web.WebSocketResponse) -> bool:
    """Return True if our close frame is sent, and aiohttp has not seen the client's."""
    if not websocket.closed:
        return False
    if websocket._closing:
        # Its `receive` has ended, by a close frame or by another task's call of `close`.
        return websocket._close_wait is not None
    return websocket.close_code is None


async def _read_to_close(websocket: web.WebSocketResponse) -> bool:
    """Read and drop all up to the client's close frame; return True if the frame came."""
    reader = websocket._reader
    assert reader is not None
    try:
        # If `receive` got the client's frame, the CLOSING that `close` fed to it is still unread.
        while (await reader.read()).type not in (WSMsgType.CLOSE, WSMsgType.CLOSING):
            pass
    except Exception:  # the connection is lost, or the data is no frame: no answer will come
        return False
    return True
