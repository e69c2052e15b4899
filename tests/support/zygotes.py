"""A zygote that a test plays."""

import os
from typing import Any

from aiocluster.ipc.messages import Forked, FromZygote, ToZygote
from aiocluster.ipc.packets import packet_pair, receive_packet, send_packet
from aiocluster.launch.interpreter import StartedZygote
from tests.support.processes import start_process
from tests.support.waiting import readable


class FakeZygote:
    """A zygote's end of its socket, played by the test, and a process to stand for it."""

    def __init__(self, script: str = "true") -> None:
        self.theirs, self.sock = packet_pair()
        self.sock.setblocking(False)
        self.pid = start_process(script)

    @property
    def started(self) -> StartedZygote:
        """What the primary has of it."""
        return StartedZygote(self.pid, self.theirs)

    def say(self, message: FromZygote, *fds: int) -> None:
        send_packet(self.sock, message, fds)

    async def hear(self) -> tuple[Any, list[int]]:
        """Return the primary's next message and its descriptors."""
        await readable(self.sock)
        received = receive_packet(self.sock, ToZygote)
        assert received is not None
        return received

    def fork(self, script: str) -> int:
        """Do as if we had forked worker 7."""
        pid = start_process(script)
        pidfd = os.pidfd_open(pid)
        self.say(Forked(7, pid), pidfd)
        os.close(pidfd)
        return pid

    def close(self) -> None:
        self.sock.close()
