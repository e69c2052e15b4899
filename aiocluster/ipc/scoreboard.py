"""Counters that workers write and the primary reads, in shared memory.

One row a worker, one writer a field: the worker, but for three. A field is an 8-byte aligned
integer, which the machines we run on store at once, so nobody locks. Policies read it for nothing,
and what it says outlives the worker that wrote it.

A row is a page of its own, and a worker maps no other: a pointer of its code that has run wild
spoils the figures of that worker alone. The primary finds that out
(primary/workers/scoreboard_check.py).
"""

import mmap
import os
from collections.abc import Callable, Collection

from aiocluster.errors import ClusterError
from aiocluster.metrics.snapshot import Counters

_FIELD_BYTES = 8
_ROW_BYTES = mmap.PAGESIZE
_ROW_FIELDS = _ROW_BYTES // _FIELD_BYTES  # the most there could be

# Workers alive at one time, both generations of a reload included. Untouched pages cost
# nothing, so this can be far beyond what one machine runs.
MAX_ROWS = 4096

# The fields of a row.
CONNECTIONS_TAKEN = 0
CONNECTIONS_CLOSED = 1
REQUESTS_BEGUN = 2
REQUESTS_DONE = 3
RESPONSES = 4  # and the four after it: 1xx to 5xx
HEARTBEAT = 9  # time.monotonic_ns() of the loop's last turn; 0 before and after its life
OTHER_FDS = 10  # open descriptors that are no client's connection
DRAIN_ORDERED = 11  # 1 once a Drain is on its way; the primary writes it
ACCEPTED = 12  # connections that the worker accepted by itself: these were never sent to it
LAG = 13  # microseconds that the loop was late, lately; it fades
LEADS = 14  # 1 in the row of the worker that leads its role; the primary writes it
ROOM_WANTED = 15  # 1 while the worker is to tell of each connection that ends; the primary writes
UNWIRED = 16  # 1 once it has lost a wire to the primary, and finishes what it has
FD_LIMIT = 17  # how many descriptors the worker may have; 0 before it has said so
_FIELDS = 18


class Scoreboard:
    """The primary's side: makes the mapping, gives rows away, takes them back.

    Or goes on with a mapping that another made, of which the rows `taken` are in use.
    """

    def __init__(self, fd: int = -1, taken: Collection[int] = ()) -> None:
        self.fd = fd if fd >= 0 else _new_memory()
        self._map = mmap.mmap(self.fd, MAX_ROWS * _ROW_BYTES)
        self._fields = memoryview(self._map).cast("Q")
        self._free = [row for row in range(MAX_ROWS - 1, -1, -1) if row not in taken]

    def claim(self) -> int:
        """Return a free row, zeroed."""
        if not self._free:
            raise ClusterError(f"more than {MAX_ROWS} workers at one time")
        row = self._free.pop()
        self.clear(row)
        return row

    def clear(self, row: int) -> None:
        """Set all of a row to zero."""
        self._fields[row * _ROW_FIELDS : (row + 1) * _ROW_FIELDS] = _ZEROES

    def release(self, row: int) -> None:
        """Take a row back, once nobody writes it any more."""
        self._free.append(row)

    def reader(self, row: int, field: int) -> Callable[[], int]:
        """Return a function that reads one field: the quickest way to ask often."""
        fields, index = self._fields, row * _ROW_FIELDS + field
        return lambda: fields[index]

    def read(self, row: int, field: int) -> int:
        """Return one field of one row."""
        return self._fields[row * _ROW_FIELDS + field]

    def figures(self, row: int) -> list[int]:
        """Return all fields of a row."""
        start = row * _ROW_FIELDS
        return self._fields[start : start + _FIELDS].tolist()

    def order_drain(self, row: int) -> None:
        """Say so to a worker that is too busy to read its channel, but not its row."""
        self._fields[row * _ROW_FIELDS + DRAIN_ORDERED] = 1

    def lead(self, row: int, does: bool) -> None:
        """Say to a worker whether it leads its role."""
        self._fields[row * _ROW_FIELDS + LEADS] = int(does)

    def ask_for_room(self, row: int, does: bool) -> None:
        """Let a worker tell when a connection has ended, or not any more."""
        self._fields[row * _ROW_FIELDS + ROOM_WANTED] = int(does)

    def counters(self, row: int) -> Counters:
        """Return what the row says, for a snapshot."""
        field = self.figures(row)
        connections = field[CONNECTIONS_TAKEN] + field[ACCEPTED]
        return Counters(
            connections_open=max(connections - field[CONNECTIONS_CLOSED], 0),
            connections_total=connections,
            requests_begun=field[REQUESTS_BEGUN],
            requests_done=field[REQUESTS_DONE],
            responses_1xx=field[RESPONSES],
            responses_2xx=field[RESPONSES + 1],
            responses_3xx=field[RESPONSES + 2],
            responses_4xx=field[RESPONSES + 3],
            responses_5xx=field[RESPONSES + 4],
        )

    def close(self) -> None:
        """Unmap. Idempotent; readers given away are of no use afterwards."""
        if self.fd >= 0:
            self._fields.release()
            self._map.close()
            os.close(self.fd)
            self.fd = -1


def _new_memory() -> int:
    fd = os.memfd_create("aiocluster-scoreboard", os.MFD_CLOEXEC)
    os.ftruncate(fd, MAX_ROWS * _ROW_BYTES)
    return fd


_ZEROES = memoryview(bytes(_ROW_BYTES)).cast("Q")


def private_row() -> memoryview:
    """Return a row that only this process sees."""
    return memoryview(bytearray(_ROW_BYTES)).cast("Q")


def open_row(fd: int, row: int) -> memoryview:
    """Map a worker's row, and nothing else, in the worker: a writable view of integers."""
    return memoryview(mmap.mmap(fd, _ROW_BYTES, offset=row * _ROW_BYTES)).cast("Q")
