"""Listeners from which workers accept by themselves: who does, and whether the primary helps."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from aiocluster.ipc.messages import Accept


class Sharer(Protocol):
    """The part of a WorkerHandle that is needed here."""

    @property
    def shared(self) -> frozenset[int]:
        """The listeners, by index, from which it can accept."""
        ...

    @property
    def channel(self) -> "Channel": ...


class Channel(Protocol):
    """How it is told."""

    def post(self, message: Accept) -> None: ...


class SharedDoors(Protocol):
    """The part of the Doors that is needed here."""

    @property
    def shared(self) -> Mapping[int, int]: ...
    @property
    def are_listening(self) -> bool: ...
    def leave_to_workers(self, on: bool) -> None: ...


class Sharing:
    """That of one role. `count()` says how many workers there are, `serving()` who serves."""

    def __init__(self, count: Callable[[], int], serving: Callable[[], Iterable[Sharer]]) -> None:
        self._count = count
        self._serving = serving
        self._doors: SharedDoors | None = None  # until they are bound

    def begin_with(self, doors: SharedDoors) -> None:
        """From these the connections will come, once they listen."""
        self._doors = doors

    def begin_accepting(self) -> None:
        """Clients may connect now: who serves, and shares the listeners, accepts from them."""
        for worker in self._serving():
            self.let_accept(worker)
        self.divide()

    def let_accept(self, worker: Sharer) -> None:
        """Let it accept by itself, if it can and clients may connect; see `begin_accepting`."""
        if worker.shared and self._doors is not None and self._doors.are_listening:
            worker.channel.post(Accept(on=bool(self._doors.shared), workers=self._count()))

    def end(self, worker: Sharer) -> None:
        """Let it accept nothing more."""
        if worker.shared:
            worker.channel.post(Accept(on=False))

    def divide(self) -> None:
        """The primary accepts only while somebody serves who cannot do it by himself.

        After an upgrade that may be so until a reload.
        """
        if self._doors is not None and (shared := self._doors.shared):
            able = all(worker.shared >= shared.keys() for worker in self._serving())
            self._doors.leave_to_workers(able)
