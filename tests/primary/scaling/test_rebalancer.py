"""Moving idle connections about; the workers are made up, and give what the test lets them."""

from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import cast

import pytest

from aiocluster.ipc.messages import GiveBack, Message
from aiocluster.primary.scaling.rebalancer import Rebalancer
from aiocluster.primary.workers.handle import WorkerHandle
from tests.support.waiting import turns, turns_until


class Crowd:
    """Workers that have so many connections, of which so many are idle."""

    def __init__(self, **connections: int) -> None:
        self.ids = {name: number for number, name in enumerate(connections)}
        self.open = {self.ids[name]: count for name, count in connections.items()}
        self.idle = dict(self.open)
        self.full = set[int]()
        self.stuck = set[int]()
        self.behind = set[int]()
        self.asked: list[tuple[int, int]] = []
        self.balancer = Rebalancer(self.serving)

    def serving(self) -> list[WorkerHandle]:
        """Return those that are given connections."""
        return [cast(WorkerHandle, self._worker(number)) for number in sorted(self.open)]

    def _worker(self, number: int) -> SimpleNamespace:
        def post(message: Message) -> None:
            assert isinstance(message, GiveBack)
            self.asked.append((number, message.count))
            self._give(number, min(message.count, self.idle[number]))

        backend = SimpleNamespace(
            worker_id=number,
            open_connections=self.open[number],
            has_room=number not in self.full,
            is_stuck=number in self.stuck,
            is_behind=lambda now: number in self.behind,
        )
        return SimpleNamespace(id=number, backend=backend, channel=SimpleNamespace(post=post))

    def _give(self, number: int, count: int) -> None:
        self.open[number] -= count
        self.idle[number] -= count
        for _ in range(count):
            able = self.open.keys() - self.full - self.stuck - self.behind
            fewest = min(able, key=lambda other: self.open[other])
            self.open[fewest] += 1
            self.idle[fewest] += 1

    def counts(self) -> list[int]:
        """Return how many each has."""
        return [self.open[number] for number in sorted(self.open)]


@pytest.fixture(autouse=True)
async def crowds(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Crowd]]:
    monkeypatch.setattr("aiocluster.primary.scaling.rebalancer._INTERVAL", 0.001)
    made: list[Crowd] = []

    def make(**connections: int) -> Crowd:
        made.append(Crowd(**connections))
        return made[-1]

    yield make
    for crowd in made:
        crowd.balancer.close()
        crowd.balancer.close()
    await turns()


Make = Callable[..., Crowd]


async def test_a_new_worker_has_its_share_at_once(crowds: Make) -> None:
    """One look is enough where all are idle; then nobody is asked for anything."""
    crowd = crowds(a=100, b=100, new=0)
    crowd.balancer.give_share([crowd.serving()[2]])
    await turns(20)

    assert sorted(crowd.counts()) == [66, 67, 67]
    assert len(crowd.asked) == 2


async def test_what_is_busy_is_asked_for_again(crowds: Make) -> None:
    """Each look sees what came of the one before."""
    crowd = crowds(a=100, new=0)
    crowd.idle[0] = 10
    crowd.balancer.give_share([crowd.serving()[1]])
    await turns_until(lambda: len(crowd.asked) >= 2)
    crowd.idle[0] = 90

    await turns_until(lambda: crowd.counts() == [50, 50])

    assert crowd.asked[:2] == [(0, 50), (0, 40)]


async def test_a_share_is_not_asked_for_for_ever(
    crowds: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose connections are never idle keeps them."""
    monkeypatch.setattr("aiocluster.primary.scaling.rebalancer._TRIES", 3)
    crowd = crowds(a=100, new=0)
    crowd.idle[0] = 0
    crowd.balancer.give_share([crowd.serving()[1]])
    await turns_until(lambda: not crowd.balancer._tasks)

    assert crowd.asked == [(0, 50)] * 3


async def test_a_new_worker_that_goes_ends_it(crowds: Make) -> None:
    """Its share is nobody's."""
    crowd = crowds(a=100, b=0, new=0)
    new = crowd.serving()[2]
    del crowd.open[2]
    crowd.balancer.give_share([new])
    await turns_until(lambda: not crowd.balancer._tasks)

    assert crowd.asked == []


async def test_evening_out_goes_on(crowds: Make) -> None:
    """Whenever they are too far apart, and only then."""
    crowd = crowds(a=20, b=0)
    crowd.balancer.begin_to_even()
    await turns_until(lambda: crowd.counts() == [10, 10])
    crowd.open[0] = crowd.idle[0] = 12
    crowd.balancer.even_out()
    assert crowd.asked == [(0, 10)]
    crowd.open[1] = crowd.idle[1] = 30

    await turns_until(lambda: crowd.counts() == [21, 21])


@pytest.mark.parametrize("why", ["full", "stuck", "behind"])
async def test_what_one_cannot_be_given_does_not_go_round(crowds: Make, why: str) -> None:
    """While it has no room, or its loop does not turn; the others are evened out all the same."""
    crowd = crowds(few=10, a=20, b=30)
    getattr(crowd, why).add(0)
    for _ in range(3):
        crowd.balancer.even_out()

    assert (crowd.asked, crowd.counts()) == ([(2, 5)], [10, 25, 25])

    getattr(crowd, why).clear()
    crowd.balancer.even_out()
    assert crowd.counts() == [20, 20, 20]


async def test_one_that_is_full_gives_all_the_same(crowds: Make) -> None:
    """One whose loop does not turn cannot: it would give for each time it was asked."""
    crowd = crowds(a=30, b=0)
    crowd.full.add(0)
    crowd.balancer.even_out()
    assert crowd.counts() == [15, 15]

    other = crowds(a=30, b=0)
    other.stuck.add(0)
    other.balancer.even_out()
    assert other.asked == []


async def test_a_new_worker_that_is_busy_has_its_share_later(crowds: Make) -> None:
    """Its first moments are its slowest; until then nobody gives for nothing."""
    crowd = crowds(a=50, b=50, new=0)
    crowd.behind.add(2)
    for _ in range(3):
        assert crowd.balancer.share({2})
    assert crowd.asked == []

    crowd.behind.clear()
    assert crowd.balancer.share({2}) is False
    assert sorted(crowd.counts()) == [33, 33, 34]


async def test_once_closed_nothing_moves(crowds: Make) -> None:
    """As in a stop."""
    crowd = crowds(a=100, new=0)
    crowd.balancer.begin_to_even()
    crowd.balancer.give_share([crowd.serving()[1]])
    crowd.balancer.close()
    await turns_until(lambda: not crowd.balancer._tasks)

    assert crowd.asked == []
