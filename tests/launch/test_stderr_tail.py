"""What an interpreter wrote before it could talk to us, over a real pipe."""

import os
from collections.abc import Iterator

import pytest

from aiocluster.launch import stderr_tail
from aiocluster.launch.stderr_tail import StderrTail
from tests.support.connections import open_fds
from tests.support.waiting import turns_until


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    ours, theirs = os.pipe()
    yield ours, theirs
    os.close(theirs)


async def test_the_last_line_is_the_cause(
    ends: tuple[int, int], capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a traceback it is the error. All of it is passed on as it comes."""
    tail = StderrTail(ends[0])
    os.write(ends[1], b"Traceback (most recent call last):\n  ...\nImportError: nope\n\n")
    await turns_until(lambda: tail.cause == "ImportError: nope")
    tail.close()
    tail.close()

    assert tail.text.startswith("Traceback")
    assert capfd.readouterr().err == tail.text


async def test_what_was_written_before_the_end_is_read(ends: tuple[int, int]) -> None:
    """The death of its writer may be known by other means first."""
    tail = StderrTail(ends[0])
    os.write(ends[1], b"SyntaxError: invalid syntax")
    tail.close()

    assert tail.cause == "SyntaxError: invalid syntax"


async def test_only_the_end_is_kept(ends: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is written."""
    monkeypatch.setattr(stderr_tail, "_KEPT_BYTES", 10)
    tail = StderrTail(ends[0])
    os.write(ends[1], b"x" * 100 + b"the end")
    tail.close()

    assert tail.text == "xxxthe end"


async def test_nothing_written_is_no_cause(ends: tuple[int, int]) -> None:
    """And no descriptor is left, nor does a stream that is not UTF-8 matter."""
    before = open_fds()
    tail = StderrTail(ends[0])
    tail.close()
    assert tail.cause == ""
    assert len(open_fds()) == len(before) - 1


async def test_an_end_that_nobody_writes_to_any_more_does_not_spin() -> None:
    """The child may close its standard error and live on."""
    ours, theirs = os.pipe()
    tail = StderrTail(ours)
    os.write(theirs, b"\xff bye\n")
    os.close(theirs)
    await turns_until(lambda: tail.cause != "")
    await turns_until(lambda: not tail._loop.remove_reader(ours))
    tail.close()

    assert tail.cause == "\ufffd bye"
