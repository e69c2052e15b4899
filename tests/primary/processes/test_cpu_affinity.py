"""Who has which CPU."""

import pytest

from aiocluster.primary.processes.cpu_affinity import dealt


@pytest.mark.parametrize(
    ("counts", "pinned", "cpus"),
    [
        ({"web": 2}, {"web": [0, 2]}, [0, 2]),
        ({"web": 1, "jobs": 1}, {"web": [0], "jobs": [1]}, [0, 1]),
        # One that is not pinned has to run somewhere, too.
        ({"jobs": 1, "web": 1}, {"web": [1]}, [0, 1]),
        # What is left is for those whom a scaling adds, of each role in turn.
        ({"web": 1}, {"web": [0, 1, 2]}, [0, 1, 2]),
        ({"web": 2, "jobs": 1}, {"web": [0, 1, 3, 5], "jobs": [2, 4]}, [0, 1, 2, 3, 4, 5]),
        ({"web": 1, "jobs": 1, "more": 1}, {"web": [0, 3], "more": [2]}, [0, 1, 2, 3]),
    ],
)
def test_no_two_workers_have_the_same(
    counts: dict[str, int], pinned: dict[str, list[int]], cpus: list[int]
) -> None:
    """Of whatever role."""
    assert dealt(counts, pinned.keys(), cpus) == pinned


@pytest.mark.parametrize(
    ("counts", "pinned"),
    [({"web": 3}, ["web"]), ({"web": 2, "jobs": 1}, ["web"]), ({"web": 1, "jobs": 1}, [])],
)
def test_where_there_are_too_few_or_none_is_wanted_nobody_has_one(
    counts: dict[str, int], pinned: list[str]
) -> None:
    """Two on one CPU would be worse than the kernel's own choice."""
    assert dealt(counts, pinned, [0, 1]) == {}
