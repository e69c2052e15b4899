"""Decides what a worker's exit means: its reason, whether it was wanted, and what follows.

One module decides this, so that the event, the log, the exit code and the back-off agree.
"""

from aiocluster.config.settings import Restart
from aiocluster.events import WorkerExited
from aiocluster.primary.processes.exit_status import ExitStatus

# Reasons to ask a worker to exit that make its exit involuntary; None: it was not asked.
_INVOLUNTARY = (None, "boot_timeout", "crash", "disconnected", "hang")

# Exits that the cluster, or the program ("kill"), causes: they say nothing against the code.
_WANTED = ("kill", "max_age", "max_requests", "memory_limit", "reload", "stop")

# Kills by the primary that are the fault of the worker's code.
OUR_KILLS = ("hang", "memory_limit")

# KILL and TERM: an operator, or an out-of-memory killer, sends them.
_SIGNALS_FROM_OUTSIDE = (9, 15)

# For the back-off: the kill of a worker that served, from outside (an operator, an
# out-of-memory killer), says less about the code than a crash.
CRASH_WEIGHT = 1.0
KILLED_WEIGHT = 0.25

# Seconds. If a job returns sooner after its start, again and again, it does little but start.
_MOMENT = 1.0


def is_voluntary(
    asked: str | None, sent_signal: int | None, died_of: int | None, *, killed: bool
) -> bool:
    """Return True if the worker was asked to exit, or died of a signal that the program sent.

    `asked` is the reason. If the primary `killed` the worker at a memory limit, the worker had no
    time to drain, or did not use it: the exit is involuntary.
    """
    told = asked not in _INVOLUNTARY and not (killed and asked in OUR_KILLS)
    return told or (died_of is not None and died_of == sent_signal)


def reason_of(
    status: ExitStatus, asked: str | None, sent_signal: int | None, *, boot_failed: bool
) -> str:
    """Return the `reason` of a WorkerExited: what the worker was asked to exit for, or died of."""
    if asked is not None:
        return asked
    if boot_failed:
        return "boot_failed"
    if status.signal is not None:
        return "kill" if status.signal == sent_signal else "signal"
    return "exit" if status.code == 0 else "crash"


def finished_all(status: ExitStatus) -> bool:
    """Return True if the worker finished all that it had begun, as far as its status shows.

    A killed worker did not. A worker of unknown status is taken to have finished.
    """
    return status.signal is None and status.code in (0, None)


def is_own_code(status: ExitStatus) -> bool:
    """Return True if only the app's own code exits so. A worker that cut something exits with 1."""
    return status.code not in (None, 0, 1)


def is_replaced(exited: WorkerExited, restart: Restart) -> bool:
    """Return True if another worker takes the slot."""
    match restart:
        case "always":
            return True
        case "never":
            return False
        case "on_failure":
            return not exited.voluntary and (exited.code != 0 or exited.reason == "disconnected")


def returned_at_once(exited: WorkerExited, lived: float) -> bool:
    """Return True if a job returned as soon as it had begun: its worker was ready for `lived` s."""
    return exited.reason == "finished" and lived < _MOMENT


def weight_of(exited: WorkerExited, *, was_ready: bool, lived: float) -> float:
    """Return how much an exit says against the code, for the back-off.

    `lived` is the time since the worker was ready, in seconds.
    """
    if returned_at_once(exited, lived):  # it would spin, with no failure
        return CRASH_WEIGHT
    if exited.reason in OUR_KILLS and not exited.voluntary:
        return CRASH_WEIGHT
    if exited.reason in _WANTED:
        return 0.0
    # A worker that asks to drain as soon as it has started must not spin either.
    from_outside = exited.voluntary or exited.signal in _SIGNALS_FROM_OUTSIDE
    return KILLED_WEIGHT if from_outside and was_ready else CRASH_WEIGHT
