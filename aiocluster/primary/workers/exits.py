"""What an end means: was it wanted, why was it, was all finished, and what follows.

Decided in one place, so that the event, the log, the exit code and the back-off agree.
"""

from aiocluster.config.settings import Restart
from aiocluster.events import WorkerExited
from aiocluster.primary.processes.exit_status import ExitStatus

# A worker told to go for one of these did not want to, nor did anybody want it to.
_INVOLUNTARY = (None, "boot_timeout", "crash", "disconnected", "hang")

# Ends that we, or the program itself ("kill"), bring about: they say nothing against the code.
_WANTED = ("kill", "max_age", "max_requests", "memory_limit", "reload", "stop")

# Killed by us, and its code's own fault.
OUR_KILLS = ("hang", "memory_limit")

# KILL and TERM: what an operator, or an out-of-memory killer, sends.
_SIGNALS_FROM_OUTSIDE = (9, 15)

# For the back-off: a worker that served and was then killed from outside (an operator, an
# out-of-memory killer) says less about the code than one that crashed by itself.
CRASH_WEIGHT = 1.0
KILLED_WEIGHT = 0.25

# A job that returns within so many seconds of its start, and runs again, does little but start.
_MOMENT = 1.0


def is_voluntary(
    asked: str | None, sent_signal: int | None, died_of: int | None, *, killed: bool
) -> bool:
    """Was it told to go (`asked`: for which reason), or did it die of a signal of our user's?

    `killed` by us for a memory_limit it had no time to go, or did not use it.
    """
    told = asked not in _INVOLUNTARY and not (killed and asked in OUR_KILLS)
    return told or (died_of is not None and died_of == sent_signal)


def reason_of(
    status: ExitStatus, asked: str | None, sent_signal: int | None, *, boot_failed: bool
) -> str:
    """Return the `reason` of a WorkerExited: what it was told to go for, or what it died of."""
    if asked is not None:
        return asked
    if boot_failed:
        return "boot_failed"
    if status.signal is not None:
        return "kill" if status.signal == sent_signal else "signal"
    return "exit" if status.code == 0 else "crash"


def finished_all(status: ExitStatus) -> bool:
    """Did it finish all that it had begun, as far as its status tells?

    A worker that was killed did not, whoever killed it. When nobody could tell the status
    there is nothing against it.
    """
    return status.signal is None and status.code in (0, None)


def is_own_code(status: ExitStatus) -> bool:
    """Does only the app's own code end a process so? A worker that had to cut something gives 1."""
    return status.code not in (None, 0, 1)


def is_replaced(exited: WorkerExited, restart: Restart) -> bool:
    """Does another worker take its slot?"""
    match restart:
        case "always":
            return True
        case "never":
            return False
        case "on_failure":
            return not exited.voluntary and (exited.code != 0 or exited.reason == "disconnected")


def returned_at_once(exited: WorkerExited, lived: float) -> bool:
    """Has the job of a worker, ready for `lived` seconds, returned as soon as it had begun?"""
    return exited.reason == "finished" and lived < _MOMENT


def weight_of(exited: WorkerExited, *, was_ready: bool, lived: float) -> float:
    """How much this end says against the code, for the back-off.

    `lived` is the time since the worker was ready, in seconds.
    """
    if returned_at_once(exited, lived):  # it would spin, though all went well each time
        return CRASH_WEIGHT
    if exited.reason in OUR_KILLS and not exited.voluntary:
        return CRASH_WEIGHT
    if exited.reason in _WANTED:
        return 0.0
    # One that asks to go as soon as it has come must not spin either.
    from_outside = exited.voluntary or exited.signal in _SIGNALS_FROM_OUTSIDE
    return KILLED_WEIGHT if from_outside and was_ready else CRASH_WEIGHT
