"""How often anything is peeked at: that is what shows whether a loop spins, or has seen a piece."""

import pytest

from aiocluster.primary.sockets.descriptor import peek


class Looks:
    """Counts those of all peekers from here on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        monkeypatch.setattr("aiocluster.primary.ingress.inspector.peek", self._peek)

    def _peek(self, fd: int, size: int) -> bytes | None:
        self.count += 1
        return peek(fd, size)
