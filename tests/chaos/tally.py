"""What the load client counts: answers, failures by kind, what it was told, times."""

from array import array
from asyncio import Future, get_running_loop
from collections import Counter
from typing import Any

# Failures of one kind that are kept with all that is known of them.
_MAX_SAMPLES = 1000


class Failure(Exception):
    """A request did not go as it should.

    `kind` is one of refused, reset, cut (closed in the middle of an answer, or without one),
    timeout, status, body; or the name of another error of the system.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


class Tally:
    """What one mode saw. `now` tells the time in seconds."""

    def __init__(self, began: float) -> None:
        self.answered = 0
        self.connections = 0
        self.failures: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.workers: Counter[str] = Counter()
        self._samples: list[dict[str, Any]] = []
        self._began = self._last_answer = began
        self._latencies = array("d")
        self._longest_gap = 0.0
        self._awaited: list[tuple[int, Future[None]]] = []

    def answer(self, began: float, now: float, worker: str) -> None:
        """A request that began then was answered well."""
        self.answered += 1
        self.workers[worker] += 1
        self._latencies.append(now - began)
        self._longest_gap = max(self._longest_gap, now - self._last_answer)
        self._last_answer = now
        if self._awaited:
            self._wake()

    def fail(self, failure: Failure, now: float, **known: object) -> None:
        """One request failed; `known` is what else is known of it. `at` is what `now` told."""
        self.failures[failure.kind] += 1
        if self.failures[failure.kind] <= _MAX_SAMPLES:
            said = {"kind": failure.kind, "detail": failure.detail}
            self._samples.append({**said, **known, "at": now})

    def tell(self, what: str, count: int = 1) -> None:
        """The server said in so many words that it would not go on; that is no failure."""
        self.told[what] += count

    async def more(self, count: int) -> None:
        """Wait for `count` further answers."""
        reached: Future[None] = get_running_loop().create_future()
        self._awaited.append((self.answered + count, reached))
        await reached

    def result(self) -> dict[str, Any]:
        """Return all that was counted, as JSON can carry it."""
        ordered = sorted(self._latencies)
        return {
            "answered": self.answered,
            "connections": self.connections,
            "failures": dict(self.failures),
            "samples": self._samples,
            "told": dict(self.told),
            "workers": dict(self.workers),
            "p50": _quantile(ordered, 0.5),
            "p99": _quantile(ordered, 0.99),
            "max": _quantile(ordered, 1.0),
            "longest_gap": self._longest_gap,
        }

    def _wake(self) -> None:
        for target, reached in self._awaited:
            if self.answered >= target and not reached.done():
                reached.set_result(None)
        self._awaited = [waiting for waiting in self._awaited if not waiting[1].done()]


def _quantile(ordered: list[float], share: float) -> float | None:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None
