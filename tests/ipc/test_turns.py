"""What floods may use of a loop's turn. Time is made up."""

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from aiocluster.ipc.turns import READ_SECONDS, TURN_SECONDS, Turns, turns_of_loop
from tests.support.waiting import turns as turn


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _note(called: list[str], name: str, end: float) -> None:
    called.append(name)


async def test_all_who_ask_are_called_once_in_their_order() -> None:
    """As long as there is time."""
    called: list[str] = []
    turns = Turns(Clock())
    for name in "abc":
        turns.ask(partial(_note, called, name))
    assert called == []
    await turn(3)

    assert called == ["a", "b", "c"]


async def test_when_their_time_is_over_the_others_come_first_in_the_next_turn() -> None:
    """Each that has more to do gets as often as another, however many there are."""
    clock, called = Clock(), list[str]()
    turns = Turns(clock)

    def busy(name: str) -> Callable[[float], None]:
        def take(end: float) -> None:
            assert end == clock.now + TURN_SECONDS
            called.append(name)
            clock.now = end
            turns.ask(take)

        return take

    for name in "abc":
        turns.ask(busy(name))
    while len(called) < 9:
        await turn(1)

    assert called[:9] == [*"abcabcabc"]


async def test_those_that_read_late_in_a_turn_are_to_be_brief() -> None:
    """However many are readable at once, they have read in time to be heard, too."""
    clock = Clock()
    turns = Turns(clock)
    assert not turns.have_read_enough
    for late, seconds in ((False, 0.0), (False, READ_SECONDS / 2), (True, READ_SECONDS)):
        turns.note_read()
        clock.now = 100.0 + seconds
        assert (seconds, turns.have_read_enough) == (seconds, late)

    ends: list[float] = []
    turns.ask(ends.append)
    await turn(1)

    assert ends == [100.0 + TURN_SECONDS]
    assert not turns.have_read_enough


async def test_half_of_the_time_is_left_however_long_reading_took() -> None:
    """Other work between the reads and their handling is not charged to the channels."""
    clock, ends = Clock(), list[float]()
    turns = Turns(clock)
    turns.ask(ends.append)
    turns.note_read()
    clock.now += 2 * TURN_SECONDS
    await turn(1)

    assert ends == [clock.now + TURN_SECONDS - READ_SECONDS]


async def test_others_come_between_two_turns() -> None:
    """Whoever has always more to do does not keep the loop."""
    turns = Turns()

    def take(end: float) -> None:
        turns.ask(take)

    turns.ask(take)
    passed = asyncio.Event()
    asyncio.get_running_loop().call_later(0.001, passed.set)

    await asyncio.wait_for(passed.wait(), 60.0)


async def test_one_that_raises_takes_nobody_else_with_it(caplog: pytest.LogCaptureFixture) -> None:
    """The loop tells that, and the next has its turn."""
    called: list[float] = []
    turns = Turns()

    def fail(end: float) -> None:
        raise ValueError("a bug")

    turns.ask(fail)
    turns.ask(called.append)
    await turn(5)

    assert len(called) == 1
    assert "a bug" in caplog.text


async def test_what_is_done_in_a_turn_has_a_result() -> None:
    """Or an error, for the one who has awaited it."""
    turns = Turns()

    def fail(end: float) -> None:
        raise ValueError("a bug")

    assert await turns.do(lambda end: 7) == 7
    with pytest.raises(ValueError, match="a bug"):
        await turns.do(fail)


async def test_what_is_not_awaited_any_more_is_not_done() -> None:
    """Its turn goes to the next."""
    called: list[float] = []
    turns = Turns()
    doing = asyncio.ensure_future(turns.do(called.append))
    await asyncio.sleep(0)
    doing.cancel()
    await turns.do(lambda end: None)

    assert called == []


async def test_all_of_a_loop_share_one() -> None:
    """Or each channel would have a whole turn."""
    assert turns_of_loop() is turns_of_loop()
