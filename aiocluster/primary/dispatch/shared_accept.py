"""Listeners from which workers accept by themselves: who does, and whether the primary helps."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from aiocluster.ipc.messages import Accept


class SharedAcceptWorker(Protocol):
    """The part of a WorkerHandle that is needed here."""

    @property
    def shared(self) -> frozenset[int]:
        """The listeners, by index, from which it can accept."""
        ...

    @property
    def channel(self) -> "AcceptChannel": ...


class AcceptChannel(Protocol):
    """How it is told."""

    def post(self, message: Accept) -> None: ...


class SharedIngress(Protocol):
    """The part of the Doors that is needed here."""

    @property
    def shared(self) -> Mapping[int, int]: ...
    @property
    def are_listening(self) -> bool: ...
    def leave_to_workers(self, on: bool) -> None: ...


class SharedAccept:
    """That of one role. `count()` says how many workers there are, `serving()` who serves."""

    def __init__(
        self, count: Callable[[], int], serving: Callable[[], Iterable[SharedAcceptWorker]]
    ) -> None:
        self._count = count
        self._serving = serving
        self._ingress: SharedIngress | None = None  # until they are bound

    def begin_with(self, ingress: SharedIngress) -> None:
        """From these the connections will come, once they listen."""
        self._ingress = ingress

    def begin_accepting(self) -> None:
        """Clients may connect now: who serves, and shares the listeners, accepts from them."""
        for worker in self._serving():
            self.let_accept(worker)
        self.divide()

    def let_accept(self, worker: SharedAcceptWorker) -> None:
        """Let it accept by itself, if it can and clients may connect; see `begin_accepting`."""
        if worker.shared and self._ingress is not None and self._ingress.are_listening:
            worker.channel.post(Accept(on=bool(self._ingress.shared), workers=self._count()))

    def end(self, worker: SharedAcceptWorker) -> None:
        """Let it accept nothing more."""
        if worker.shared:
            worker.channel.post(Accept(on=False))

    def divide(self) -> None:
        """The primary accepts only while somebody serves who cannot do it by himself.

        After an upgrade that may be so until a reload.
        """
        if self._ingress is not None and (shared := self._ingress.shared):
            able = all(worker.shared >= shared.keys() for worker in self._serving())
            self._ingress.leave_to_workers(able)
