"""How the connection of a WebSocket ends in a drain: after both close frames, or a second later.

aiohttp's `WebSocketResponse.close()` sends a close frame and waits for the client's. But when
another task waits in `receive()` it only ends that, and closes the connection at once; and so
does the end of a handler. A client that has not answered by then cannot, and reports 1006, an
abnormal closure. So in a drain the connection is not closed before the client's close frame
has come; what comes before that frame is read and dropped.

The second begins when the kernel has sent all that was written before the close frame. A client
that was slow to take it has as long again: as much may lie unread at its side.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from aiocluster.worker.http.lingering_close import LingeringTransport, unsent_bytes
from aiocluster.worker.http.request_boundary import BoundaryTrackingHandler

# Seconds that a client has to answer a close frame: a round trip, and a busy client's turn.
_ANSWER_TIME = 1.0


class Patience:
    """The time that a client has to answer a close frame that was written at `now`."""

    def __init__(self, now: float) -> None:
        self._begun = now
        self._was_slow = False

    def seconds_more(self, unsent: int, now: float) -> float:
        """Return for how long to wait on, when it has not answered yet; 0: no longer.

        To be asked when the time that was returned before is over, first after `_ANSWER_TIME`.
        `unsent` are the bytes that wait for room at the client's side.
        """
        if unsent:
            self._was_slow = True
            return _ANSWER_TIME
        if self._was_slow:
            self._was_slow = False
            return max(_ANSWER_TIME, now - self._begun)
        return 0.0


async def wait_for_answer(answered: asyncio.Future[Any], unsent: Callable[[], int]) -> None:
    """Wait until this future is done, or its client has had its time."""
    loop = asyncio.get_running_loop()
    patience, seconds = Patience(loop.time()), _ANSWER_TIME
    while seconds:
        done, _ = await asyncio.wait({answered}, timeout=seconds)
        if done:
            return
        seconds = patience.seconds_more(unsent(), loop.time())


class ClosingHandshake:
    """The end of one WebSocket's connection; `close` takes the place of its transport's."""

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
        # Otherwise aiohttp's `close` reads it, and then closes the transport once more.
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
    """Return True if its close frame is sent, and aiohttp has not seen the client's."""
    if not websocket.closed:
        return False
    if websocket._closing:
        # Its `receive` has ended: on a close frame, or, if another task called `close`, on that.
        return websocket._close_wait is not None
    return websocket.close_code is None


async def _read_to_close(websocket: web.WebSocketResponse) -> bool:
    """Read and drop what comes before the client's close frame; return whether that came."""
    reader = websocket._reader
    assert reader is not None
    try:
        # If `receive` got the client's, what `close` sent to end it is still to be read.
        while (await reader.read()).type not in (WSMsgType.CLOSE, WSMsgType.CLOSING):
            pass
    except Exception:  # the connection is lost, or what came is no frame: no answer will come
        return False
    return True
