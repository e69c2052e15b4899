"""Which worker gets which connection, and what happens when nobody has room."""

from collections.abc import Sequence

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aiocluster.policies.base import C, Policy
from aiocluster.policies.round_robin import RoundRobin
from aiocluster.primary.dispatch.admission import AdmissionControl
from aiocluster.primary.dispatch.dispatcher import Dispatcher
from aiocluster.primary.sockets.connection import Connection

NOW = 1000.0


class FakeRecipient:
    """A worker with room for `room` more connections.

    One that is `picky` takes a batch whole or not at all, as the kernel's queue does.
    """

    def __init__(self, slot: int, room: int = 10**6, *, picky: bool = False) -> None:
        self.slot = self.worker_id = slot
        self.open_connections = self.queued = self.requests_in_flight = 0
        self.lag = 0.0
        self.promised = 0
        self.room = room
        self.picky = picky
        self.behind = False
        self.hidden_room = 0  # that it has not told of yet
        self.is_stuck = self.is_asked = self.is_giving_back = False
        self.given: list[Connection] = []
        self.batches: list[int] = []

    @property
    def has_room(self) -> bool:
        return self.room > 0

    @property
    def budget(self) -> int:
        return 10**6 if self.picky else self.room

    @property
    def places(self) -> int:
        return self.room

    def is_behind(self, now: float) -> bool:
        return self.behind

    def look_again(self) -> None:
        self.room += self.hidden_room
        self.hidden_room = 0

    def notify_on_close(self) -> None:
        self.is_asked = True

    def look_soon(self) -> None:
        pass

    def hand_over(self, batch: Sequence[Connection], now: float) -> int:
        if self.picky and len(batch) > self.room:
            self.room = 0
        batch = batch[: self.room]
        self.room -= len(batch)
        self.given += batch
        self.batches.append(len(batch))
        return len(batch)


class Door:
    """The listeners, as the dispatcher sees them."""

    def __init__(self, max_connections: int | None = None, policy: Policy | None = None) -> None:
        self.calls: list[str] = []
        self.dispatcher = Dispatcher(
            policy or RoundRobin(),
            lambda: self.calls.append("pause"),
            lambda: self.calls.append("resume"),
            places=AdmissionControl(lambda: self.dispatcher._recipients, max_connections),
        )

    def open_for(self, *recipients: FakeRecipient) -> Dispatcher:
        for recipient in recipients:
            self.dispatcher.add(recipient)
        self.dispatcher.update(NOW)
        return self.dispatcher


def made_up(count: int, first: int = 0) -> list[Connection]:
    """Connections that no kernel knows."""
    return [Connection(first + number, 0) for number in range(count)]


def test_connections_one_by_one_are_spread_evenly() -> None:
    """Over healthy workers nobody is ever two ahead of another."""
    workers = [FakeRecipient(slot) for slot in range(4)]
    dispatcher = Door().open_for(*workers)

    for connection in made_up(64):
        dispatcher.dispatch([connection], NOW)

    assert [len(worker.given) for worker in workers] == [16, 16, 16, 16]


def test_a_batch_is_spread_evenly_and_handed_over_in_one_go_each() -> None:
    """One wake-up of the listener costs one message a worker."""
    workers = [FakeRecipient(slot) for slot in range(4)]

    Door().open_for(*workers).dispatch(made_up(64), NOW)

    assert [worker.batches for worker in workers] == [[16]] * 4


def test_workers_are_offered_by_slot_whatever_the_order_they_came_in() -> None:
    """A policy may rely on the order of its candidates."""
    workers = [FakeRecipient(slot) for slot in (2, 0, 1)]

    Door().open_for(*workers).dispatch(made_up(3), NOW)

    assert [worker.given[0].fd for worker in workers] == [2, 0, 1]


class Interrupted(RoundRobin):
    """Is hit by a Ctrl-C when it chooses for the `nth` time."""

    def __init__(self, nth: int) -> None:
        super().__init__()
        self.left = nth

    def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().choose(candidates, affinity)


@pytest.mark.parametrize("count", [1, 3, 200])
def test_an_interrupted_choice_loses_nothing(count: int) -> None:
    """What nobody was given waits: for the next look, or for a stop that closes it."""
    worker = FakeRecipient(0)
    for nth in {1, count // 2 + 1, count}:
        worker.given.clear()
        dispatcher = Dispatcher(Interrupted(nth), lambda: None, lambda: None)
        dispatcher.add(worker)
        dispatcher.update(NOW)
        with pytest.raises(KeyboardInterrupt):
            dispatcher.dispatch(made_up(count), NOW)

        assert dispatcher.waiting == count - len(worker.given)
        assert worker.promised == 0
        dispatcher.update(NOW)
        assert sorted(worker.given) == made_up(count)
        assert dispatcher.take_waiting() == []


class Wary(RoundRobin):
    """Notes whether it is asked about a worker that has no place left."""

    def __init__(self) -> None:
        super().__init__()
        self.has_seen_full = False

    def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        for one in candidates:
            assert isinstance(one, FakeRecipient)
            self.has_seen_full |= one.promised >= one.room
        return super().choose(candidates, affinity)


def test_a_policy_is_not_asked_about_who_is_full() -> None:
    """Not even by what it has been promised of the same batch."""
    policy, workers = Wary(), [FakeRecipient(slot, room) for slot, room in enumerate((1, 4, 2, 0))]
    dispatcher = Dispatcher(policy, lambda: None, lambda: None)
    for worker in workers:
        dispatcher.add(worker)
    dispatcher.update(NOW)

    dispatcher.dispatch(made_up(5), NOW)
    dispatcher.dispatch(made_up(5, 5), NOW)

    assert not policy.has_seen_full
    assert [len(worker.given) for worker in workers] == [1, 4, 2, 0]
    assert dispatcher.waiting == 3


def test_who_is_behind_is_passed_over_while_another_is_not() -> None:
    """A blocked worker gets no new connections."""
    late, responsive, other = (FakeRecipient(slot) for slot in range(3))
    late.behind = True

    Door().open_for(late, responsive, other).dispatch(made_up(30), NOW)

    assert late.given == []
    assert len(responsive.given) + len(other.given) == 30


def test_who_has_caught_up_is_chosen_again() -> None:
    """To have been behind is not held against a worker."""
    late, responsive = FakeRecipient(0), FakeRecipient(1)
    dispatcher = Door().open_for(late, responsive)
    late.behind = True
    dispatcher.dispatch(made_up(4), NOW)
    late.behind = False

    dispatcher.dispatch(made_up(4), NOW)

    assert len(late.given) == 2


def test_when_all_are_behind_the_policy_chooses_among_all() -> None:
    """A burst that makes everyone late is still spread evenly."""
    workers = [FakeRecipient(slot) for slot in range(3)]
    for worker in workers:
        worker.behind = True

    Door().open_for(*workers).dispatch(made_up(30), NOW)

    assert [len(worker.given) for worker in workers] == [10, 10, 10]


def test_who_is_full_is_skipped() -> None:
    """What a full worker refuses goes to another."""
    full, free = FakeRecipient(0, room=1), FakeRecipient(1)
    dispatcher = Door().open_for(full, free)

    for connection in made_up(10):
        dispatcher.dispatch([connection], NOW)

    assert (len(full.given), len(free.given)) == (1, 9)


def test_a_batch_that_does_not_fit_goes_to_others_whole() -> None:
    """A refused batch is still ours, and lost by nobody."""
    full, free = FakeRecipient(0, room=1, picky=True), FakeRecipient(1)

    Door().open_for(full, free).dispatch(made_up(10), NOW)

    assert full.given == []
    assert sorted(free.given) == made_up(10)


def test_what_is_left_of_a_batch_goes_to_others() -> None:
    """A worker may take as much of a batch as it has room for."""
    full, free = FakeRecipient(0, room=2), FakeRecipient(1)

    Door().open_for(full, free).dispatch(made_up(10), NOW)

    assert full.given == [Connection(0, 0), Connection(2, 0)]
    assert sorted([*full.given, *free.given]) == made_up(10)


def test_with_nobody_there_connections_wait_and_the_door_stays_shut() -> None:
    """Before the first worker is ready nothing is asked of the listeners, which are paused."""
    group = Door()

    group.dispatcher.dispatch(made_up(3), NOW)
    group.dispatcher.update(NOW)

    assert group.dispatcher.waiting == 3
    assert group.calls == []


def test_when_nobody_has_room_the_door_is_shut_once() -> None:
    """Full means: stop accepting, the kernel's backlog is the queue."""
    group = Door()
    dispatcher = group.open_for(FakeRecipient(0, room=1), FakeRecipient(1, room=1))

    for connection in made_up(6):
        dispatcher.dispatch([connection], NOW)

    assert dispatcher.waiting == 4
    assert group.calls == ["resume", "pause"]


def test_with_room_again_what_waited_goes_first_and_in_order() -> None:
    """Who was accepted first is served first, and then the door opens again."""
    group, worker = Door(), FakeRecipient(0, room=1)
    dispatcher = group.open_for(worker)
    for connection in made_up(6):
        dispatcher.dispatch([connection], NOW)

    worker.room = 100
    dispatcher.update(NOW)

    assert worker.given == made_up(6)
    assert dispatcher.waiting == 0
    assert group.calls == ["resume", "pause", "resume"]


def test_one_who_is_removed_is_given_nothing_more() -> None:
    """A draining or dead worker gets nothing new; to remove it twice is harmless."""
    gone, stays = FakeRecipient(0), FakeRecipient(1)
    dispatcher = Door().open_for(gone, stays)

    for _ in range(2):
        dispatcher.remove(gone)
        dispatcher.update(NOW)
    dispatcher.dispatch(made_up(10), NOW)

    assert gone.given == []
    assert len(stays.given) == 10


def test_when_the_last_worker_goes_the_door_is_shut() -> None:
    """Without workers the clients wait in the backlog."""
    group, worker = Door(), FakeRecipient(0)
    dispatcher = group.open_for(worker)

    dispatcher.remove(worker)
    dispatcher.update(NOW)

    assert group.calls == ["resume", "pause"]


def test_more_than_one_handoff_takes_is_handed_out_in_rounds() -> None:
    """No batch is larger than the kernel lets through at once (253), whatever has waited."""
    group = Door()
    group.dispatcher.dispatch(made_up(1000), NOW)
    worker = FakeRecipient(0)

    group.open_for(worker)

    assert worker.given == made_up(1000)
    assert max(worker.batches) <= 253


def test_what_waits_can_be_taken_back() -> None:
    """At the end the caller closes what nobody served; it is given up once."""
    group = Door()
    group.dispatcher.dispatch(made_up(3), NOW)

    assert group.dispatcher.take_waiting() == made_up(3)
    assert group.dispatcher.take_waiting() == []
    assert group.dispatcher.waiting == 0


def test_a_stuck_worker_is_no_candidate_while_another_is() -> None:
    """Not even for the first connection, and however the others fare."""
    stuck, other = FakeRecipient(0), FakeRecipient(1, room=3)
    stuck.is_stuck = other.behind = True
    dispatcher = Door().open_for(stuck, other)

    dispatcher.dispatch(made_up(3), NOW)
    assert (len(stuck.given), len(other.given)) == (0, 3)

    dispatcher.dispatch(made_up(2), NOW)
    assert (len(stuck.given), len(other.given)) == (2, 3)


def test_one_that_is_stuck_no_more_is_a_candidate_again() -> None:
    """And the door stays open all the while."""
    worker, group = FakeRecipient(0), Door()
    worker.is_stuck = True
    dispatcher = group.open_for(worker)
    dispatcher.dispatch(made_up(1), NOW)
    worker.is_stuck = False
    dispatcher.update(NOW)
    dispatcher.dispatch(made_up(1, first=1), NOW)

    assert len(worker.given) == 2
    assert group.calls == ["resume"]


def test_somebody_is_punctual_unless_all_are_full_stuck_or_behind() -> None:
    """What is taken from one worker must not come back to it."""
    workers = [FakeRecipient(slot) for slot in range(3)]
    dispatcher = Door().open_for(*workers)
    workers[0].is_stuck, workers[1].behind = True, True
    dispatcher.update(NOW)
    assert dispatcher.has_responsive(NOW)

    workers[2].room = 0
    dispatcher.update(NOW)
    assert not dispatcher.has_responsive(NOW)


def known(count: int, slot: int = 0) -> list[Connection]:
    """Connections that come back from a worker."""
    return [Connection(100 + number, 0, slot=slot) for number in range(count)]


class Highest:
    """A policy to which it matters who has a connection."""

    def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        return candidates[-1]


def test_one_that_comes_back_goes_on_in_its_slot() -> None:
    """Or where the policy says, if nobody with room is there."""
    workers = [FakeRecipient(slot) for slot in range(3)]
    dispatcher = Door(policy=Highest()).open_for(*workers)
    dispatcher.dispatch([*known(1, slot=1), *known(1, slot=7)], NOW)
    assert (workers[1].given, workers[2].given) == (known(1, slot=1), known(1, slot=7))
    workers[1].room = 0
    dispatcher.update(NOW)
    dispatcher.dispatch(known(1, slot=1), NOW)
    assert workers[2].given == [*known(1, slot=7), *known(1, slot=1)]


def test_where_it_does_not_matter_one_that_comes_back_goes_to_who_has_the_fewest() -> None:
    """So a drain evens out what there is."""
    workers = [FakeRecipient(slot) for slot in range(3)]
    dispatcher = Door().open_for(*workers)
    for worker, count in zip(workers, (5, 9, 2), strict=True):
        worker.open_connections = count
    dispatcher.dispatch(known(1, slot=1), NOW)
    assert workers[2].given == known(1, slot=1)


def test_whom_a_leaving_worker_gives_back_finds_room() -> None:
    """Who comes for the first time waits meanwhile; then there is room for both or for none."""
    group, old, new = Door(), FakeRecipient(0), FakeRecipient(0, room=2)
    dispatcher = group.open_for(old)
    old.open_connections = 2
    dispatcher.leave(old, NOW)
    dispatcher.add(new)
    dispatcher.update(NOW)
    assert group.calls == ["resume", "pause"]
    dispatcher.dispatch(made_up(1), NOW)
    assert new.given == []
    old.open_connections, old.is_giving_back = 0, True
    dispatcher.update(NOW)
    assert new.given == []
    old.is_giving_back = False
    dispatcher.dispatch(known(2), NOW)
    assert new.given == known(2)
    dispatcher.update(NOW)

    assert dispatcher.take_waiting() == made_up(1)


def test_room_beyond_what_a_leaving_worker_has_is_for_anybody() -> None:
    """No more of it."""
    group, old, new = Door(), FakeRecipient(0), FakeRecipient(1, room=5)
    dispatcher = group.open_for(new)
    old.open_connections = 3
    dispatcher.leave(old, NOW)
    dispatcher.update(NOW)
    dispatcher.dispatch(made_up(4), NOW)
    assert new.given == made_up(2)
    assert old.is_asked  # to tell when one of its connections ends
    dispatcher.remove(old)
    dispatcher.update(NOW)

    assert new.given == made_up(4)


def test_room_is_kept_for_what_leaves_only_while_it_may_soon_come_back() -> None:
    """What cannot move, or takes long, keeps nobody out of an empty worker until it ends."""
    group, old, new = Door(), FakeRecipient(0), FakeRecipient(1, room=5)
    dispatcher = group.open_for(new)
    old.open_connections = 5
    dispatcher.leave(old, NOW)
    dispatcher.update(NOW)
    dispatcher.dispatch(made_up(2), NOW)
    assert new.given == []
    dispatcher.leave(old, NOW + 5)  # a second time
    dispatcher.update(NOW + 5)
    assert new.given == made_up(2)
    assert group.calls == ["resume", "pause", "resume"]
    dispatcher.dispatch([*made_up(4, 2), *known(1)], NOW + 5)
    new.room = 1
    dispatcher.update(NOW + 5)

    assert new.given == [*made_up(5), *known(1)]


def test_what_leaves_for_long_still_counts_for_the_limit_of_all() -> None:
    """It is open, wherever it is."""
    group, old, new = Door(max_connections=4), FakeRecipient(0), FakeRecipient(1)
    dispatcher = group.open_for(new)
    old.open_connections = 3
    dispatcher.leave(old, NOW)
    dispatcher.update(NOW + 5)
    dispatcher.dispatch(made_up(1), NOW + 5)
    new.open_connections = 1
    dispatcher.dispatch(made_up(1, 1), NOW + 5)

    assert new.given == made_up(1)


def test_who_parts_from_one_door_counts_as_before() -> None:
    """It serves, or leaves, by others: what it has open is not gone."""
    group, old, new = Door(max_connections=3), FakeRecipient(0), FakeRecipient(1)
    dispatcher = group.open_for(old, new)
    old.open_connections = 3
    dispatcher.leave(old, NOW)
    dispatcher.part(old)
    dispatcher.update(NOW)
    dispatcher.dispatch(made_up(2), NOW)

    assert (old.given, new.given) == ([], [])


def test_whom_has_been_let_in_goes_before_those_that_wait() -> None:
    """However long they have waited."""
    worker = FakeRecipient(0, room=0)
    dispatcher = Door().open_for(worker)
    dispatcher.dispatch(made_up(2), NOW)
    dispatcher.dispatch(known(1), NOW)
    worker.room = 2
    dispatcher.update(NOW)

    assert worker.given == [*known(1), *made_up(1)]


def test_what_a_leaving_worker_has_counts_for_the_limit_of_all() -> None:
    """Until it has ended, or goes on at another, which it may at any time."""
    group = Door(max_connections=3)
    old, new = FakeRecipient(0), FakeRecipient(1)
    dispatcher = group.open_for(old, new)
    old.open_connections, new.open_connections = 2, 1
    dispatcher.leave(old, NOW)
    dispatcher.update(NOW)
    dispatcher.dispatch(made_up(1), NOW)
    assert new.given == []
    dispatcher.dispatch(known(1), NOW)
    assert new.given == known(1)
    old.open_connections, new.open_connections = 0, 2
    dispatcher.update(NOW)

    assert new.given == [*known(1), *made_up(1)]


class AnyLife(RuleBasedStateMachine):
    """Workers come, go, fill up, empty and fall behind while connections arrive."""

    def __init__(self) -> None:
        super().__init__()
        self.group = Door()
        self.dispatcher = self.group.dispatcher
        self.present: list[FakeRecipient] = []
        self.all: list[FakeRecipient] = []
        self.arrived = 0

    @rule(count=st.integers(1, 300))
    def arrive(self, count: int) -> None:
        self.dispatcher.dispatch(made_up(count, self.arrived), NOW)
        self.arrived += count

    @rule(room=st.integers(0, 40), picky=st.booleans())
    def come(self, room: int, picky: bool) -> None:
        taken = {recipient.slot for recipient in self.present}
        slot = next(n for n in range(len(self.present) + 1) if n not in taken)
        recipient = FakeRecipient(slot, room, picky=picky)
        self.present.append(recipient)
        self.all.append(recipient)
        self.dispatcher.add(recipient)
        self.dispatcher.update(NOW)

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        recipient = data.draw(st.sampled_from(self.present))
        self.present.remove(recipient)
        self.dispatcher.remove(recipient)
        self.dispatcher.update(NOW)

    @precondition(lambda self: self.present)
    @rule(data=st.data(), room=st.integers(0, 400))
    def shed_idle_connections(self, data: st.DataObject, room: int) -> None:
        data.draw(st.sampled_from(self.present)).room = room
        self.dispatcher.update(NOW)

    @precondition(lambda self: self.present)
    @rule(data=st.data(), behind=st.booleans())
    def fall_behind(self, data: st.DataObject, behind: bool) -> None:
        data.draw(st.sampled_from(self.present)).behind = behind

    @precondition(lambda self: self.present)
    @rule(data=st.data(), is_stuck=st.booleans())
    def stick(self, data: st.DataObject, is_stuck: bool) -> None:
        data.draw(st.sampled_from(self.present)).is_stuck = is_stuck
        self.dispatcher.update(NOW)

    @invariant()
    def every_connection_is_handed_over_once_or_waits(self) -> None:
        given = [connection.fd for recipient in self.all for connection in recipient.given]
        waiting = self.dispatcher.take_waiting()
        assert sorted([*given, *(connection.fd for connection in waiting)]) == [
            *range(self.arrived)
        ]
        self.dispatcher.dispatch(waiting, NOW)

    @invariant()
    def nothing_waits_while_somebody_has_room(self) -> None:
        if self.dispatcher.waiting:
            assert not any(recipient.has_room for recipient in self.present)

    @invariant()
    def the_door_is_shut_and_opened_in_turn(self) -> None:
        calls = self.group.calls
        assert calls == [("resume", "pause")[n % 2] for n in range(len(calls))]


TestAnyLife = AnyLife.TestCase


def test_before_anybody_is_turned_away_all_are_looked_at_again() -> None:
    """One that has room again may not have been heard yet."""
    shed: list[Connection] = []
    dispatcher = Dispatcher(RoundRobin(), lambda: None, lambda: None, turn_away=shed.extend)
    worker = FakeRecipient(0, room=1)
    dispatcher.add(worker)
    dispatcher.update(NOW)
    worker.hidden_room = 2

    dispatcher.dispatch(made_up(5), NOW)

    assert [connection.fd for connection in worker.given] == [0, 1, 2]
    assert [connection.fd for connection in shed] == [3, 4]


def test_in_a_flood_of_refusals_not_each_is_worth_a_look() -> None:
    """A look costs more than a refusal; after a moment there is another one."""
    dispatcher = Dispatcher(RoundRobin(), lambda: None, lambda: None, lambda _: None)
    workers = [LookedAt(slot, room=0) for slot in range(3)]
    for worker in workers:
        dispatcher.add(worker)
    for _ in range(10):
        dispatcher.dispatch(made_up(1), NOW)
    assert [worker.looks for worker in workers] == [1, 1, 1]
    workers[1].hidden_room = 1
    dispatcher.dispatch(made_up(1), NOW + 0.01)

    assert workers[1].given == made_up(1)


class LookedAt(FakeRecipient):
    """Counts looks; what it is given is open."""

    looks = 0

    def look_again(self) -> None:
        self.looks += 1
        super().look_again()

    def hand_over(self, batch: Sequence[Connection], now: float) -> int:
        taken = super().hand_over(batch, now)
        self.open_connections += taken
        return taken


class CountedPlaces(AdmissionControl):
    looks = 0

    def look(self, now: float) -> int:
        self.looks += 1
        return super().look(now)


def test_all_are_counted_only_now_and_then() -> None:
    """And yet never more are let in than there may be, at whatever door."""
    workers = [LookedAt(slot) for slot in range(3)]
    places = CountedPlaces(lambda: workers, 200)
    ingress = [
        Dispatcher(RoundRobin(), lambda: None, lambda: None, lambda _: None, places)
        for _ in range(2)
    ]
    for group in ingress:
        for worker in workers:
            group.add(worker)
        group.update(NOW)
    for number in range(300):
        ingress[number % 2].dispatch(made_up(1), NOW)

    assert sum(worker.open_connections for worker in workers) == 200
    assert places.looks < 10


def test_what_was_on_its_way_when_all_were_counted_counts_once_it_has_come() -> None:
    """Until then it was in nobody's figures."""
    group, worker = Door(max_connections=4), LookedAt(0)
    dispatcher = group.open_for(worker)
    dispatcher.dispatch(known(2), NOW)
    dispatcher.dispatch(made_up(4), NOW)

    assert worker.given == [*known(2), *made_up(2)]
