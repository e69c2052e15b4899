"""The log lines about a worker's exit."""

import logging
import signal

from aiocluster.errors import BootError
from aiocluster.events import WorkerExited
from aiocluster.primary.processes.exit_status import ExitStatus
from aiocluster.primary.workers.exits import finished_all
from aiocluster.primary.workers.handle import WorkerHandle

log = logging.getLogger("aiocluster.supervisor")


_BY_THE_KERNEL = {
    True: ", by the kernel: out of memory",
    None: ", perhaps by the kernel: was it out of memory? (dmesg tells)",
    False: "",
}


class ExitLog:
    """A log of exits: each is logged once, at the level that its cause deserves."""

    def __init__(self, boot_timeout: float) -> None:
        self._boot_timeout = boot_timeout
        # Workers that failed to boot in the first start. If no worker comes up, the caller of the
        # start gets the cause, and reports it once.
        self._held: list[WorkerHandle] | None = []
        self._last_traceback = ""

    def release(self) -> None:
        """Log the boot failures of the first start, which is over. Idempotent."""
        held, self._held = self._held or [], None
        for worker in held:
            self._tell_boot_failure(worker)

    def tell(self, worker: WorkerHandle, exited: WorkerExited) -> None:
        """Log how `worker` ended."""
        how = _how(worker, exited)
        well = finished_all(ExitStatus(exited.code, exited.signal))
        if not worker.was_ready and not exited.voluntary:
            self._tell_boot_failure(worker)
        elif not worker.was_ready:
            log.info("%s %s while it started (%s)", worker, how, exited.reason)
        elif cut := worker.ending.cut:
            log.warning("%s %s; cut: %s", worker, how, ", ".join(cut))
        elif exited.reason == "hang":
            log.error("%s was killed: its loop did not turn any more (hang)", worker)
        elif exited.reason == "memory_limit" and not exited.voluntary:
            log.error("%s was killed: it had grown too large (memory_limit)", worker)
        elif worker.ending.killed:
            log.warning("%s was killed before it had ended (%s)", worker, exited.reason)
        else:
            level = logging.INFO if exited.voluntary and well else logging.WARNING
            log.log(level, "%s %s (%s)", worker, how, exited.reason)

    def why_not_ready(self, worker: WorkerHandle) -> BootError:
        """Return why the worker did not become ready, or did not last."""
        if (failure := worker.boot_failure) is not None:
            return BootError(failure.cause, failure.traceback, failure.exit_code)
        if not worker.exited.done():
            return BootError(f"{worker} died before it was ready")
        exited = worker.exited.result()
        if worker.was_ready:
            return BootError(
                f"{worker} {_how(worker, exited)} ({exited.reason}) soon after its start"
            )
        if exited.reason == "boot_timeout":
            seconds = self._boot_timeout
            return BootError(f"{worker} was not ready after {seconds:g} s (boot_timeout)")
        return BootError(f"{worker} {_how(worker, exited)} before it was ready")

    def _tell_boot_failure(self, worker: WorkerHandle) -> None:
        """Log the cause each time, and the traceback only if it is a new one."""
        if self._held is not None:
            self._held.append(worker)
            return
        error = self.why_not_ready(worker)
        log.error("could not start %s: %s", worker, error.cause)
        if error.traceback and error.traceback != self._last_traceback:
            log.error("%s", error.traceback.rstrip())
        self._last_traceback = error.traceback


def _how(worker: WorkerHandle, exited: WorkerExited) -> str:
    if exited.signal is not None:
        # Real-time signals have no name.
        what = f"was killed by signal {exited.signal} ({signal.strsignal(exited.signal)})"
        return what + _BY_THE_KERNEL[worker.ending.out_of_memory]
    if exited.code is None:
        return "ended with an unknown status"
    return f"exited with code {exited.code}"
