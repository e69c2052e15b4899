"""Plans how many keep-alive connections each worker returns, so that all have about as many.

Only idle connections can move, so a worker may return fewer than its number. The next look shows
the result.
"""

from collections.abc import Collection, Mapping, Set
from typing import TypeVar

Key = TypeVar("Key")  # of a worker

# Round robin itself, or one client that comes and goes, makes a difference of up to 2: to even
# that out would keep connections moving for nothing. Beyond some twenty connections a worker, a
# tenth of them makes no difference that a client could feel.
_FEWEST_APART = 2
_SHARE_APART = 0.1


def bound(mean: float) -> float:
    """Return by how many connections workers with this mean may differ."""
    return max(_FEWEST_APART, _SHARE_APART * mean)


def evened(connections: Mapping[Key, int]) -> dict[Key, int]:
    """Return how many each worker returns; empty while they differ by no more than the bound.

    The returned connections go to workers below the mean; then no two differ by more than one. So
    the numbers must drift all the way to the bound before anything moves again.
    """
    if not connections or not _are_apart(connections):
        return {}
    return _above_mean(connections)


def _are_apart(connections: Mapping[Key, int]) -> bool:
    counts = connections.values()
    return max(counts) - min(counts) > bound(sum(counts) / len(counts))


def without_few(connections: Mapping[Key, int], full: Set[Key]) -> dict[Key, int]:
    """Leave out `full` workers below the mean, which can get no connections.

    What the others returned for them would only move among the others, again and again.
    """
    left = dict(connections)
    # Each worker that is left out raises the mean of the others.
    while few := {key for key in full & left.keys() if left[key] * len(left) < sum(left.values())}:
        left = {key: count for key, count in left.items() if key not in few}
    return left


def shares(connections: Mapping[Key, int], new: Collection[Key]) -> dict[Key, int]:
    """Return how many connections each worker returns so that the `new` ones get the mean.

    Empty once they have it. No worker returns so many that it is left below the mean.
    """
    mean = sum(connections.values()) // max(len(connections), 1)
    if all(connections.get(key, mean) >= mean for key in new):
        return {}
    return _above_mean(connections)


def _above_mean(connections: Mapping[Key, int]) -> dict[Key, int]:
    mean, rest = divmod(sum(connections.values()), len(connections))
    # The remainder stays with the workers that have most: that moves the fewest connections.
    by_most = sorted(connections.items(), key=lambda item: -item[1])
    gives = {key: count - mean - (place < rest) for place, (key, count) in enumerate(by_most)}
    return {key: count for key, count in gives.items() if count > 0}
