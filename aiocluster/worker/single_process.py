"""A worker in the program's own process: aiohttp's own runner serves its app, or its job runs.

It is for systems that are not Linux. The user's code sees the same worker as on Linux. The worker
has only the settings that aiohttp knows. Its requests are not counted, and it is not replaced.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from aiocluster.config.kinds import is_job
from aiocluster.config.roles import RoleSpec
from aiocluster.errors import BootError, ProtocolError
from aiocluster.ipc.channel import Channel
from aiocluster.ipc.messages import Message, ToWorker, UserMessage
from aiocluster.ipc.scoreboard import LEADS, private_row
from aiocluster.worker.api.context import WorkerContext, share_process
from aiocluster.worker.api.leading import Leading
from aiocluster.worker.api.messaging import Messaging
from aiocluster.worker.api.readiness import Readiness
from aiocluster.worker.app_exit import describe_start
from aiocluster.worker.http.application import application_from
from aiocluster.worker.http.runner import runner_options
from aiocluster.worker.services.job import Job, JobService
from aiocluster.worker.services.local_servers import LocalServers

log = logging.getLogger("aiocluster.worker")


class LoneWorker:
    """The only worker of one role. `given` is the imported app, its factory or the job."""

    def __init__(self, worker_id: int, spec: RoleSpec, given: object) -> None:
        self.addresses: tuple[tuple[str, int], ...] = ()
        self.cut: list[str] = []
        self.failed = False
        self.started_at = time.time()
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.channel = Channel(ToWorker, self._on_message, self._on_channel_closed)
        self._given = given
        self._settings = spec.settings
        self._row = private_row()
        self._messaging = Messaging(self.channel)
        self._readiness = Readiness(explicit=spec.settings.ready == "explicit")
        self._leading = Leading(self._row)
        self._servers = LocalServers(self._row)
        self.context = WorkerContext(
            worker_id,
            0,
            spec.name,
            1,
            self._messaging,
            self._readiness,
            self._servers,
            self._leading,
        )

    async def run(self) -> None:
        """Serve, or run the job, until the worker is stopped or the job has ended.

        All hooks of the app run in this one task. An exception before `started` is done is the
        reason why the worker did not start.
        """
        share_process(self.context)
        try:
            if is_job(self._given):
                await self._work(self._given)
            else:
                await self._serve()
        finally:
            self.stop()
            await self._servers.drain()
            self.cut += self._servers.cut
            self.channel.close()

    def stop(self, timeout: float | None = None) -> None:
        """End within `timeout` seconds, by default `graceful_timeout`. May be called again."""
        self._servers.hurry(self._settings.graceful_timeout if timeout is None else timeout)
        self._servers.stop()
        self._readiness.stop()
        self._leading.stop()

    @property
    def is_stopping(self) -> bool:
        """True once the worker was stopped, or has ended."""
        return self._readiness.is_stopping

    async def _serve(self) -> None:
        runner: web.AppRunner | None = None
        try:
            async with self._booting():
                app = await application_from(self._given)
                runner = web.AppRunner(app, **self._options())
                await runner.setup()
                await self._readiness.wait_declared()
                await self._listen(runner)
            self._begin()
            await self._readiness.stopping()
            await self._say_goodbye()
        finally:
            if runner is not None:
                await runner.cleanup()

    def _options(self) -> dict[str, Any]:
        settings = self._settings
        options = runner_options(settings)
        timeout = {"shutdown_timeout": settings.graceful_timeout}
        return options | timeout | {"tcp_keepalive": settings.tcp_keepalive}

    async def _listen(self, runner: web.AppRunner) -> None:
        for address in self._settings.bind:
            site = web.TCPSite(
                runner, address.host or None, address.port, backlog=self._settings.backlog
            )
            try:
                await site.start()
            except OSError as error:
                raise BootError(f"cannot listen on {address}: {error.strerror}") from error
        self.addresses = tuple((host, port) for host, port, *_ in runner.addresses)

    async def _work(self, job: Job) -> None:
        service = JobService(job, self.context, self._row, self._readiness.run_on_drain_callbacks)
        await service.start()
        declared = asyncio.ensure_future(self._readiness.wait_declared())
        stopping = asyncio.ensure_future(self._readiness.stopping())
        try:
            over = {service.over, stopping}
            await asyncio.wait({declared, *over}, return_when=asyncio.FIRST_COMPLETED)
            self._begin()
            await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
        finally:
            declared.cancel()
            stopping.cancel()
        self.stop()
        service.hurry(self._settings.graceful_timeout, moving=False)
        await service.drain()
        self.cut += service.cut
        self.failed = service.code != 0

    def _begin(self) -> None:
        """Become ready, and lead the role, which has no other worker."""
        self._row[LEADS] = 1
        self._leading.hear()
        self._readiness.serve()
        if not self.started.done():
            self.started.set_result(None)

    @contextlib.asynccontextmanager
    async def _booting(self) -> AsyncIterator[None]:
        seconds = self._settings.boot_timeout
        try:
            async with asyncio.timeout(seconds) as boot:
                yield
        except TimeoutError as error:
            if not boot.expired():
                raise
            raise BootError(f"not ready after {seconds:g} s (boot_timeout)") from error
        except (SystemExit, KeyboardInterrupt) as error:
            # The app's code exited during its start: that is a failure like any other.
            raise BootError(*describe_start(error, "the app")) from error

    async def _say_goodbye(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.graceful_timeout):
                await self._readiness.run_on_drain_callbacks()
                return
        self.cut.append("the on_drain hooks")

    def _on_message(self, message: Message, size: int) -> None:
        match message:
            case UserMessage(payload=payload):
                self._messaging.put_message(payload, size)
            case _:
                raise ProtocolError(f"the program may not send {message!r}")

    def _on_channel_closed(self, error: ProtocolError | None) -> None:
        self._messaging.close()


def set_environment(spec: RoleSpec, worker_id: int) -> None:
    """Give this process the environment that a worker of this role would have."""
    os.environ.update(spec.settings.env.of(0, {}))
    os.environ["AIOCLUSTER_WORKER_ID"] = str(worker_id)
    os.environ["AIOCLUSTER_SLOT"] = "0"
    os.environ["AIOCLUSTER_ROLE"] = spec.name
