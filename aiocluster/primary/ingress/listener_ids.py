"""The ids of listeners that workers open: an id is one byte in the handoff.

Ids are taken from the top down, since a role's own listeners have the lowest. A freed id is used
again after all others: a connection with that id may still be on its way back from a worker, and
must not be taken for one of another server.
"""

import errno
from collections import deque
from collections.abc import Iterable, Sequence

# 255 begins a message of another kind, see ipc/handoff.py.
_HIGHEST = 254


class ListenerIds:
    """The listener ids of one role."""

    def __init__(self) -> None:
        self._lowest = 0
        self._free = deque(range(_HIGHEST, -1, -1))

    @property
    def free(self) -> list[int]:
        """The free ids, in the order in which they will be used."""
        return [number for number in self._free if number >= self._lowest]

    def reserve(self, count: int) -> None:
        """Reserve the lowest `count` ids for the role's own listeners."""
        self._lowest = max(self._lowest, count)

    def take(self, count: int) -> list[int]:
        """Return `count` free ids, which are then taken; OSError if there are fewer."""
        if len(free := self.free) < count:
            raise OSError(errno.EMFILE, "too many servers: the workers of a role share 255 sockets")
        taken, self._free = free[:count], deque(free[count:])
        return taken

    def give_back(self, numbers: Iterable[int]) -> None:
        """Make these ids free again."""
        self._free.extend(numbers)

    def adopt(self, free: Sequence[int]) -> None:
        """Take over the free ids of the previous program."""
        self._free = deque(free)
