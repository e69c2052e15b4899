"""Why a worker exits: the reasons, kills and cuts that are known until its process is gone."""

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
    """The causes of one worker's exit that are known so far; exits.py decides what they mean."""

    def __init__(self) -> None:
        self.reason: str | None = None  # what the worker was asked to exit for
        self.sent_signal: int | None = None  # the signal that the program sent
        self.killed = False  # the primary killed the worker
        self.stack = ""  # of the worker at the kill
        self.has_drained = False  # the worker has sent Drained
        self.cut: list[str] = []  # what it gave up, by its Drained
        self.out_of_memory: bool | None = False  # the kernel killed it; None: unknown

    def is_ours(self, number: int | None) -> bool:
        """Return True if the primary or the program sent the signal that ended the worker."""
        return self.killed or number == self.sent_signal

    def ask(self, reason: str) -> None:
        """Note that the worker was asked to exit; the first reason counts."""
        self.reason = self.reason or reason

    def kill(self, reason: str, stack: str) -> None:
        """Note that the primary killed the worker."""
        # A fault of the worker's code is the reason, whatever it was asked to exit for.
        self.reason = reason if reason in OUR_KILLS else self.reason or reason
        self.stack = self.stack or stack
        self.killed = True

    def is_voluntary(self, died_of: int | None) -> bool:
        """Return True if the worker was asked to exit, or died of the program's signal."""
        return is_voluntary(self.reason, self.sent_signal, died_of, killed=self.killed)

    def drained(self, cut: list[str]) -> None:
        """Note that the worker has finished all that it had begun, except what is `cut`."""
        self.has_drained, self.cut = True, cut

    def is_clean(self, exited: WorkerExited) -> bool:
        """Return True if nothing was killed or given up."""
        if self.killed or self.cut:
            return False
        status = ExitStatus(exited.code, exited.signal)
        return finished_all(status) or (self.has_drained and is_own_code(status))

    def event(self, worker: WorkerView, status: ExitStatus, *, boot_failed: bool) -> WorkerExited:
        """Return the event of the exit, now that the process is gone."""
        reason = reason_of(status, self.reason, self.sent_signal, boot_failed=boot_failed)
        voluntary = self.is_voluntary(status.signal)
        return WorkerExited(worker, status.code, status.signal, voluntary, reason, self.stack)

    def adopt(self, state: WorkerState) -> None:
        """Restore what the previous program knew."""
        self.reason, self.sent_signal = state.reason, state.sent_signal
        self.killed, self.stack = state.killed, state.stack
        self.has_drained, self.cut = state.has_drained, state.cut
