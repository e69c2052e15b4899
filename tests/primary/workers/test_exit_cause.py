"""What is known of a worker's end. What that means is tested in test_exits.py."""

import signal
from typing import Any

import pytest

from aiocluster.events import WorkerExited
from aiocluster.primary.processes.exit_status import ExitStatus
from aiocluster.primary.workers.exit_cause import ExitCause

WORKER: Any = object()

KILLED = ExitStatus(None, signal.SIGKILL)


def test_the_first_reason_counts() -> None:
    """It goes for that, whatever it is asked for afterwards."""
    ending = ExitCause()
    ending.ask("reload")
    ending.ask("stop")
    assert ending.event(WORKER, ExitStatus(0, None), boot_failed=False).reason == "reload"


@pytest.mark.parametrize(
    ("reason", "told"), [("hang", "hang"), ("memory_limit", "memory_limit"), ("drain", "reload")]
)
def test_a_fault_of_its_own_counts_more(reason: str, told: str) -> None:
    """Whatever it was asked to go for, it was killed for that."""
    ending = ExitCause()
    ending.ask("reload")
    ending.kill(reason, "in spin")
    event = ending.event(WORKER, KILLED, boot_failed=False)
    assert (event.reason, event.stack) == (told, "in spin")


def test_whose_signal_it_died_of() -> None:
    """Only of one that nobody here has sent it may be asked who did."""
    ending = ExitCause()
    assert not ending.is_ours(signal.SIGKILL)
    ending.sent_signal = signal.SIGKILL
    assert ending.is_ours(signal.SIGKILL)
    ending.sent_signal = None
    ending.kill("stop", "")
    assert ending.is_ours(signal.SIGKILL)


def test_the_first_stack_is_kept() -> None:
    """A second kill knows no more."""
    ending = ExitCause()
    ending.kill("hang", "in spin")
    ending.kill("stop", "")
    assert ending.event(WORKER, KILLED, boot_failed=False) == WorkerExited(
        WORKER, None, signal.SIGKILL, False, "hang", "in spin"
    )


def test_one_that_did_not_boot_says_so() -> None:
    """When nobody had asked it to go."""
    event = ExitCause().event(WORKER, ExitStatus(3, None), boot_failed=True)
    assert (event.code, event.reason, event.voluntary) == (3, "boot_failed", False)


def test_our_users_signal_is_its_users_wish() -> None:
    """And another one is not."""
    ending = ExitCause()
    ending.sent_signal = signal.SIGKILL
    assert ending.is_voluntary(signal.SIGKILL)
    assert not ending.is_voluntary(signal.SIGSEGV)


@pytest.mark.parametrize(
    ("killed", "cut", "code", "clean"),
    [
        (False, [], 0, True),
        (False, [], None, True),
        (True, [], 0, False),
        (False, ["GET /"], 0, False),
        (False, [], 1, False),
    ],
)
def test_an_end_is_clean_when_nothing_was_given_up(
    killed: bool, cut: list[str], code: int | None, clean: bool
) -> None:
    """Nor anybody killed for being late."""
    ending = ExitCause()
    ending.killed, ending.cut = killed, cut
    assert ending.is_clean(WorkerExited(WORKER, code, None, True, "stop", "")) is clean


@pytest.mark.parametrize(
    ("cut", "code", "clean"),
    [(None, 7, False), ([], 7, True), (["GET /"], 7, False), ([], 1, False), ([], 0, True)],
)
def test_a_code_of_the_apps_own_is_no_cut(cut: list[str] | None, code: int, clean: bool) -> None:
    """Once the worker has said that all it had begun is finished; 1 may be of ours."""
    ending = ExitCause()
    if cut is not None:
        ending.drained(cut)
    assert ending.is_clean(WorkerExited(WORKER, code, None, True, "stop", "")) is clean
