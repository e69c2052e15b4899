"""Who had a connection is told by what was written last before, whatever came of its port since."""

import pytest

from tests.chaos.trail import Trail

_LINES = ["1.5 7 took 52168", "2.5 7 gave 52168", "2.75 8 took 52168", "9.0 7 took 52168"]


@pytest.mark.parametrize(
    ("at", "holder"), [(1.25, 0), (1.75, 7), (2.625, 0), (3.0, 8), (8.0, 8), (9.5, 7)]
)
def test_the_holder_is_who_took_it_last(at: float, holder: int) -> None:
    """Nobody before, and between two of them; a port comes again."""
    assert Trail(_LINES).holder(52168, at) == holder
    assert Trail(reversed(_LINES)).holder(52168, at) == holder


def test_who_had_an_earlier_connection_of_the_port_does_not_hold_it() -> None:
    """The kernel deals out a port again, and not every connection is given back."""
    trail = Trail(_LINES)

    assert trail.holder(52168, 9.5, since=2.6) == trail.holder(52168, 9.5, since=9.0) == 7
    assert trail.holder(52168, 9.5, since=9.2) == 0


def test_of_an_unknown_connection_there_is_no_holder() -> None:
    """It was never taken."""
    assert Trail(_LINES).holder(1, 9.0) == 0
