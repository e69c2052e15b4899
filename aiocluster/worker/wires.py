"""A check that the descriptors to the primary, and those of the loop, are still the same files.

The app's code may close a descriptor that is not its own, or put another file in its place. Reads
and writes do not show all of this: a write to /dev/null succeeds.
"""

import os
from collections.abc import Mapping


class Wires:
    """The descriptors that a worker cannot serve without, by name."""

    def __init__(self, wires: Mapping[str, int]) -> None:
        self._wires: list[tuple[str, int, tuple[int, int] | None]] = []
        self.add(wires)

    def add(self, wires: Mapping[str, int]) -> None:
        """Check these descriptors, too, from now on."""
        self._wires += [(name, fd, _identity(fd)) for name, fd in wires.items()]

    def broken(self) -> list[str]:
        """Return the names of the descriptors that are closed, or now another file's."""
        return [name for name, fd, was in self._wires if _identity(fd) != was]


def _identity(fd: int) -> tuple[int, int] | None:
    """Return a file's unique identity; None if the descriptor is closed."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino
