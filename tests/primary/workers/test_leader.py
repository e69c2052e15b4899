"""Who leads a role; the workers are made up."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from aiocluster.primary.workers.leader import LeaderElection


@dataclass(eq=False)
class Worker:
    """Writes down what it is told, in a log that is common to all."""

    id: int
    slot: int
    log: list[tuple[int, bool]] = field(default_factory=list)
    leads: bool = False

    def lead(self, does: bool) -> None:
        """See Leader."""
        self.leads = does
        self.log.append((self.id, does))


def test_the_lowest_slot_leads() -> None:
    """Whoever was first."""
    workers = [Worker(3, 0), Worker(1, 1), Worker(2, 2)]
    LeaderElection().update(reversed(workers))

    assert [worker.leads for worker in workers] == [True, False, False]


def test_without_anybody_nobody_leads() -> None:
    """And whoever comes then does."""
    leader_election, worker = LeaderElection(), Worker(1, 0)
    leader_election.update([])
    leader_election.update([worker])
    leader_election.update([])

    assert worker.log == [(1, True), (1, False)]


def test_it_is_handed_on_to_the_next_lowest() -> None:
    """And back, when the lowest slot is filled again."""
    log: list[tuple[int, bool]] = []
    first, second, again = Worker(1, 0, log), Worker(2, 1, log), Worker(3, 0, log)
    leader_election = LeaderElection()
    leader_election.update([first, second])
    leader_election.update([second])
    leader_election.update([second, again])

    assert log == [(1, True), (1, False), (2, True), (2, False), (3, True)]


def test_the_one_that_leads_does_so_until_it_goes() -> None:
    """While a reload has two in its slot, the new one waits."""
    old, new = Worker(1, 0), Worker(2, 0)
    leader_election = LeaderElection()
    leader_election.update([old])
    leader_election.update([new, old])
    assert (old.leads, new.leads) == (True, False)

    leader_election.update([new])
    assert (old.leads, new.leads) == (False, True)


def test_who_leads_already_is_not_told_again() -> None:
    """Only changes are news."""
    worker = Worker(1, 0)
    leader_election = LeaderElection()
    for _ in range(3):
        leader_election.update([worker])

    assert worker.log == [(1, True)]


def test_after_an_upgrade_the_same_one_leads() -> None:
    """Although another has come into its slot; it is not told again."""
    leader, other = Worker(5, 0, leads=True), Worker(2, 0)
    leader_election = LeaderElection()
    leader_election.adopt(leader)
    leader_election.update([other, leader])

    assert (leader.log, other.log) == ([], [])


@given(st.lists(st.sets(st.integers(0, 9), max_size=10), max_size=30))
def test_never_two_at_one_time(steps: list[set[int]]) -> None:
    """Also between two calls of `lead`: it is taken from one before another has it."""
    log: list[tuple[int, bool]] = []
    workers = [Worker(number, number // 2, log) for number in range(10)]
    leader_election = LeaderElection()
    for ready in steps:
        leader_election.update(workers[number] for number in ready)

        assert sum(worker.leads for worker in workers) == bool(ready)
    leading: set[int] = set()
    for number, does in log:
        (leading.add if does else leading.remove)(number)
        assert len(leading) <= 1
