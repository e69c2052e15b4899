"""How many new clients may be let in, and what is kept for those that come back."""

from aiocluster.primary.dispatch.admission import MANY, AdmissionControl

NOW = 1000.0


class FakeMember:
    """A worker that has some connections, and may have `places` more."""

    def __init__(self, open_connections: int = 0, places: int = 1000) -> None:
        self.open_connections = open_connections
        self.places = places
        self.is_giving_back = False
        self.asked = self.looks = 0

    def notify_on_close(self) -> None:
        self.asked += 1

    def look_soon(self) -> None:
        self.looks += 1


def test_without_a_limit_there_are_many() -> None:
    """And nobody is counted."""
    places = AdmissionControl(lambda: [])

    assert (places.look(NOW), places.are_limited) == (MANY, False)


def test_what_all_have_counts_for_their_limit() -> None:
    """That of workers that leave, too."""
    members = [FakeMember(2), FakeMember(3)]
    places = AdmissionControl(lambda: members, 10)
    assert places.look(NOW) == 5
    places.leave(FakeMember(4), NOW)

    assert places.look(NOW) == 1
    assert places.look(NOW + 60) == 1


def test_room_is_kept_for_what_is_about_to_come_back() -> None:
    """For a while; and for what is on its way, however long it takes."""
    old, new = FakeMember(4), FakeMember(places=5)
    places = AdmissionControl(lambda: [new])
    places.leave(old, NOW)
    assert places.look(NOW) == 1
    assert places.look(NOW + 60) == MANY
    old.is_giving_back = True

    assert places.look(NOW + 60) == 0


def test_who_leaves_twice_leaves_from_the_first_time() -> None:
    """Told again it only gets quicker."""
    old, new = FakeMember(4), FakeMember(places=4)
    places = AdmissionControl(lambda: [new])
    places.leave(old, NOW)
    places.leave(old, NOW + 60)

    assert places.look(NOW + 60) == MANY


def test_who_is_gone_has_nothing_any_more() -> None:
    """And if nobody else leaves nothing need be counted."""
    old, new = FakeMember(4), FakeMember(places=4)
    places = AdmissionControl(lambda: [new])
    places.leave(old, NOW)
    for _ in range(2):
        places.remove(old)

    assert (places.look(NOW), places.are_limited) == (MANY, False)


def test_where_nobody_can_be_full_no_room_is_kept() -> None:
    """There is enough for all."""
    places = AdmissionControl(lambda: [FakeMember()], keeps_room=False)
    places.leave(FakeMember(4), NOW)

    assert (places.look(NOW), places.are_limited) == (MANY, False)


def test_of_a_full_cluster_one_worker_is_looked_at() -> None:
    """All tell of their ends; what is not told costs one look, not one for each worker."""
    members = [FakeMember(2) for _ in range(3)]
    places = AdmissionControl(lambda: members, 6)

    assert places.look(NOW) == 0
    assert [member.asked for member in members] == [1, 1, 1]
    assert [member.looks for member in members] == [1, 0, 0]


def test_what_ends_before_all_are_asked_is_seen() -> None:
    """It was not told, since nobody wanted to know."""

    class Hasty(FakeMember):
        def notify_on_close(self) -> None:
            self.open_connections -= 1

    members = [Hasty(1)]

    assert AdmissionControl(lambda: members, 1).look(NOW) == 1


def test_what_is_found_is_spent_before_the_next_look() -> None:
    """Unless somebody leaves, or has gone: then it is found anew."""
    member, leaver = FakeMember(2), FakeMember(3)
    places = AdmissionControl(lambda: [member], 10)
    assert (places.budget, places.look(NOW), places.budget) == (0, 8, 8)
    places.spend(5)
    assert places.budget == 3
    places.leave(leaver, NOW)
    assert places.budget == 0
    places.look(NOW)
    places.remove(leaver)
    assert places.budget == 0
    places.look(NOW)
    places.forget()

    assert places.budget == 0
