"""The clock of the running loop, which a test puts forward."""

import asyncio

import pytest

from tests.support.waiting import turns

# Shorter than any step after which a countdown takes the program to have been paused.
_STEP = 0.5


class Clock:
    """Adds what the test lets pass to the time of the running loop, which must be asyncio's own.

    uvloop's timers do not ask its `time`.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._passed = 0.0
        loop = asyncio.get_running_loop()
        assert isinstance(loop, asyncio.SelectorEventLoop)
        real = loop.time
        monkeypatch.setattr(loop, "time", lambda: real() + self._passed)

    async def run(self, seconds: float) -> None:
        """Let time pass while the loop turns."""
        while seconds > 0:
            self._passed += min(_STEP, seconds)
            seconds -= _STEP
            await turns()

    def pause(self, seconds: float) -> None:
        """Let time pass in which the loop cannot turn, as while the program is stopped."""
        self._passed += seconds
