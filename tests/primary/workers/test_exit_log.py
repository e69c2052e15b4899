"""What the log says of a worker's end."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiocluster.events import WorkerExited
from aiocluster.ipc.messages import BootFailed
from aiocluster.primary.workers.exit_log import ExitLog
from aiocluster.primary.workers.handle import WorkerHandle
from tests.support.waiting import turns
from tests.support.workers import FakeOwner, let_go, play_worker


@pytest.fixture
async def worker() -> AsyncIterator[WorkerHandle]:
    handle, fake = await play_worker(FakeOwner())
    yield handle
    let_go(handle, fake)
    await turns()


@pytest.fixture
def exit_log(caplog: pytest.LogCaptureFixture) -> ExitLog:
    caplog.set_level(logging.INFO, "aiocluster.supervisor")
    log = ExitLog(boot_timeout=60.0)
    log.release()
    return log


Told = tuple[WorkerHandle, ExitLog, pytest.LogCaptureFixture]


@pytest.fixture
def told(worker: WorkerHandle, exit_log: ExitLog, caplog: pytest.LogCaptureFixture) -> Told:
    return worker, exit_log, caplog


def ended(
    worker: WorkerHandle,
    code: int | None = None,
    by: int | None = None,
    *,
    voluntary: bool = False,
    reason: str = "crash",
) -> WorkerExited:
    return WorkerExited(worker, code, by, voluntary, reason)


@pytest.mark.parametrize(
    ("exited", "level", "text"),
    [
        ({"code": 0, "voluntary": True, "reason": "drain"}, "INFO", "exited with code 0 (drain)"),
        ({"code": 1}, "WARNING", "exited with code 1"),
        ({"by": signal.SIGKILL, "reason": "signal"}, "WARNING", "killed by signal 9 (Killed)"),
        ({"by": 40, "reason": "signal"}, "WARNING", "killed by signal 40 "),
        ({"reason": "signal"}, "WARNING", "ended with an unknown status"),
    ],
)
async def test_an_end_is_told_as_loudly_as_it_deserves(
    told: Told, exited: dict[str, Any], level: str, text: str
) -> None:
    """What was asked for is information; what was not is a warning."""
    worker, exit_log, caplog = told
    worker.was_ready = True

    exit_log.tell(worker, ended(worker, **exited))

    (record,) = caplog.records
    assert (record.levelname, str(worker) in record.message) == (level, True)
    assert text in record.message


async def test_the_code_of_an_app_that_exits_is_passed_on(
    worker: WorkerHandle, exit_log: ExitLog
) -> None:
    """The first start ends the program with it."""
    worker.boot_failure = BootFailed("the app exited with code 7 before it served", "", 7)
    assert exit_log.why_not_ready(worker).exit_code == 7


@pytest.mark.parametrize(
    ("out_of_memory", "says"),
    [
        (True, "(Killed), by the kernel: out of memory (signal)"),
        (None, "(Killed), perhaps by the kernel: was it out of memory? (dmesg tells) (signal)"),
        (False, "(Killed) (signal)"),
    ],
)
async def test_a_worker_that_the_kernel_killed_was_out_of_memory(
    told: Told, out_of_memory: bool | None, says: str
) -> None:
    """Where nobody can tell, a hint has to do; also if it had not been ready yet."""
    worker, exit_log, caplog = told
    worker.ending.out_of_memory = out_of_memory
    exited = ended(worker, by=signal.SIGKILL, reason="signal")
    worker.exited = asyncio.get_running_loop().create_future()
    worker.exited.set_result(exited)
    before_it_was_ready = exit_log.why_not_ready(worker).cause
    worker.was_ready = True
    exit_log.tell(worker, exited)

    assert caplog.records[0].message.endswith(f"was killed by signal 9 {says}")
    assert says.removesuffix(" (signal)") in before_it_was_ready


async def test_what_was_cut_is_named(
    worker: WorkerHandle, exit_log: ExitLog, caplog: pytest.LogCaptureFixture
) -> None:
    """Whose request it was is what the operator will be asked."""
    worker.was_ready = True
    worker.ending.cut = ["GET /a from 10.0.0.1", "GET /b from 10.0.0.2"]

    exit_log.tell(worker, ended(worker, 1, voluntary=True, reason="stop"))

    assert "cut: GET /a from 10.0.0.1, GET /b from 10.0.0.2" in caplog.text


async def test_one_that_had_to_be_killed_is_named_with_the_reason(
    worker: WorkerHandle, exit_log: ExitLog, caplog: pytest.LogCaptureFixture
) -> None:
    """Not as killed by somebody."""
    worker.was_ready = worker.ending.killed = True

    exit_log.tell(worker, ended(worker, by=signal.SIGKILL, voluntary=True, reason="stop"))

    assert "was killed before it had ended (stop)" in caplog.text


async def test_one_that_hung_is_an_error(
    worker: WorkerHandle, exit_log: ExitLog, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody asked it to end: it is not too late for anything."""
    worker.was_ready = worker.ending.killed = True

    exit_log.tell(worker, ended(worker, by=signal.SIGKILL, reason="hang"))

    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "its loop did not turn any more (hang)" in record.message


async def test_while_the_first_start_goes_on_its_failures_are_held(
    worker: WorkerHandle, caplog: pytest.LogCaptureFixture
) -> None:
    """If nothing comes up they are told once, by whoever asked; else when that is known."""
    exit_log = ExitLog(boot_timeout=60.0)
    worker.boot_failure = BootFailed("ValueError: no database", "Traceback …")
    exit_log.tell(worker, ended(worker, 3, reason="boot_failed"))
    assert caplog.text == ""

    exit_log.release()
    exit_log.release()

    assert caplog.text.count("ValueError: no database") == 1
    assert "Traceback …" in caplog.text


async def test_the_same_traceback_is_told_once_running(
    worker: WorkerHandle, exit_log: ExitLog, caplog: pytest.LogCaptureFixture
) -> None:
    """A crash loop tells its cause each time, its traceback when it is a new one."""
    for traceback in ("Traceback A", "Traceback A", "Traceback B"):
        worker.boot_failure = BootFailed("ValueError: no", traceback)
        exit_log.tell(worker, ended(worker, 3, reason="boot_failed"))

    assert caplog.text.count("ValueError: no") == 3
    assert caplog.text.count("Traceback A") == caplog.text.count("Traceback B") == 1


@pytest.mark.parametrize(
    ("exited", "cause"),
    [
        ({"code": 7}, "exited with code 7 before it was ready"),
        ({"by": signal.SIGSEGV}, "(Segmentation fault) before it was ready"),
        ({"reason": "boot_timeout", "by": 9}, "was not ready after 60 s (boot_timeout)"),
    ],
)
async def test_why_it_was_not_ready(
    worker: WorkerHandle, exit_log: ExitLog, exited: dict[str, Any], cause: str
) -> None:
    """One that died without a word is told by how it died."""
    worker.exited = asyncio.get_running_loop().create_future()
    worker.exited.set_result(ended(worker, **exited))

    error = exit_log.why_not_ready(worker)

    assert cause in error.cause
    assert error.traceback == ""


async def test_why_one_that_has_not_been_reaped_was_not_ready(
    worker: WorkerHandle, exit_log: ExitLog
) -> None:
    """Its death may be seen before it is known how it ended."""
    assert exit_log.why_not_ready(worker).cause == f"{worker} died before it was ready"


async def test_one_that_was_stopped_while_it_started_is_no_warning(
    worker: WorkerHandle, exit_log: ExitLog, caplog: pytest.LogCaptureFixture
) -> None:
    """It had begun nothing."""
    worker.ending.killed = True

    exit_log.tell(worker, ended(worker, by=signal.SIGKILL, voluntary=True, reason="stop"))

    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert "while it started (stop)" in record.message
