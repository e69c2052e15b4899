"""Which number the listener of a worker's own server has: one byte of the handoff.

From the top down, since a role's own listeners have the lowest. One that was given back is used
again after all others: a connection that still has it, on its way back from a worker, must not be
taken for one of another server.
"""

import errno
from collections import deque
from collections.abc import Iterable, Sequence

# 255 begins a message of another kind, see ipc/handoff.py.
_HIGHEST = 254


class ListenerIds:
    """Those of one role."""

    def __init__(self) -> None:
        self._lowest = 0
        self._free = deque(range(_HIGHEST, -1, -1))

    @property
    def free(self) -> list[int]:
        """Those that nobody has, in the order in which they are used."""
        return [number for number in self._free if number >= self._lowest]

    def reserve(self, count: int) -> None:
        """Leave the lowest `count` to the role itself, from now on."""
        self._lowest = max(self._lowest, count)

    def take(self, count: int) -> list[int]:
        """Return `count`, all different; OSError when there are not as many."""
        if len(free := self.free) < count:
            raise OSError(errno.EMFILE, "too many servers: the workers of a role share 255 sockets")
        taken, self._free = free[:count], deque(free[count:])
        return taken

    def give_back(self, numbers: Iterable[int]) -> None:
        """Nobody has these any more."""
        self._free.extend(numbers)

    def adopt(self, free: Sequence[int]) -> None:
        """Go on where another program was."""
        self._free = deque(free)
