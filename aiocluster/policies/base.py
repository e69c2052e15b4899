"""What a policy is: one method that chooses among candidates."""

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """The part of a worker that a policy may look at."""

    @property
    def slot(self) -> int: ...


C = TypeVar("C", bound=Candidate)


class Policy(Protocol):
    """Chooses a worker for one connection."""

    def choose(self, candidates: Sequence[C]) -> C:
        """Return one of `candidates`: never empty, ordered by slot, all fit to serve.

        The same sequence object is passed again and again until a candidate comes or
        goes, so a policy may keep its place in it.
        """
        ...
