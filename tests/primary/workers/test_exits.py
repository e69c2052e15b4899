"""What an end means, row by row."""

from typing import Any

import pytest

from aiocluster.config.settings import Restart
from aiocluster.events import WorkerExited
from aiocluster.primary.processes.exit_status import ExitStatus
from aiocluster.primary.workers.exits import (
    CRASH_WEIGHT,
    KILLED_WEIGHT,
    finished_all,
    is_replaced,
    is_voluntary,
    reason_of,
    returned_at_once,
    weight_of,
)

WORKER: Any = object()


@pytest.mark.parametrize(
    ("asked", "sent", "died_of", "killed", "voluntary"),
    [
        ("stop", None, None, False, True),
        ("exit", None, None, False, True),
        ("crash", None, None, False, False),
        ("drain", None, 9, True, True),
        ("max_age", None, 9, True, True),
        ("boot_timeout", None, 9, True, False),
        ("disconnected", None, 9, True, False),
        ("hang", None, 9, True, False),
        ("memory_limit", None, None, False, True),
        ("memory_limit", None, 9, False, True),
        ("memory_limit", None, 9, True, False),
        ("memory_limit", None, None, True, False),
        ("memory_limit", 9, 9, True, True),
        (None, 9, 9, False, True),
        (None, 9, None, False, False),
        (None, 15, 9, False, False),
        (None, None, 9, False, False),
        (None, None, None, False, False),
    ],
)
def test_voluntary_is_who_was_told_to_go(
    asked: str | None, sent: int | None, died_of: int | None, killed: bool, voluntary: bool
) -> None:
    """By us or by a signal of our user's that it died of; not for being too late, or killed."""
    assert is_voluntary(asked, sent, died_of, killed=killed) == voluntary


@pytest.mark.parametrize(
    ("status", "asked", "sent", "boot_failed", "reason"),
    [
        (ExitStatus(0, None), None, None, False, "exit"),
        (ExitStatus(1, None), None, None, False, "crash"),
        (ExitStatus(None, None), None, None, False, "crash"),
        (ExitStatus(None, 11), None, None, False, "signal"),
        (ExitStatus(None, 9), None, 9, False, "kill"),
        (ExitStatus(None, 9), None, 10, False, "signal"),
        (ExitStatus(3, None), None, None, True, "boot_failed"),
        (ExitStatus(0, None), "stop", None, False, "stop"),
        (ExitStatus(None, 9), "boot_timeout", None, False, "boot_timeout"),
        (ExitStatus(3, None), "stop", None, True, "stop"),
        (ExitStatus(None, 9), "hang", None, False, "hang"),
    ],
)
def test_the_reason_is_what_it_was_told_or_what_it_died_of(
    status: ExitStatus, asked: str | None, sent: int | None, boot_failed: bool, reason: str
) -> None:
    """What it was told to go for comes first."""
    assert reason_of(status, asked, sent, boot_failed=boot_failed) == reason


@pytest.mark.parametrize(
    ("status", "finished"),
    [
        (ExitStatus(0, None), True),
        (ExitStatus(None, None), True),
        (ExitStatus(1, None), False),
        (ExitStatus(3, None), False),
        (ExitStatus(None, 15), False),
        (ExitStatus(None, 9), False),
        (ExitStatus(None, 11), False),
    ],
)
def test_who_died_of_a_signal_did_not_finish(status: ExitStatus, finished: bool) -> None:
    """Whoever sent it, and also while it drained."""
    assert finished_all(status) == finished


@pytest.mark.parametrize(
    ("restart", "voluntary", "code", "replaced"),
    [
        ("always", True, 0, True),
        ("always", False, 1, True),
        ("never", False, 1, False),
        ("never", True, 0, False),
        ("on_failure", False, 1, True),
        ("on_failure", False, None, True),
        ("on_failure", False, 0, False),
        ("on_failure", True, 1, False),
    ],
)
def test_who_is_replaced(
    restart: Restart, voluntary: bool, code: int | None, replaced: bool
) -> None:
    """always; on_failure: not what went by itself in peace or was told to; never."""
    assert is_replaced(WorkerExited(WORKER, code, None, voluntary, "x"), restart) == replaced


def test_one_that_lost_a_wire_has_not_finished() -> None:
    """It exits with 0, as it has lost no request; its job was not done."""
    assert is_replaced(WorkerExited(WORKER, 0, None, False, "disconnected"), "on_failure")


@pytest.mark.parametrize(
    ("reason", "signal", "voluntary", "was_ready", "weight"),
    [
        ("max_requests", None, True, True, 0.0),
        ("stop", 9, True, True, 0.0),
        ("crash", None, False, True, CRASH_WEIGHT),
        ("signal", 11, False, True, CRASH_WEIGHT),
        ("signal", 9, False, True, KILLED_WEIGHT),
        ("signal", 15, False, True, KILLED_WEIGHT),
        ("signal", 9, False, False, CRASH_WEIGHT),
        ("hang", 9, False, True, CRASH_WEIGHT),
        ("hang", 9, True, True, KILLED_WEIGHT),
        ("memory_limit", 9, False, True, CRASH_WEIGHT),
        ("memory_limit", None, True, True, 0.0),
        ("drain", None, True, True, KILLED_WEIGHT),
        ("exit", None, True, True, KILLED_WEIGHT),
        ("exit", None, False, True, CRASH_WEIGHT),
        ("drain", None, True, False, CRASH_WEIGHT),
        ("kill", 9, True, True, 0.0),
        ("kill", 9, True, False, 0.0),
        ("kill", None, True, True, 0.0),
    ],
)
def test_how_much_an_end_says_against_the_code(
    reason: str, signal: int | None, voluntary: bool, was_ready: bool, weight: float
) -> None:
    """A crash much, a kill from outside little, what was planned or asked for nothing."""
    exited = WorkerExited(WORKER, None, signal, voluntary, reason)

    assert weight_of(exited, was_ready=was_ready, lived=0.0) == weight


@pytest.mark.parametrize(
    ("lived", "weight"), [(0.0, CRASH_WEIGHT), (0.9, CRASH_WEIGHT), (1.1, 0.25)]
)
def test_a_job_that_returns_at_once_counts_as_much_as_a_crash(lived: float, weight: float) -> None:
    """Called again without a wait it would spin; one that has worked for a while would not."""
    exited = WorkerExited(WORKER, 0, None, True, "finished")

    assert returned_at_once(exited, lived) == (weight == CRASH_WEIGHT)
    assert weight_of(exited, was_ready=True, lived=lived) == weight
