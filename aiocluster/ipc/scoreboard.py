"""Counters that workers write and the primary reads, in shared memory.

Each worker has one row, and each field one writer: the worker, but for three fields. A field is an
8-byte aligned integer, which the supported machines store at once, so no lock is needed. Policies
read fields at no cost, and a row outlives the worker that wrote it.

A row is a page of its own, and a worker maps no other: a wild pointer in a worker's code spoils
the figures of that worker alone. The primary detects that (primary/workers/scoreboard_check.py).
"""

import mmap
import os
from collections.abc import Callable, Collection

from aiocluster.errors import ClusterError
from aiocluster.metrics.snapshot import Counters

_FIELD_BYTES = 8
_ROW_BYTES = mmap.PAGESIZE
_ROW_FIELDS = _ROW_BYTES // _FIELD_BYTES  # the most that a row has space for

# The most workers alive at one time, both generations of a reload included. Untouched pages cost
# nothing, so this number can be far beyond what one machine runs.
MAX_ROWS = 4096

# The fields of a row.
CONNECTIONS_TAKEN = 0
CONNECTIONS_CLOSED = 1
REQUESTS_BEGUN = 2
REQUESTS_DONE = 3
RESPONSES = 4  # and the four after it: 1xx to 5xx
HEARTBEAT = 9  # time.monotonic_ns() of the loop's last turn; 0 while no loop runs
OTHER_FDS = 10  # open descriptors other than clients' connections
DRAIN_ORDERED = 11  # 1 once a Drain was sent; the primary writes it
ACCEPTED = 12  # connections that the worker accepted by itself, not from the handoff
LAG = 13  # microseconds by which the loop was late recently; old values fade
LEADS = 14  # 1 in the row of the worker that leads its role; the primary writes it
ROOM_WANTED = 15  # 1 while the worker must report each end of a connection; the primary writes it
UNWIRED = 16  # 1 once the worker has lost a wire to the primary; it then drains
FD_LIMIT = 17  # how many descriptors the worker may have; 0 until it has written that
_FIELDS = 18


class Scoreboard:
    """The primary's side of the shared memory: it maps all rows, and assigns and releases them.

    With `fd` it maps memory that another program made, of which the rows `taken` are in use.
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
        """Set all fields of a row to zero."""
        self._fields[row * _ROW_FIELDS : (row + 1) * _ROW_FIELDS] = _ZEROES

    def release(self, row: int) -> None:
        """Take a row back, once no process writes to it."""
        self._free.append(row)

    def reader(self, row: int, field: int) -> Callable[[], int]:
        """Return a function that reads one field: the fastest way to read a field often."""
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
        """Set the flag of a Drain, for a worker that is too busy to read its channel."""
        self._fields[row * _ROW_FIELDS + DRAIN_ORDERED] = 1

    def lead(self, row: int, does: bool) -> None:
        """Set whether the worker leads its role."""
        self._fields[row * _ROW_FIELDS + LEADS] = int(does)

    def ask_for_room(self, row: int, does: bool) -> None:
        """Set whether the worker must report each end of a connection."""
        self._fields[row * _ROW_FIELDS + ROOM_WANTED] = int(does)

    def counters(self, row: int) -> Counters:
        """Return the counters of a row, for a snapshot."""
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
        """Unmap the memory. Idempotent; functions from `reader` must not be called afterwards."""
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
    """Return a row in memory that is not shared."""
    return memoryview(bytearray(_ROW_BYTES)).cast("Q")


def open_row(fd: int, row: int) -> memoryview:
    """Return a writable view of a worker's row; only that row is mapped in the worker."""
    return memoryview(mmap.mmap(fd, _ROW_BYTES, offset=row * _ROW_BYTES)).cast("Q")
