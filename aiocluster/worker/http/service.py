"""The service of an aiohttp app: it starts, serves and drains the app."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from aiohttp import web

from aiocluster.config.settings import Settings
from aiocluster.ipc.handoff import Client
from aiocluster.ipc.scoreboard import CONNECTIONS_CLOSED
from aiocluster.worker.accept.capacity import AcceptCapacity
from aiocluster.worker.app_exit import exit_code, is_exit
from aiocluster.worker.http.app_task import AppTask, Step
from aiocluster.worker.http.application import application_from
from aiocluster.worker.http.hooks import clean_up, faults, shut_down
from aiocluster.worker.http.idle_closing import IdleClosing, turns
from aiocluster.worker.http.metered_server import MeteredHandler, MeteredServer
from aiocluster.worker.http.migration import Migration, PartialMigration
from aiocluster.worker.http.runner import start_server
from aiocluster.worker.http.websockets import close_code
from aiocluster.worker.services.adopt import RejectProtocol, adopt
from aiocluster.worker.services.base import Upstream
from aiocluster.worker.services.deadline import DrainDeadline

log = logging.getLogger("aiocluster.worker")

# If connections migrate: after the first share of a drain's time, those still here close with
# their next response; after the second share, they are closed. The rest is for the app's own
# shutdown.
_MOVING_SHARE = 0.5
_PATIENT_SHARE = 0.9

# Seconds that a cancelled handler and a cancelled hook get to clean up, and that hooks get if no
# time is left. Together they are well below the time after which the primary kills the worker.
_CANCEL_GRACE = 0.25
_HOOK_CANCEL_GRACE = 0.1
_HOOK_GRACE = 0.5

# Seconds for closing idle connections if no time is left: a few turns of the loop, on a machine
# that may be busy.
_CLOSE_GRACE = 0.25

# When the service stops, an app may close its WebSockets in on_shutdown, with its own codes. After
# this share of the drain's time the worker closes the rest.
_OWN_WORDS_SHARE = 0.25


class AiohttpService:
    """An aiohttp app on connections that the primary accepted."""

    serves = True

    def __init__(
        self,
        load: Callable[[], object],
        settings: Settings,
        row: memoryview,
        upstream: Upstream | None = None,
        run_on_drain_callbacks: Callable[[], Awaitable[None]] | None = None,
        on_failure: Callable[[], None] | None = None,
    ) -> None:
        """`on_failure()` is called when the app's own code cancels its hooks' task."""
        self._load = load
        self._on_failure = on_failure
        self._is_failing = False
        self._say_goodbye = run_on_drain_callbacks or _say_nothing
        self._settings = settings
        self._row = row
        self._upstream = upstream or Upstream(AcceptCapacity(row, settings))
        self._relief: PartialMigration | None = None
        self._loop = asyncio.get_running_loop()
        self._app: web.Application | None = None
        self._server: MeteredServer | None = None
        self._make_handler: Callable[
            [int, Client | None, Any], asyncio.Protocol
        ]  # once it has started
        self._moving = True
        self._stopping = False
        self._moving_until, self._patient_until = DrainDeadline(), DrainDeadline()
        self._deadline = DrainDeadline()
        self._idle_closing = IdleClosing(self._deadline)
        self._telling: asyncio.TimerHandle | None = None
        self._hooks = AppTask(None if on_failure is None else self._on_cancelled)
        self.context = Context()  # of the connections, once the app has started
        self.over: asyncio.Future[None] = self._loop.create_future()  # an app never ends by itself
        self.cut: list[str] = []
        self.code = 0

    @property
    def server(self) -> MeteredServer:
        """The running server; only after `start`."""
        assert self._server is not None
        return self._server

    async def start(self) -> None:
        """Call the factory, run the app's start-up hooks.

        If this is cancelled when the app has just started, it returns: the app is to be drained.
        """
        starting = self._hooks.begin(self._start)
        try:
            await asyncio.wait({starting})  # if this is cancelled, `starting` is not
        except asyncio.CancelledError:
            self._hooks.cancel()
            await asyncio.wait({starting})
            if self._server is None:
                raise
        finally:
            if self._server is None:
                self._hooks.close()
        starting.result()

    async def _start(self) -> None:
        app = await application_from(self._load())
        room = self._upstream.room
        try:
            server = await start_server(app, self._row, self._settings, room)
            if self._hooks.is_cut:  # the app has swallowed the cancellation
                raise asyncio.CancelledError
        except BaseException as error:
            # The started parts must be stopped, as run_app does.
            await self._clean_up_after(error, app)
            raise
        self._app, self._server = app, server
        self._make_handler = server.handler
        self._relief = PartialMigration(self._server, self._upstream.give_back)
        # The connections' tasks run in this context, as a site's run in that of its start.
        self.context = copy_context()

    async def _clean_up_after(self, error: BaseException, app: web.Application) -> None:
        """Run the clean-up of an app that did not start; raise the cause of a cancellation."""
        try:
            await clean_up(app)
        except BaseException as raised:
            causes = faults(raised)
            # A TaskGroup cancels the code inside, and raises the cause when the code leaves it.
            if isinstance(error, asyncio.CancelledError) and causes and not self._hooks.is_cut:
                raise causes[0] from None
            for cause in causes:
                log.error("on_cleanup raised", exc_info=cause)

    def adopt(
        self,
        fd: int,
        family: int,
        client: Client | None = None,
        peer: Any = None,
        *,
        listener: int = 0,
    ) -> None:
        """Serve this connection."""
        try:
            factory = partial(self._make_handler, listener, client, peer)
            self.context.run(adopt, self._loop, factory, fd, family)
        except Exception:
            self._note_unserved()

    def protocol(self, listener: int) -> asyncio.Protocol:
        """See Service."""
        try:
            return self._make_handler(listener, None, None)
        except Exception:
            self._note_unserved()
            return RejectProtocol()

    def _note_unserved(self) -> None:
        self._row[CONNECTIONS_CLOSED] += 1
        self._upstream.room.note_end()
        log.exception("a connection could not be served")

    def hurry(
        self, timeout: float, *, moving: bool, stopping: bool = False, idle_grace: float = 0.0
    ) -> None:
        """See Service.hurry."""
        patience = timeout if moving else 0.0
        nearer = timeout < self._deadline.left
        self._moving = self._moving and moving
        self._stopping = self._stopping or stopping
        if self._server is not None:
            self._server.websockets.code = close_code(stopping=self._stopping)
            if nearer:
                self._server.websockets.hurry()
        self._moving_until.at_latest_in(patience * _MOVING_SHARE)
        self._patient_until.at_latest_in(patience * _PATIENT_SHARE)
        self._deadline.at_latest_in(timeout)
        if not self._moving:
            self._idle_closing.shorten_grace(idle_grace, timeout)

    def give_back(self, count: int) -> None:
        """See Service."""
        if self._relief is not None:
            self._relief.give(count)

    def take_latency(self) -> dict[int, int]:
        """See Service."""
        return self.server.latency.take()

    async def drain(self) -> None:
        """Move connections or let them end, close the idle ones, run the hooks, cut the rest."""
        assert self._app is not None
        server = self.server
        if self._relief is not None:
            self._relief.stop()
        server.websockets.complete_handshakes()
        await turns()  # the last adopted descriptors become connections
        shutdown = asyncio.create_task(self._run_on_drain())
        if self._moving:
            await self._move_connections()
        server.begin_last_responses()
        closing = self._idle_closing.begin(server)
        await shutdown
        # Until then the app is complete for the last requests.
        await self._idle_closing.wait_for_last_requests()
        self._tell_websockets_later()
        await self._run_hooks("on_shutdown", partial(shut_down, self._app))
        self._tell_websockets()
        await self._until_empty()
        closing.cancel()
        self.cut += server.unfinished()
        await server.websockets.give_up()
        await server.shutdown(_CANCEL_GRACE)
        await self._run_hooks("on_cleanup", partial(clean_up, self._app))
        self._hooks.close()

    async def _run_on_drain(self) -> None:
        """Run the app's on_drain callbacks; then, if connections move, close its WebSockets."""
        await self._run_hooks("on_drain", self._say_goodbye)
        if self._moving:
            self._tell_websockets()

    def _tell_websockets_later(self) -> None:
        """Close the WebSockets one after the other, after the app's time to do so itself."""
        self._telling = self._loop.call_later(self._own_words_time(), self._tell_websockets)

    def _own_words_time(self) -> float:
        """Return the seconds that the app has to close its WebSockets with its own codes."""
        if self._moving:
            return 0.0
        return max(self._deadline.left * _OWN_WORDS_SHARE, _HOOK_GRACE)

    def _tell_websockets(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
        self.server.websockets.begin_telling(self._deadline.left)

    async def _move_connections(self) -> None:
        """Move connections to other workers, as long as the drain's time allows."""
        mover = Migration(self.server, self._upstream.give_back)
        # A connection that will not be movable after its response closes with it.
        self.server.begin_last_responses(_ends_in_doubt)
        mover.start()
        await self._wait_empty(self._moving_until)
        self.server.begin_last_responses()
        await self._wait_empty(self._patient_until)
        mover.stop()

    async def _wait_empty(self, until: DrainDeadline) -> None:
        """Wait until no connection is left, or until `until`, which may come nearer meanwhile."""
        while self.server.connections and until.left > 0:
            empty = asyncio.ensure_future(self.server.wait_empty())
            await until.wait_for({empty}, 0.0)
            empty.cancel()

    async def _until_empty(self) -> None:
        """Wait for the last connection's end, at most until the deadline, which may come nearer.

        After the deadline a short time is left: connections that close at once are not cut.
        """
        empty = asyncio.ensure_future(self.server.wait_empty())
        await self._deadline.wait_for({empty}, _CLOSE_GRACE)
        empty.cancel()

    async def _run_hooks(self, what: str, step: Step) -> None:
        """Run hooks in the app's task, at most until the deadline; see `_until_empty`."""
        running = self._hooks.begin(step)
        await self._deadline.wait_for({running}, _HOOK_GRACE)
        if not running.done():
            self.cut.append(f"the {what} hooks")
            await self._hooks.cut(_HOOK_CANCEL_GRACE)
        if running.done() and not running.cancelled() and (error := running.exception()):
            for fault in faults(error):
                self._note(what, fault)

    def _note(self, what: str, fault: BaseException) -> None:
        """Note a fault that hooks raised: it decides the worker's exit code, as under run_app."""
        if not is_exit(fault):
            log.error("%s raised", what, exc_info=fault)
        self.code = self.code or exit_code(fault)

    def _on_cancelled(self) -> None:
        assert self._on_failure is not None
        # Before the start is over, this makes it fail. A scope of anyio cancels in each turn.
        if self._server is None or self._is_failing:
            return
        self._is_failing = True
        log.error("the task of the app's hooks was cancelled by the app: the worker ends")
        self.code = self.code or 1
        self._on_failure()


async def _say_nothing() -> None:
    pass


def _ends_in_doubt(handler: MeteredHandler) -> bool:
    """Return True if it is unknown whether the next request has begun to arrive.

    If its beginning is certain, its end will come and end the doubt.
    """
    return handler.in_doubt and not handler._messages and not handler.is_within_head
