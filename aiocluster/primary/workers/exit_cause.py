"""Why a worker goes: what it was asked, killed and cut for, until its end can be told."""

from aiocluster.events import WorkerExited, WorkerView
from aiocluster.ipc.handover import WorkerState
from aiocluster.primary.processes.exit_status import ExitStatus
from aiocluster.primary.workers.exits import (
    OUR_KILLS,
    finished_all,
    is_own_code,
    is_voluntary,
    reason_of,
)


class ExitCause:
    """What is known of one worker's end; what is told of it is decided in exits.py."""

    def __init__(self) -> None:
        self.reason: str | None = None  # what it was told to go for
        self.sent_signal: int | None = None  # by our user
        self.killed = False  # by us
        self.stack = ""  # what it did then
        self.has_drained = False  # it has said what it gave up
        self.cut: list[str] = []  # and that was this
        self.out_of_memory: bool | None = False  # did the kernel kill it? None: who knows

    def is_ours(self, number: int | None) -> bool:
        """Did we, or our user, send the signal that it died of?"""
        return self.killed or number == self.sent_signal

    def ask(self, reason: str) -> None:
        """It is told to go; the first reason is the one that counts."""
        self.reason = self.reason or reason

    def kill(self, reason: str, stack: str) -> None:
        """It is killed."""
        # What is its code's own fault is told, whatever it was asked to go for.
        self.reason = reason if reason in OUR_KILLS else self.reason or reason
        self.stack = self.stack or stack
        self.killed = True

    def is_voluntary(self, died_of: int | None) -> bool:
        """Was it told to go, or did it die of our user's signal?"""
        return is_voluntary(self.reason, self.sent_signal, died_of, killed=self.killed)

    def drained(self, cut: list[str]) -> None:
        """It has finished all that it had begun, but for what is `cut`."""
        self.has_drained, self.cut = True, cut

    def is_clean(self, exited: WorkerExited) -> bool:
        """Was nothing killed or given up?"""
        if self.killed or self.cut:
            return False
        status = ExitStatus(exited.code, exited.signal)
        return finished_all(status) or (self.has_drained and is_own_code(status))

    def event(self, worker: WorkerView, status: ExitStatus, *, boot_failed: bool) -> WorkerExited:
        """Return what is told of it, now that its process is gone."""
        reason = reason_of(status, self.reason, self.sent_signal, boot_failed=boot_failed)
        voluntary = self.is_voluntary(status.signal)
        return WorkerExited(worker, status.code, status.signal, voluntary, reason, self.stack)

    def adopt(self, state: WorkerState) -> None:
        """Go on with what another program knew."""
        self.reason, self.sent_signal = state.reason, state.sent_signal
        self.killed, self.stack = state.killed, state.stack
        self.has_drained, self.cut = state.has_drained, state.cut
