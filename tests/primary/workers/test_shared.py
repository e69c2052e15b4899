"""What all roles share."""

from aiocluster.ipc.scoreboard import Scoreboard
from aiocluster.primary.event_bus import EventBus
from aiocluster.primary.workers.shared import ClusterShared, Ids
from aiocluster.primary.workers.snapshots import Reporter


def test_ids_start_at_1_and_none_is_given_twice() -> None:
    """Whoever takes one."""
    ids = Ids()

    assert [ids.take() for _ in range(3)] == [1, 2, 3]
    assert ids.next_id == 4


def test_ids_go_on_where_another_program_was() -> None:
    """Its workers may live on."""
    ids = Ids()
    ids.next_id = 8

    assert ids.take() == 8


async def test_each_cluster_has_its_own_ids() -> None:
    """Two in one process do not take each other's."""
    reporter = Reporter(Scoreboard(), lambda: [])
    one, other = (ClusterShared(EventBus(), reporter) for _ in range(2))

    assert (one.ids.take(), other.ids.take()) == (1, 1)
    reporter.close()
    reporter.scoreboard.close()
