"""The WebSockets of a worker in a drain: they never end by themselves, so each is closed.

A client connects again as soon as it has its close code, so WebSockets are closed one after the
other. An ordinary request pays nothing for this.
"""

import asyncio
import logging
import weakref
from collections.abc import Callable, Coroutine
from functools import partial, wraps
from typing import Any

from aiohttp import WSCloseCode, web
from aiohttp.abc import AbstractStreamWriter

from aiocluster.worker.http.aiohttp_internals import KEEPS_CLOSE_CODE
from aiocluster.worker.http.closing_handshake import ClosingHandshake, wait_for_answer
from aiocluster.worker.http.lingering_close import let_linger, unsent_bytes
from aiocluster.worker.http.request_boundary import BoundaryTrackingHandler

log = logging.getLogger("aiocluster.worker")

# Seconds between two closes, each a client that connects again. So two WebSockets do not hold up a
# Ctrl-C, and a hundred clients do not arrive as one.
_GAP = 0.1

# The share of a drain's time in which all are closed: the rest is for the clients' answers.
_TELLING_SHARE = 0.5

# What a close that is given up takes at most, seconds: nothing, unless the app has its own.
_CANCEL_GRACE = 0.25

_WORDS = {
    WSCloseCode.SERVICE_RESTART: b"this worker is being replaced",
    WSCloseCode.GOING_AWAY: b"the service stops",
}


def close_code(*, stopping: bool) -> WSCloseCode:
    """Return 1001 when the service stops, or 1012: the client should connect again at once."""
    return WSCloseCode.GOING_AWAY if stopping else WSCloseCode.SERVICE_RESTART


def telling_times(count: int, seconds: float) -> list[float]:
    """Return when to close each of `count`, in a drain that may take `seconds`."""
    span = min(seconds * _TELLING_SHARE, count * _GAP)
    return [span * index / count for index in range(count)]


Opened = Callable[[web.BaseRequest, web.WebSocketResponse], None]


def when_opened(opened: Opened) -> None:
    """Let aiohttp call `opened` for each WebSocket of this process, as soon as it is open.

    aiohttp has no hook for that, and a request class of our own would take the place of the app's.
    """
    prepare = web.WebSocketResponse.prepare

    @wraps(prepare)
    async def prepare_and_report(
        websocket: web.WebSocketResponse, request: web.BaseRequest
    ) -> AbstractStreamWriter:
        was_open = websocket.prepared
        writer = await prepare(websocket, request)
        if not was_open:  # aiohttp prepares once more what a handler returns
            opened(request, websocket)
        return writer

    web.WebSocketResponse.prepare = prepare_and_report  # type: ignore[method-assign, assignment]


class WebSockets:
    """The WebSockets of one worker. `code` is the close code of the next one."""

    def __init__(self) -> None:
        self.code = WSCloseCode.GOING_AWAY
        self._loop = asyncio.get_running_loop()
        # Each with its connection. The app's handler holds a WebSocket, so one that is over goes
        # from here by itself.
        self._open: weakref.WeakKeyDictionary[web.WebSocketResponse, BoundaryTrackingHandler]
        self._open = weakref.WeakKeyDictionary()
        self._completing = False
        self._telling: asyncio.Task[None] | None = None
        self._hurried = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    def note(self, websocket: web.WebSocketResponse, handler: BoundaryTrackingHandler) -> None:
        """Note one that has opened; close it at once if the others are closed already."""
        self._open[websocket] = handler
        if self._completing:
            self._complete(websocket, handler)
        if self._telling is not None:
            self._tell(websocket, handler)

    def complete_handshakes(self) -> None:
        """Keep, from now on, the connection of a closed one until its client has answered."""
        self._completing = True
        for websocket, handler in [*self._open.items()]:
            self._complete(websocket, handler)

    def begin_telling(self, seconds: float) -> None:
        """Close all that are open, in a drain that may take `seconds` from now. Idempotent."""
        if self._telling is None:
            self._telling = self._loop.create_task(self._tell_all(seconds))

    def hurry(self) -> None:
        """Close those that are still open now. Idempotent."""
        if self._telling is not None:
            self._hurried.set()

    async def give_up(self) -> None:
        """Wait for no client's answer any more. Idempotent."""
        tasks = {*self._closing, *([self._telling] if self._telling else [])}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CANCEL_GRACE)

    async def _tell_all(self, seconds: float) -> None:
        begun, websockets = self._loop.time(), [*self._open.items()]
        for when, (websocket, handler) in zip(
            telling_times(len(websockets), seconds), websockets, strict=True
        ):
            await self._wait_until(begun + when)
            self._tell(websocket, handler)

    async def _wait_until(self, when: float) -> None:
        """Return at that time, or as soon as we are hurried."""
        left = when - self._loop.time()
        if left > 0 and not self._hurried.is_set():
            hurried = asyncio.ensure_future(self._hurried.wait())
            await asyncio.wait({hurried}, timeout=left)
            hurried.cancel()

    def _tell(self, websocket: web.WebSocketResponse, handler: BoundaryTrackingHandler) -> None:
        """Close it, in a task of its own: its client may be slow to answer, or never do."""
        if not websocket.closed:
            closing = self._start(_close(websocket, self.code))
            self._start(_limit(closing, partial(unsent_bytes, handler)))

    def _complete(self, websocket: web.WebSocketResponse, handler: BoundaryTrackingHandler) -> None:
        if (transport := let_linger(handler)) is not None:
            ClosingHandshake(websocket, handler, transport, self._start)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = self._loop.create_task(coroutine)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task


async def _close(websocket: web.WebSocketResponse, code: WSCloseCode) -> None:
    close = partial(websocket.close, code=code, message=_WORDS[code])
    if not KEEPS_CLOSE_CODE:
        # Its handler may close it first; what that says nothing of is as we say.
        websocket.close = close  # type: ignore[method-assign]
    try:
        await close()
    except Exception:
        log.exception("a WebSocket could not be closed")


async def _limit(closing: "asyncio.Task[None]", unsent: Callable[[], int]) -> None:
    """Cancel this close when its client has had its time to answer."""
    await wait_for_answer(closing, unsent)
    closing.cancel()
