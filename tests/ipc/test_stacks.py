"""The file that a worker's stacks come by. The worker is a second descriptor of it."""

import os
import signal
from collections.abc import Iterator

import pytest

from aiocluster.ipc.stacks import END, MAX_STACKS_BYTES, STACKS_SIGNAL, StackFile, loop_stack


@pytest.fixture
def stacks() -> Iterator[StackFile]:
    stacks = StackFile()
    yield stacks
    stacks.close()


@pytest.fixture
def worker(stacks: StackFile) -> Iterator[int]:
    fd = os.dup(stacks.fd)
    yield fd
    os.close(fd)


def test_what_was_written_is_taken_once(stacks: StackFile, worker: int) -> None:
    """In the order it was written, without the mark at its end."""
    os.write(worker, b"threads\n")
    assert not stacks.is_complete
    os.write(worker, b"tasks\n" + END)
    assert stacks.is_complete

    assert stacks.take() == "threads\ntasks"
    assert stacks.take() == ""
    assert not stacks.is_complete


def test_after_a_clear_the_next_answer_begins_at_the_beginning(
    stacks: StackFile, worker: int
) -> None:
    """What came too late for the last question is no answer to this one."""
    os.write(worker, b"late\n" + END)
    stacks.clear()
    os.write(worker, b"new\n")

    assert stacks.take() == "new"


def test_of_much_only_the_beginning_is_taken(stacks: StackFile, worker: int) -> None:
    """It goes into an event and into the log; how much there was is told."""
    os.write(worker, b"x" * (2 * MAX_STACKS_BYTES))

    taken = stacks.take()

    assert taken == "x" * MAX_STACKS_BYTES + f"\n(cut: {2 * MAX_STACKS_BYTES} bytes in all)"
    assert os.fstat(worker).st_size == 0


def test_what_is_no_text_is_taken_all_the_same(stacks: StackFile, worker: int) -> None:
    """A file's name may be any bytes."""
    os.write(worker, b'File "\xff.py"\n')

    assert stacks.take() == 'File "\N{REPLACEMENT CHARACTER}.py"'


def test_a_worker_that_is_gone_tells_nothing(stacks: StackFile) -> None:
    """Whoever still waits for it need not wait any longer; to close twice is harmless."""
    stacks.close()
    stacks.close()
    stacks.clear()

    assert stacks.is_complete
    assert stacks.take() == ""


def test_the_file_is_no_programs_that_a_worker_starts(stacks: StackFile) -> None:
    """Closed on exec."""
    assert not os.get_inheritable(stacks.fd)


def test_the_signal_is_one_that_nobody_uses() -> None:
    """A realtime signal, and neither the first nor the last, which some programs take."""
    assert signal.SIGRTMIN + 4 < STACKS_SIGNAL < signal.SIGRTMAX - 4


def frames(*names: str) -> str:
    return "\n".join(f'  File "app.py", line 1 in {name}' for name in names)


def test_the_summary_has_the_calls_of_the_loop_alone() -> None:
    """The loop's thread is the oldest; what has called the loop says nothing."""
    stacks = (
        f"Thread 0x1 [name] (most recent call first):\n{frames('background')}\n\n"
        f"Current thread 0x2 (most recent call first):\n"
        f"{frames('query', 'handler', 'run_to_the_end', 'main')}\n\n"
        f"4 tasks of the loop (most recent call first):\nTask a:\n{frames('handler')}"
    )

    assert loop_stack(stacks) == (
        f"The loop's thread (most recent call first):\n{frames('query', 'handler')}\n"
        "(other threads: 1, tasks: 4)"
    )


def test_a_deep_stack_keeps_both_ends_in_the_summary() -> None:
    """Where the loop is blocked, and which handler led there."""
    names = [f"call_{number}" for number in range(30)]

    summary = loop_stack(f"Thread 0x1 (most recent call first):\n{frames(*names)}").splitlines()

    kept = [*frames(*names[:10]).splitlines(), "  (17 more calls)"]
    assert summary[1:-1] == [*kept, *frames(*names[-3:]).splitlines()]
    assert summary[-1] == "(other threads: 0, tasks: 0)"


def test_what_has_no_threads_is_its_own_summary() -> None:
    """Nothing that a worker has written is lost."""
    assert loop_stack("in slow_function") == "in slow_function"
