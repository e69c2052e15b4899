"""The descriptors by which a worker hangs on the primary: are they still what they were?

Code of the app may close a descriptor that is not its own, or put another file in its place. Some
of that no read or write ever shows: what is sent to /dev/null is sent well.
"""

import os
from collections.abc import Mapping


class Wires:
    """Those of one worker, by what each is."""

    def __init__(self, wires: Mapping[str, int]) -> None:
        self._wires: list[tuple[str, int, tuple[int, int] | None]] = []
        self.add(wires)

    def add(self, wires: Mapping[str, int]) -> None:
        """Look at these from now on, too."""
        self._wires += [(name, fd, _identity(fd)) for name, fd in wires.items()]

    def broken(self) -> list[str]:
        """Name those whose descriptor is closed, or another file's by now."""
        return [name for name, fd, was in self._wires if _identity(fd) != was]


def _identity(fd: int) -> tuple[int, int] | None:
    """What tells a file from all others; None where the descriptor is closed."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino
