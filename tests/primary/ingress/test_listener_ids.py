"""Which numbers the listeners of servers get."""

import pytest

from aiocluster.primary.ingress.listener_ids import ListenerIds


def test_they_go_down_from_the_highest_that_a_byte_leaves() -> None:
    """255 means something else."""
    numbers = ListenerIds()

    assert numbers.take(2) == [254, 253]
    assert numbers.take(1) == [252]


def test_those_of_the_roles_own_listeners_are_never_taken() -> None:
    """Nor are they later, when it has fewer: workers may still have the old ones."""
    numbers = ListenerIds()
    numbers.reserve(3)
    numbers.reserve(0)

    assert min(numbers.take(252)) == 3
    with pytest.raises(OSError, match="too many servers"):
        numbers.take(1)


def test_one_that_was_given_back_is_used_after_all_others() -> None:
    """What still has it on its way back is not taken for another's."""
    numbers = ListenerIds()
    numbers.give_back(numbers.take(1))

    taken = [number for _ in range(255) for number in numbers.take(1)]

    assert taken == [*range(253, -1, -1), 254]


def test_too_many_at_once_take_none() -> None:
    """Those that are free stay so."""
    numbers = ListenerIds()
    numbers.take(254)

    with pytest.raises(OSError, match="255 sockets"):
        numbers.take(2)
    assert numbers.take(1) == [0]


def test_they_go_on_where_another_program_was() -> None:
    """In its order, and what has to be reserved is known before."""
    numbers = ListenerIds()
    numbers.reserve(1)
    numbers.adopt([9, 3, 0, 254])

    assert numbers.free == [9, 3, 254]
    assert numbers.take(2) == [9, 3]
