"""The WebSockets of a worker: a drain closes each of them, since they never end by themselves.

A client connects again as soon as it has its close code, so WebSockets are closed one after the
other. Ordinary requests pay nothing for this.
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

# Seconds between two closes; after each a client connects again. So two WebSockets do not delay a
# Ctrl-C, and a hundred clients do not connect at one moment.
_GAP = 0.1

# The share of a drain's time in which all are closed: the rest is for the clients' answers.
_TELLING_SHARE = 0.5

# Seconds that a close which is given up may take: it takes none, unless the app overrides it.
_CANCEL_GRACE = 0.25

_WORDS = {
    WSCloseCode.SERVICE_RESTART: b"this worker is being replaced",
    WSCloseCode.GOING_AWAY: b"the service stops",
}


def close_code(*, stopping: bool) -> WSCloseCode:
    """Return 1001 if the service stops; else 1012: the client should connect again at once."""
    return WSCloseCode.GOING_AWAY if stopping else WSCloseCode.SERVICE_RESTART


def telling_times(count: int, seconds: float) -> list[float]:
    """Return when to close each of `count` WebSockets, in a drain that may take `seconds`."""
    span = min(seconds * _TELLING_SHARE, count * _GAP)
    return [span * index / count for index in range(count)]


Opened = Callable[[web.BaseRequest, web.WebSocketResponse], None]


def when_opened(opened: Opened) -> None:
    """Have `opened` called for each WebSocket of this process, as soon as it is open.

    aiohttp has no hook for this, and a request class of ours would replace the app's.
    """
    prepare = web.WebSocketResponse.prepare

    @wraps(prepare)
    async def prepare_and_report(
        websocket: web.WebSocketResponse, request: web.BaseRequest
    ) -> AbstractStreamWriter:
        was_open = websocket.prepared
        writer = await prepare(websocket, request)
        if not was_open:  # aiohttp prepares a handler's response once more
            opened(request, websocket)
        return writer

    web.WebSocketResponse.prepare = prepare_and_report  # type: ignore[method-assign, assignment]


class WebSockets:
    """The WebSockets of one worker. `code` is the close code of the next one."""

    def __init__(self) -> None:
        self.code = WSCloseCode.GOING_AWAY
        self._loop = asyncio.get_running_loop()
        # Each with its connection. The app's handler holds its WebSocket, so an entry vanishes when
        # the handler is over.
        self._open: weakref.WeakKeyDictionary[web.WebSocketResponse, BoundaryTrackingHandler]
        self._open = weakref.WeakKeyDictionary()
        self._completing = False
        self._telling: asyncio.Task[None] | None = None
        self._hurried = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    def note(self, websocket: web.WebSocketResponse, handler: BoundaryTrackingHandler) -> None:
        """Note an opened WebSocket; close it at once if the others are closed already."""
        self._open[websocket] = handler
        if self._completing:
            self._complete(websocket, handler)
        if self._telling is not None:
            self._tell(websocket, handler)

    def complete_handshakes(self) -> None:
        """From now on, keep a closed WebSocket's connection until its client has answered."""
        self._completing = True
        for websocket, handler in [*self._open.items()]:
            self._complete(websocket, handler)

    def begin_telling(self, seconds: float) -> None:
        """Close all open WebSockets, in a drain that may take `seconds` from now. Idempotent."""
        if self._telling is None:
            self._telling = self._loop.create_task(self._tell_all(seconds))

    def hurry(self) -> None:
        """Close the remaining WebSockets at once, if the closing has begun. Idempotent."""
        if self._telling is not None:
            self._hurried.set()

    async def give_up(self) -> None:
        """Stop waiting for the clients' answers. Idempotent."""
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
        """Return at the time `when`, or as soon as `hurry` was called."""
        left = when - self._loop.time()
        if left > 0 and not self._hurried.is_set():
            hurried = asyncio.ensure_future(self._hurried.wait())
            await asyncio.wait({hurried}, timeout=left)
            hurried.cancel()

    def _tell(self, websocket: web.WebSocketResponse, handler: BoundaryTrackingHandler) -> None:
        """Close a WebSocket in a task of its own: its client may answer late, or never."""
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
        # The handler may close it first; then these are the defaults of its call.
        websocket.close = close  # type: ignore[method-assign]
    try:
        await close()
    except Exception:
        log.exception("a WebSocket could not be closed")


async def _limit(closing: "asyncio.Task[None]", unsent: Callable[[], int]) -> None:
    """Cancel this close when its client's time to answer is over."""
    await wait_for_answer(closing, unsent)
    closing.cancel()
