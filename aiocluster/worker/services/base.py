"""What the runtime asks of a service."""

from typing import Protocol


class Service(Protocol):
    """Serves connections with the user's app."""

    async def start(self) -> None:
        """Start the app; what it raises is why the worker cannot boot."""
        ...

    def adopt(self, fd: int, family: int) -> None:
        """Serve this connection, and own it, whatever happens."""
        ...

    async def drain(self) -> None:
        """Finish what is open and shut the app down; its hooks run once."""
        ...

    def hurry(self, timeout: float, *, moving: bool, stopping: bool = False) -> None:
        """End `drain` within `timeout` seconds from now; may be called again, before it too.

        What is idle moves to another worker if `moving` (each time), and is closed if not.
        What is unfinished then is cut. If `stopping` (once) nobody goes on with the service.
        """
        ...

    def take_latency(self) -> dict[int, int]:
        """Return the latency histogram's buckets since the last take."""
        ...

    @property
    def cut(self) -> list[str]:
        """What had to be cut, one name each, once `drain` is over."""
        ...
