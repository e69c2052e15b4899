"""A worker's life: start the app, take connections, report, drain.

A worker ends when the primary sends Drain, when the primary is gone, or when a signal or the app's
code asks for it. Then the worker finishes its work, reports what it had to cut, and exits.
"""

import asyncio
import contextlib
import logging
import random
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

from aiocluster.config.kinds import is_job
from aiocluster.config.settings import Settings
from aiocluster.errors import ConfigError, ProtocolError
from aiocluster.ipc.channel import Channel, open_channel
from aiocluster.ipc.error_text import sendable
from aiocluster.ipc.handoff import Client
from aiocluster.ipc.messages import (
    Accept,
    BootFailed,
    Drain,
    Drained,
    DrainReason,
    GiveBack,
    Lead,
    ListenFailed,
    Listening,
    Message,
    Online,
    Ready,
    RoomAgain,
    SnapshotFor,
    ToWorker,
    Unready,
    UserMessage,
)
from aiocluster.ipc.scoreboard import ACCEPTED, REQUESTS_BEGUN, UNWIRED
from aiocluster.worker.accept.acceptor import Acceptor
from aiocluster.worker.accept.capacity import AcceptCapacity
from aiocluster.worker.accept.handoff_receiver import HandoffReceiver
from aiocluster.worker.accept.shared_listener import Accepted
from aiocluster.worker.api.context import current_worker
from aiocluster.worker.api.leading import Leading
from aiocluster.worker.api.messaging import Messaging
from aiocluster.worker.api.readiness import Readiness
from aiocluster.worker.app_exit import describe_start, exit_code, is_exit
from aiocluster.worker.heartbeat import Heartbeat
from aiocluster.worker.http.service import AiohttpService
from aiocluster.worker.loggers import keep_loggers
from aiocluster.worker.memory import Memory
from aiocluster.worker.reports import Reports
from aiocluster.worker.services.base import Service, Upstream
from aiocluster.worker.services.job import JobService
from aiocluster.worker.services.servers import ServerRegistry
from aiocluster.worker.wires import Wires

log = logging.getLogger("aiocluster.worker")

EXIT_OK = 0
EXIT_CUT = 1  # unfinished work was cut
EXIT_CRASHED = 1  # the job raised
EXIT_BOOT_FAILED = 3

# The name of the user's code in the error of a failed start.
_THE_APP = "the app"

# Seconds between two checks for max_requests.
_LIMIT_INTERVAL = 0.05

# Seconds for the last messages to reach a primary that may not be reading.
_LEAVE_TIMEOUT = 1.0


class Runtime:
    """The runtime of a worker: everything that it does in its loop."""

    def __init__(
        self,
        settings: Settings,
        families: list[int],
        row: memoryview,
        shared: Sequence[tuple[int, socket.socket]] = (),
    ) -> None:
        """`shared` are listening sockets from which the worker may accept, with their indexes."""
        self._settings = settings
        self._families = families
        self._row = row
        self._loop = asyncio.get_running_loop()
        self._channel = Channel(ToWorker, self._on_message, self._on_channel_closed)
        self._room = AcceptCapacity(row, settings, lambda: self._channel.post(RoomAgain()))
        self._acceptor = Acceptor(shared, self._on_accepted, self._room, self._serve)
        self._memory = Memory(row, settings)
        self._heartbeat = Heartbeat(row, self._on_beat)
        self._wires = Wires({f"listener {index}": sock.fileno() for index, sock in shared})
        self._reports = Reports(settings, self._channel, self._heartbeat.lag)
        self._service: Service | None = None
        # After a loss for want of descriptors, a new count shows the primary the lack at once.
        self._handoff_receiver = HandoffReceiver(row, self._heartbeat.count_fds)
        self._drain: Drain | None = None
        self._drained_by = float("inf")  # on the monotonic clock
        self._exit: BaseException | None = None  # the exit that the app's code raised first,
        self.exit_code = EXIT_OK  # and its exit code
        self._starting: asyncio.Task[Any] | None = None  # the app's start, which an exit cancels
        self._drain_ordered = asyncio.Event()
        self._disconnected = asyncio.Event()
        self._leaving = self._is_unwired = False
        self._request_limit = settings.max_requests and settings.max_requests + random.randint(
            0, settings.max_requests_jitter
        )
        self.messaging = Messaging(self._channel)
        self.leading = Leading(row)
        self.servers = ServerRegistry(
            row, self._channel.post, self._handoff_receiver.turn_away, self._room.note_end
        )
        self.readiness = Readiness(explicit=settings.ready == "explicit")

    async def run(
        self,
        load: Callable[[], object],
        handoff: socket.socket,
        channel: socket.socket,
        fds_of_loop: Iterable[int] = (),
    ) -> int:
        """Serve the app, or run the job, that `load` returns; return the exit code."""
        self._wires.add({"handoff": handoff.fileno(), "channel": channel.fileno()})
        self._wires.add({f"descriptor {fd} of the event loop": fd for fd in fds_of_loop})
        await open_channel(channel, self._channel)
        self._channel.post(Online())
        self._heartbeat.start()
        return await self._leave(await self._live(load, handoff))

    async def _live(self, load: Callable[[], object], handoff: socket.socket) -> int:
        if not await self._boot(load):
            return EXIT_BOOT_FAILED
        self._look_at_wires()
        if (service := self._service) is None:  # drained before the start was over
            return EXIT_OK
        if not self.is_draining:
            self._handoff_receiver.begin(handoff, self._adopt)
        self._reports.begin(service.take_latency)
        self._watch_request_limit()
        # No turn of the loop may pass needlessly here: the app may block it at any moment.
        declared = self.readiness.is_declared
        if declared or await self._unless_drained(self._until_declared(service)):
            if not self.readiness.is_declared and (error := service.over.exception()) is not None:
                self._channel.post(BootFailed(*describe_start(error, _THE_APP)))
                return EXIT_BOOT_FAILED
            if not declared:
                self._memory.settle_app(time.monotonic())
            self.readiness.serve()
            self._channel.post(Ready(service.serves))
            if self._exit is not None:  # a job raised an exit in its first step
                self._ask_to_exit()
        await self._unless_drained(asyncio.wait({service.over}))
        return await self._end(service)

    def ask_to_drain(self, reason: DrainReason) -> None:
        """Drain, for a reason of this worker's own."""
        if self.is_draining:
            return
        if self._channel.closed:
            self._on_drain(self._own_drain(stopping=True))
        else:
            self.messaging.ask_to_drain(reason)

    def leave(self, error: BaseException) -> None:
        """Drain, then exit, because the app's code has raised `error` through the loop.

        The first exit decides the exit code. An app that exits during its start has failed to
        start.
        """
        if self._exit is None:
            self._exit, self.exit_code = error, exit_code(error)
            log.info("the app's code exits (%r): draining, to exit with %d", error, self.exit_code)
        if self._starting is not None:
            self._starting.cancel()
        else:
            self._ask_to_exit()

    def _ask_to_exit(self) -> None:
        self.ask_to_drain("crash" if self.exit_code else "exit")

    @property
    def time_left(self) -> float:
        """The seconds left of the drain; `graceful_timeout` if none was ordered."""
        if self._drain is None:
            return self._settings.graceful_timeout
        return self._drained_by - time.monotonic()

    @property
    def is_booting(self) -> bool:
        """True until the app or job has started."""
        return self._service is None

    @property
    def is_draining(self) -> bool:
        """True once a Drain was read."""
        return self._drain is not None

    async def _boot(self, load: Callable[[], object]) -> bool:
        """Start the app; return False if the start failed. A drain ends the start."""
        starting = asyncio.ensure_future(self._started(load))
        is_over = await self._unless_drained(starting)
        self._starting = None
        if not is_over and (starting.cancelled() or starting.exception() is not None):
            return True
        if (failure := self._failure_of(starting)) is not None:
            self._channel.post(failure)
            return False
        self._service = starting.result()
        self._acceptor.context = self._service.context
        self._memory.settle_app(time.monotonic())
        return True

    def _failure_of(self, starting: "asyncio.Future[Service]") -> BootFailed | None:
        if not starting.cancelled():
            error = starting.exception()
            cause = error.__cause__ if isinstance(error, _Exited) else error
        elif self._exit is None:
            return BootFailed("CancelledError: the app cancelled its own start", "")
        else:
            cause = self._exit
        return None if cause is None else BootFailed(*describe_start(cause, _THE_APP))

    async def _started(self, load: Callable[[], object]) -> Service:
        try:
            given = load()
            keep_loggers()
            service = self._service_of(given)
            if service.serves:
                self._starting = asyncio.current_task()
            await service.start()
            keep_loggers()
        except (SystemExit, KeyboardInterrupt) as error:
            # asyncio would raise the exit out of the loop, and not in the task that waits for it.
            raise _Exited from error
        return service

    def _service_of(self, given: object) -> Service:
        goodbye = self.readiness.run_on_drain_callbacks
        if is_job(given):
            worker = current_worker()
            assert worker is not None
            repeated = self._settings.restart == "always"
            return JobService(given, worker, self._row, goodbye, is_repeated=repeated)
        upstream = Upstream(self._room, self._handoff_receiver.give_back)
        fail = partial(self.ask_to_drain, "crash")
        return AiohttpService(lambda: given, self._settings, self._row, upstream, goodbye, fail)

    async def _until_declared(self, service: Service) -> None:
        """Wait until the app has declared itself ready, or the service is over."""
        declared = asyncio.ensure_future(self.readiness.wait_declared())
        try:
            await asyncio.wait({declared, service.over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            declared.cancel()

    async def _unless_drained(self, step: Awaitable[Any]) -> bool:
        """Wait for `step`; if a drain is ordered before it is over, cancel it and return False."""
        doing = asyncio.ensure_future(step)
        stopped = asyncio.ensure_future(self._drain_ordered.wait())
        await asyncio.wait({doing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if doing.done():
            return True
        doing.cancel()
        await asyncio.wait({doing})
        return False

    def _on_beat(self) -> None:
        self._look_at_wires()
        self._memory.settle_connections(time.monotonic())

    # ---- connections

    def _on_accepted(self, batch: list[Accepted]) -> None:
        """Serve connections that this worker accepted, from the listeners of its app."""
        assert self._service is not None
        self._row[ACCEPTED] += len(batch)
        adopt, families = self._service.adopt, self._families
        for fd, listener, peer in batch:
            adopt(fd, families[listener], None, peer, listener=listener)

    def _serve(self, listener: int) -> asyncio.Protocol:
        """Return the protocol of a connection that uvloop accepted from a listener of the app."""
        assert self._service is not None
        self._row[ACCEPTED] += 1
        return self._service.protocol(listener)

    def _adopt(self, fd: int, listener: int, client: Client | None) -> None:
        assert self._service is not None
        if listener < len(self._families):
            self._service.adopt(fd, self._families[listener], client, listener=listener)
        else:
            self.servers.adopt(fd, listener, client)

    # ---- the primary

    def _on_message(self, message: Message, size: int) -> None:
        match message:
            case UserMessage(payload=payload):
                self.messaging.put_message(payload, size)
            case SnapshotFor():
                self.messaging.put_snapshot(message)
            case Listening() | ListenFailed():
                self.servers.requests.hear(message)
            case _:
                self._on_order(message)

    def _on_order(self, message: Message) -> None:
        match message:
            case Accept():
                self._on_accept(message)
            case Unready():
                self.readiness.leave()
            case Lead():
                self.leading.hear()
            case GiveBack(count=count):
                if self._service is not None and not self.is_draining:
                    self._service.give_back(count)
            case Drain():
                self._on_drain(message)
            case _:
                raise ProtocolError(f"the primary may not send {message!r}")

    def _on_accept(self, order: Accept) -> None:
        # If the worker is not ready, the order crossed the message that says so on its way.
        if order.on and self._service is not None and not self.is_draining:
            self._acceptor.resume(order.workers)
        else:
            self._acceptor.pause()

    def _on_channel_closed(self, error: ProtocolError | None) -> None:
        self._disconnected.set()
        self.messaging.close()
        if self._leaving or self._is_unwired:
            return
        self._note_unwired()
        if error is not None:
            log.error("the primary sent nonsense: %s; finishing", error)
        else:
            log.warning("the channel to the primary is closed; finishing what is open")
        # A primary that sends nonsense still runs, and replaces this worker.
        gone = error is None
        self._on_drain(self._own_drain(stopping=gone))

    def _own_drain(self, *, stopping: bool) -> Drain:
        """Return the drain that this worker orders itself if the primary cannot."""
        settings = self._settings
        return Drain(
            settings.graceful_timeout,
            moving=False,
            stopping=stopping,
            idle_grace=settings.idle_grace,
        )

    def _look_at_wires(self) -> None:
        """Check the wires: the app may have closed, shut down or replaced them."""
        if self.is_draining or self._leaving:
            return
        # Without a channel the primary has closed its end of the handoff.
        cut_off = (
            ["handoff"] if self._handoff_receiver.is_cut_off and not self._channel.closed else []
        )
        if broken := self._wires.broken() or cut_off:
            self._on_broken(broken)

    def _on_broken(self, wires: list[str]) -> None:
        """Finish the open work and cut off the primary: one wire is useless without the other."""
        log.error(
            "lost the %s: the app has closed a descriptor that is not its own, or has shut it down"
            " or replaced it; finishing what is open",
            " and the ".join(wires),
        )
        self._note_unwired()
        self._handoff_receiver.abandon()
        if "channel" in wires:
            self._channel.abandon()
            self._disconnected.set()
            self.messaging.close()
        else:
            self._channel.abort()
        self._on_drain(self._own_drain(stopping=False))

    def _note_unwired(self) -> None:
        self._is_unwired = True
        self._row[UNWIRED] = 1

    def _watch_request_limit(self) -> None:
        if not self._request_limit:
            return
        if self._row[REQUESTS_BEGUN] >= self._request_limit:
            self.ask_to_drain("max_requests")
        else:
            self._loop.call_later(_LIMIT_INTERVAL, self._watch_request_limit)

    # ---- the end

    def _on_drain(self, drain: Drain) -> None:
        if self._drain is not None:
            # A further order can only make the drain quicker.
            drain = Drain(
                min(drain.timeout, self._drain.timeout),
                moving=drain.moving and self._drain.moving,
                stopping=drain.stopping or self._drain.stopping,
                idle_grace=min(drain.idle_grace, self._drain.idle_grace),
            )
        self._drain = drain
        self._drained_by = min(self._drained_by, time.monotonic() + drain.timeout)
        self._stop_accepting(drain)
        self._handoff_receiver.end()  # before the user's code gets the drain, and closes servers
        self.servers.hurry(drain.timeout)
        self.servers.stop()
        self.readiness.stop()
        self.leading.stop()
        self._drain_ordered.set()
        if self._service is not None:
            self._hurry(self._service, drain)

    def _stop_accepting(self, drain: Drain) -> None:
        # If all workers stop, closing the last socket would reset the waiting connections.
        if drain.stopping:
            self._room.forget_limits()
            self._acceptor.accept_rest()
        self._acceptor.close()

    def _hurry(self, service: Service, drain: Drain) -> None:
        service.hurry(
            drain.timeout,
            moving=drain.moving,
            stopping=drain.stopping,
            idle_grace=drain.idle_grace,
        )

    async def _end(self, service: Service) -> int:
        """End the worker: a drain was ordered, or its job has returned or raised."""
        if not self.is_draining:
            error = service.over.exception()
            if error is None:
                self.ask_to_drain("finished")
            elif not is_exit(error):  # the loop has let an exit through: see `leave`
                _log_end_of_job(error)
                self._reports.send()
                return EXIT_CRASHED
            await self._drain_ordered.wait()
        return await self._finish(service)

    async def _finish(self, service: Service) -> int:
        """Finish all open work, shut the app down, report; return the exit code."""
        assert self._drain is not None
        self._memory.settle_end()
        self._hurry(service, self._drain)
        await asyncio.gather(service.drain(), self.servers.drain())
        self._reports.send()
        cut = [sendable(name) for name in (*service.cut, *self.servers.cut)]
        self._channel.post(Drained(cut))
        return self.exit_code or service.code or (EXIT_CUT if cut else EXIT_OK)

    async def _leave(self, code: int) -> int:
        """Close the channel, and wait until the primary has read everything, or does not read."""
        self._leaving = True
        self._acceptor.close()
        self._heartbeat.stop()
        self.messaging.close()
        self._channel.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_TIMEOUT):
                await self._disconnected.wait()
        return code


def _log_end_of_job(error: BaseException) -> None:
    if isinstance(error, ConfigError):  # an error of ours needs no traceback
        log.error("%s", error)
    else:
        log.error("the job raised", exc_info=error)


class _Exited(Exception):
    """An exit that the app's code raised during its start: a failure to start like any other."""
