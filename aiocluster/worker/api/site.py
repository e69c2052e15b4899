"""A second aiohttp server in a worker, beside the app or a job."""

from functools import partial

from aiohttp import web

from aiocluster.errors import ConfigError
from aiocluster.worker.api.context import current_worker


class TCPSite(web.TCPSite):
    """A variant of aiohttp's TCPSite: its socket is the primary's, shared by the workers.

    A drain closes its idle connections at once, and the others after their response.
    """

    __slots__ = ("_off_drain",)

    @property
    def port(self) -> int:
        """The port on which the started site listens; before the start, the given port."""
        return self._port

    async def start(self) -> None:
        """Listen and serve."""
        worker = current_worker()
        if worker is None:
            raise ConfigError("aiocluster.TCPSite: only a worker has one; see aiohttp.web.TCPSite")
        # Not the `start` of aiohttp's TCPSite, which binds.
        await web.BaseSite.start(self)
        web_server = self._runner.server
        assert web_server is not None
        server = await worker.create_server(
            web_server,
            self._host,
            self._port,
            ssl=self._ssl_context,
            backlog=self._backlog,
            reuse_address=self._reuse_address,
            reuse_port=self._reuse_port,
        )
        self._server = server
        # Not `_bound_port`, which aiohttp has only since 3.14.
        self._port = server.addresses[0][1]
        self._off_drain = worker.on_drain(partial(_end_soon, web_server))

    async def stop(self) -> None:
        """Stop listening in this worker."""
        if self._server is not None:
            self._off_drain()
        await super().stop()


def _end_soon(server: web.Server) -> None:
    """Close the idle connections; close the others after their response."""
    for handler in server.connections:
        # aiohttp's close() ends the task of an idle handler, and leaves its transport open.
        if _is_idle(handler):
            handler.force_close()
        else:
            handler.close()


def _is_idle(handler: web.RequestHandler) -> bool:
    """Return True if the handler waits for a request, and none has been parsed."""
    waiter = getattr(handler, "_waiter", None)
    return waiter is not None and not waiter.done() and not getattr(handler, "_messages", ())
