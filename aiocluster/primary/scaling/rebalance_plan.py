"""Who gives back how many keep-alive connections, so that all have about as many.

Only what is idle can move, so each number is what a worker is asked for, not what it can do:
whoever looks again sees what came of it.
"""

from collections.abc import Collection, Mapping, Set
from typing import TypeVar

Key = TypeVar("Key")  # of a worker

# Less than 2 is what round robin itself leaves, and what one client that comes and goes makes:
# it would keep connections on the move for nothing. Beyond some twenty connections a worker
# nobody can feel a tenth of them.
_FEWEST_APART = 2
_SHARE_APART = 0.1


def bound(mean: float) -> float:
    """Return by how many connections workers may differ that have `mean` of them."""
    return max(_FEWEST_APART, _SHARE_APART * mean)


def evened(connections: Mapping[Key, int]) -> dict[Key, int]:
    """Return how many each worker gives back; empty while they differ by no more than the bound.

    What they give is for those below the mean; then none differ by more than one. So once set
    right, the numbers have to drift all the way to the bound until anything moves again.
    """
    if not connections or not _are_apart(connections):
        return {}
    return _above_mean(connections)


def _are_apart(connections: Mapping[Key, int]) -> bool:
    counts = connections.values()
    return max(counts) - min(counts) > bound(sum(counts) / len(counts))


def without_few(connections: Mapping[Key, int], full: Set[Key]) -> dict[Key, int]:
    """Leave out those that are `full` and have fewer than the mean: nothing can be for them.

    What others gave would only go round among those others, again and again.
    """
    left = dict(connections)
    # Each that is left out raises the mean of the others.
    while few := {key for key in full & left.keys() if left[key] * len(left) < sum(left.values())}:
        left = {key: count for key, count in left.items() if key not in few}
    return left


def shares(connections: Mapping[Key, int], new: Collection[Key]) -> dict[Key, int]:
    """Return how many each worker gives so that those that are `new` have the mean.

    Empty once they have. Nobody gives so many that it is left below the mean.
    """
    mean = sum(connections.values()) // max(len(connections), 1)
    if all(connections.get(key, mean) >= mean for key in new):
        return {}
    return _above_mean(connections)


def _above_mean(connections: Mapping[Key, int]) -> dict[Key, int]:
    mean, rest = divmod(sum(connections.values()), len(connections))
    # The odd ones stay with those who have most: that moves the fewest.
    by_most = sorted(connections.items(), key=lambda item: -item[1])
    gives = {key: count - mean - (place < rest) for place, (key, count) in enumerate(by_most)}
    return {key: count for key, count in gives.items() if count > 0}
