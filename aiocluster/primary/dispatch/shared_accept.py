"""Listeners from which workers accept by themselves, and when the primary accepts too."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from aiocluster.ipc.messages import Accept


class SharedAcceptWorker(Protocol):
    """The part of a WorkerHandle that SharedAccept needs."""

    @property
    def shared(self) -> frozenset[int]:
        """The listeners, by index, from which the worker can accept."""
        ...

    @property
    def channel(self) -> "AcceptChannel": ...


class AcceptChannel(Protocol):
    """The channel of such a worker."""

    def post(self, message: Accept) -> None: ...


class SharedIngress(Protocol):
    """The part of an Ingress that SharedAccept needs."""

    @property
    def shared(self) -> Mapping[int, int]: ...
    @property
    def are_listening(self) -> bool: ...
    def leave_to_workers(self, on: bool) -> None: ...


class SharedAccept:
    """The control of one role over which workers accept from its shared listeners.

    `count()` returns the number of workers, `serving()` those that serve.
    """

    def __init__(
        self, count: Callable[[], int], serving: Callable[[], Iterable[SharedAcceptWorker]]
    ) -> None:
        self._count = count
        self._serving = serving
        self._ingress: SharedIngress | None = None  # until the listeners are bound

    def begin_with(self, ingress: SharedIngress) -> None:
        """Set the ingress with the shared listeners, which workers will accept from."""
        self._ingress = ingress

    def begin_accepting(self) -> None:
        """Let each serving worker accept from the listeners it shares: clients can connect now."""
        for worker in self._serving():
            self.let_accept(worker)
        self.divide()

    def let_accept(self, worker: SharedAcceptWorker) -> None:
        """Let a worker accept by itself, if it has shared listeners and clients can connect."""
        if worker.shared and self._ingress is not None and self._ingress.are_listening:
            worker.channel.post(Accept(on=bool(self._ingress.shared), workers=self._count()))

    def end(self, worker: SharedAcceptWorker) -> None:
        """Make a worker accept nothing more."""
        if worker.shared:
            worker.channel.post(Accept(on=False))

    def divide(self) -> None:
        """Make the primary accept only while a serving worker cannot accept by itself.

        After an upgrade there may be such workers until a reload.
        """
        if self._ingress is not None and (shared := self._ingress.shared):
            able = all(worker.shared >= shared.keys() for worker in self._serving())
            self._ingress.leave_to_workers(able)
