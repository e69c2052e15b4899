"""A worker for the dispatcher in C that serves what aiocluster's workers serve.

python -m benchmarks.peers.taker FD: takes connections from the handoff FD, on uvloop, and serves
the hello app with aiohttp. It does the least a worker can: no metrics, no channel, no clean stop.
"""

import asyncio
import socket
import sys

import uvloop
from aiohttp import web

from benchmarks.apps.hello import make_app

_MAX_FDS = 253  # SCM_MAX_FD


class Taker:
    """Gives every connection that arrives to aiohttp's server."""

    def __init__(self, handoff: socket.socket, server: web.Server) -> None:
        self._handoff = handoff
        self._server = server
        self._adopting: set[asyncio.Task[None]] = set()
        self.ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(handoff, self._take)

    def _take(self) -> None:
        payload, fds, _, _ = socket.recv_fds(self._handoff, _MAX_FDS, _MAX_FDS)
        if not payload:
            asyncio.get_running_loop().remove_reader(self._handoff)
            self.ended.set()
        for fd in fds:
            task = asyncio.create_task(self._adopt(socket.socket(fileno=fd)))
            self._adopting.add(task)
            task.add_done_callback(self._adopting.discard)

    async def _adopt(self, sock: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(self._server, sock)


async def main(fd: int) -> None:
    runner = web.AppRunner(await make_app(), access_log=None)
    await runner.setup()
    handoff = socket.socket(fileno=fd)
    handoff.setblocking(False)
    await Taker(handoff, runner.server).ended.wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
