import mmap
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from aiocluster.errors import ClusterError
from aiocluster.ipc.scoreboard import (
    ACCEPTED,
    CONNECTIONS_CLOSED,
    CONNECTIONS_TAKEN,
    DRAIN_ORDERED,
    HEARTBEAT,
    LAG,
    MAX_ROWS,
    OTHER_FDS,
    REQUESTS_BEGUN,
    REQUESTS_DONE,
    RESPONSES,
    ROOM_WANTED,
    Scoreboard,
    open_row,
    private_row,
)
from aiocluster.metrics.snapshot import Counters

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

FIELDS = {
    CONNECTIONS_TAKEN,
    CONNECTIONS_CLOSED,
    REQUESTS_BEGUN,
    REQUESTS_DONE,
    *range(RESPONSES, RESPONSES + 5),
    HEARTBEAT,
    OTHER_FDS,
    DRAIN_ORDERED,
    ACCEPTED,
    LAG,
}

LARGEST = 2**64 - 1


@pytest.fixture
def board() -> Iterator[Scoreboard]:
    scoreboard = Scoreboard()
    yield scoreboard
    scoreboard.close()


def test_fields_do_not_overlap_and_fit_into_a_row(board: Scoreboard) -> None:
    """Each of them has its own place."""
    assert len(FIELDS) == 14
    assert max(FIELDS) < len(open_row(board.fd, board.claim()))


def test_a_row_is_a_page(board: Scoreboard) -> None:
    """Workers do not slow each other down by writing, and every field is aligned."""
    row = open_row(board.fd, board.claim())

    assert (row.itemsize, row.nbytes) == (8, mmap.PAGESIZE)


def test_a_worker_maps_no_page_but_its_own(board: Scoreboard) -> None:
    """A pointer of its code that has run wild finds no other worker's figures."""
    rows = [board.claim() for _ in range(3)]
    command = [sys.executable, "-c", SPOILT_PROCESS, str(board.fd), str(rows[1])]
    subprocess.run(command, check=True, pass_fds=[board.fd])

    assert [board.read(row, HEARTBEAT) for row in rows] == [0, LARGEST, 0]
    assert board.read(rows[1], mmap.PAGESIZE // 8 - 1) == LARGEST


def test_what_a_worker_writes_is_read_by_the_primary(board: Scoreboard) -> None:
    """Every field, by whichever way it is read."""
    row = board.claim()
    written = open_row(board.fd, row)
    for field in FIELDS:
        written[field] = LARGEST - field

    assert {field: board.read(row, field) for field in FIELDS} == {
        field: LARGEST - field for field in FIELDS
    }
    assert {field: board.reader(row, field)() for field in FIELDS} == {
        field: LARGEST - field for field in FIELDS
    }


def test_a_reader_reads_what_is_there_now(board: Scoreboard) -> None:
    """A policy asks again and again."""
    row = board.claim()
    written = open_row(board.fd, row)
    read = board.reader(row, CONNECTIONS_CLOSED)
    seen = []
    for value in (1, 2, 0, LARGEST):
        written[CONNECTIONS_CLOSED] = value
        seen.append(read())

    assert seen == [1, 2, 0, LARGEST]


def test_counters_have_their_names(board: Scoreboard) -> None:
    """A snapshot's numbers come from the right places."""
    row = board.claim()
    written = open_row(board.fd, row)
    written[CONNECTIONS_TAKEN], written[CONNECTIONS_CLOSED] = 10, 7
    written[REQUESTS_BEGUN], written[REQUESTS_DONE] = 50, 49
    for index in range(5):
        written[RESPONSES + index] = 100 * (index + 1)
    written[HEARTBEAT], written[OTHER_FDS] = 12345, 17

    assert board.counters(row) == Counters(
        connections_open=3,
        connections_total=10,
        requests_begun=50,
        requests_done=49,
        responses_1xx=100,
        responses_2xx=200,
        responses_3xx=300,
        responses_4xx=400,
        responses_5xx=500,
    )


def test_connections_count_however_they_came(board: Scoreboard) -> None:
    """Those a worker accepted by itself are among its connections."""
    row = board.claim()
    written = open_row(board.fd, row)
    written[CONNECTIONS_TAKEN], written[ACCEPTED] = 10, 5
    written[CONNECTIONS_CLOSED] = 12

    counters = board.counters(row)

    assert (counters.connections_open, counters.connections_total) == (3, 15)


def test_never_less_than_no_connection_is_open(board: Scoreboard) -> None:
    """The two fields it is made of are not written at one moment."""
    row = board.claim()
    open_row(board.fd, row)[CONNECTIONS_CLOSED] = 1

    assert board.counters(row).connections_open == 0


def test_rows_do_not_touch_each_other(board: Scoreboard) -> None:
    """One writer a row, and no neighbour's number is ever seen."""
    rows = [board.claim() for _ in range(8)]
    for row in rows:
        written = open_row(board.fd, row)
        for field in range(len(written)):
            written[field] = row * 1000 + field

    assert [board.read(row, HEARTBEAT) for row in rows] == [row * 1000 + HEARTBEAT for row in rows]
    assert [board.read(row, 0) for row in rows] == [row * 1000 for row in rows]


def test_the_last_row_is_a_row(board: Scoreboard) -> None:
    """The mapping has room for all of them."""
    rows = [board.claim() for _ in range(MAX_ROWS)]
    written = open_row(board.fd, max(rows))
    written[len(written) - 1] = 7

    assert sorted(rows) == list(range(MAX_ROWS))
    assert board.read(max(rows), len(written) - 1) == 7


def test_a_row_used_again_begins_at_zero(board: Scoreboard) -> None:
    """A new worker does not inherit the numbers of a dead one."""
    row, neighbour = board.claim(), board.claim()
    for number in (row, neighbour):
        written = open_row(board.fd, number)
        for field in range(len(written)):
            written[field] = LARGEST
    board.release(row)

    assert board.claim() == row
    assert board.counters(row) == Counters()
    assert [board.read(row, field) for field in FIELDS] == [0] * len(FIELDS)
    assert [board.read(neighbour, field) for field in FIELDS] == [LARGEST] * len(FIELDS)


def test_a_released_row_can_still_be_read(board: Scoreboard) -> None:
    """What the dead did is known until somebody else needs the row."""
    row = board.claim()
    open_row(board.fd, row)[REQUESTS_DONE] = 9
    board.release(row)

    assert board.read(row, REQUESTS_DONE) == 9


def test_there_are_only_so_many_rows(board: Scoreboard) -> None:
    """One worker too many is an error that says so; one that left makes room."""
    rows = [board.claim() for _ in range(MAX_ROWS)]
    with pytest.raises(ClusterError, match=f"more than {MAX_ROWS} workers"):
        board.claim()

    board.release(rows[17])
    assert board.claim() == rows[17]


def test_rows_can_be_used_again_for_ever(board: Scoreboard) -> None:
    """A cluster that replaces its workers all the time never runs out."""
    for _ in range(3 * MAX_ROWS):
        board.release(board.claim())

    assert len({board.claim() for _ in range(MAX_ROWS)}) == MAX_ROWS


def test_it_is_not_inherited_by_programs(board: Scoreboard) -> None:
    """Only who is given the descriptor can write."""
    assert not os.get_inheritable(board.fd)


def test_closing_twice_is_no_harm() -> None:
    """Cleanup paths meet."""
    board = Scoreboard()
    board.close()
    board.close()

    assert board.fd == -1


SPOILT_PROCESS = """
import ctypes, sys
from aiocluster.ipc.scoreboard import open_row

row = open_row(int(sys.argv[1]), int(sys.argv[2]))
for line in open("/proc/self/maps"):
    if "aiocluster-scoreboard" in line:
        begin, end = (int(number, 16) for number in line.split()[0].split("-"))
        ctypes.memset(begin, 0xFF, end - begin)
"""

OTHER_PROCESS = """
import sys
from aiocluster.ipc.scoreboard import CONNECTIONS_CLOSED, HEARTBEAT, open_row

row = open_row(int(sys.argv[1]), int(sys.argv[2]))
for line in sys.stdin:
    row[CONNECTIONS_CLOSED] = int(line)
    print(row[HEARTBEAT], flush=True)
"""


def test_processes_see_each_others_numbers_at_once(board: Scoreboard) -> None:
    """It is one memory, both ways, and it outlives the process that wrote."""
    row = [board.claim(), board.claim()][1]
    mine = open_row(board.fd, row)
    command = [sys.executable, "-c", OTHER_PROCESS, str(board.fd), str(row)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[board.fd],
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in (5, 2**63, LARGEST):
            mine[HEARTBEAT] = number - 1
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            assert int(process.stdout.readline()) == number - 1
            assert board.read(row, CONNECTIONS_CLOSED) == number
        process.kill()

    assert board.read(row, CONNECTIONS_CLOSED) == LARGEST


def test_another_goes_on_with_the_same_rows() -> None:
    """What is in use is not given away, and what workers have written is there."""
    first = Scoreboard()
    rows = [first.claim(), first.claim()]
    open_row(first.fd, rows[1])[REQUESTS_BEGUN] = 7
    second = Scoreboard(os.dup(first.fd), rows)
    assert second.counters(rows[1]).requests_begun == 7
    assert second.claim() not in rows
    first.close()
    second.close()


def test_what_a_worker_accepted_by_itself_counts_like_what_it_took(board: Scoreboard) -> None:
    """To who looks at the numbers a connection is a connection."""
    row = board.claim()
    fields = open_row(board.fd, row)
    fields[CONNECTIONS_TAKEN], fields[ACCEPTED], fields[CONNECTIONS_CLOSED] = 5, 4, 3

    counters = board.counters(row)

    assert (counters.connections_total, counters.connections_open) == (9, 6)


def test_a_private_row_has_all_fields() -> None:
    """A worker without a scoreboard counts as others do."""
    row = private_row()
    row[ROOM_WANTED] = 1
    assert (row[ROOM_WANTED], row[CONNECTIONS_TAKEN], private_row()[ROOM_WANTED]) == (1, 0, 0)
