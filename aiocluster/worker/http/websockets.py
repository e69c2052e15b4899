"""WebSockets in a drain. They never end by themselves, so each is told, with a close code.

Their clients come back at once when they are told, so they are told one after the other. An
ordinary request pays nothing for this.
"""

import asyncio
import logging
import weakref
from collections.abc import Callable
from functools import wraps

from aiohttp import WSCloseCode, web
from aiohttp.abc import AbstractStreamWriter

from aiocluster.worker.http.lingering_close import let_linger
from aiocluster.worker.http.request_boundary import FollowedHandler

log = logging.getLogger("aiocluster.worker")

# Seconds that each client which is told leaves to those that come back before it. So that two
# do not hold up a Ctrl-C, and a hundred do not arrive as one.
_GAP = 0.1

# The share of a drain's time in which all are told: the rest is for their answers.
_TELLING_SHARE = 0.5

# What a close that is given up takes at most, seconds: nothing, unless the app has its own.
_CANCEL_GRACE = 0.25

_WORDS = {
    WSCloseCode.SERVICE_RESTART: b"this worker is being replaced",
    WSCloseCode.GOING_AWAY: b"the service stops",
}


def close_code(*, stopping: bool) -> WSCloseCode:
    """Return what to tell a client: that there will be nobody to come back to, or come back."""
    return WSCloseCode.GOING_AWAY if stopping else WSCloseCode.SERVICE_RESTART


def telling_times(count: int, seconds: float) -> list[float]:
    """Return when to tell each of `count`, in a drain that may take `seconds`."""
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
    """Those of one worker. `code` is what the next one is told."""

    def __init__(self) -> None:
        self.code = WSCloseCode.GOING_AWAY
        self._loop = asyncio.get_running_loop()
        # Who serves one holds it. One that is over goes from here by itself.
        self._open: weakref.WeakSet[web.WebSocketResponse] = weakref.WeakSet()
        self._telling: asyncio.Task[None] | None = None
        self._hurried = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    def note(self, websocket: web.WebSocketResponse) -> None:
        """It is open. One that comes after the others were told is told at once."""
        self._open.add(websocket)
        if self._telling is not None:
            self._tell(websocket)

    def begin_telling(self, seconds: float) -> None:
        """Tell all that are open, in a drain that may take `seconds` from now. Idempotent."""
        if self._telling is None:
            self._telling = self._loop.create_task(self._tell_all(seconds))

    def hurry(self) -> None:
        """Whoever is still to be told is told now. Idempotent."""
        if self._telling is not None:
            self._hurried.set()

    async def give_up(self) -> None:
        """Wait for nobody's answer any more. Idempotent."""
        tasks = {*self._closing, *([self._telling] if self._telling else [])}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CANCEL_GRACE)

    async def _tell_all(self, seconds: float) -> None:
        begun, websockets = self._loop.time(), [*self._open]
        for when, websocket in zip(
            telling_times(len(websockets), seconds), websockets, strict=True
        ):
            await self._wait_until(begun + when)
            self._tell(websocket)

    async def _wait_until(self, when: float) -> None:
        """Return at that time, or as soon as we are hurried."""
        left = when - self._loop.time()
        if left > 0 and not self._hurried.is_set():
            hurried = asyncio.ensure_future(self._hurried.wait())
            await asyncio.wait({hurried}, timeout=left)
            hurried.cancel()

    def _tell(self, websocket: web.WebSocketResponse) -> None:
        """Close it, in a task of its own: its client may be slow to answer, or never do."""
        if not websocket.closed:
            request = websocket._req
            if request is not None and isinstance(request.protocol, FollowedHandler):
                # It may be sending, and will answer: it shall not meet a reset instead.
                let_linger(request.protocol, always=True)
            task = self._loop.create_task(_close(websocket, self.code))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


async def _close(websocket: web.WebSocketResponse, code: WSCloseCode) -> None:
    try:
        await websocket.close(code=code, message=_WORDS[code])
    except Exception:
        log.exception("a WebSocket could not be closed")
