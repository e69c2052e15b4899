"""One aggregator for each role, and one for all roles together.

Percentiles of all roles cannot be calculated from the percentiles of each.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from aiocluster.metrics.aggregator import Aggregator, AggregatorState, WorkerFacts
from aiocluster.metrics.snapshot import Counters, Dispatch, Metrics, Report, Snapshot


class RoleAggregatorsState(Struct, frozen=True, kw_only=True):
    """The state of all aggregators that an upgrade hands over."""

    of_all: AggregatorState
    of_roles: dict[str, AggregatorState]


class RoleAggregators:
    """The aggregators of one cluster. See Aggregator."""

    def __init__(self, started_at: float, roles: Iterable[str]) -> None:
        self._all = Aggregator(started_at)
        self._roles = {role: Aggregator(started_at) for role in roles}

    def state(self) -> RoleAggregatorsState:
        """Return the state that the next program needs, so that no total goes backwards."""
        of_roles = {role: aggregator.state() for role, aggregator in self._roles.items()}
        return RoleAggregatorsState(of_all=self._all.state(), of_roles=of_roles)

    def adopt(self, state: RoleAggregatorsState) -> None:
        """Continue from the state of other aggregators."""
        self._all = Aggregator.of(state.of_all)
        self._roles |= {role: Aggregator.of(one) for role, one in state.of_roles.items()}

    def report(self, worker_id: int, role: str, report: Report, now: float) -> None:
        """Add a worker's report; its last report may come after its exit."""
        for aggregator in (self._all, self._roles[role]):
            aggregator.report(worker_id, report, now)

    def retire(self, worker_id: int, role: str, counters: Counters) -> None:
        """Add the counters of a worker that exited to the totals. Idempotent."""
        for aggregator in (self._all, self._roles[role]):
            aggregator.retire(worker_id, counters)

    def snapshot(
        self,
        workers: Iterable[WorkerFacts],
        *,
        now: float,
        wall: float,
        dispatch: Mapping[str, Dispatch],
        previous: Snapshot | None = None,
        missed: int = 0,
    ) -> Snapshot:
        """Return the figures at `now`. See Aggregator.snapshot."""
        facts = [*workers]
        snapshot = self._all.snapshot(facts, now=now, wall=wall, previous=previous, missed=missed)
        roles = self._totals(facts, snapshot, now, previous)
        return replace(snapshot, roles=roles, dispatch={**dispatch})

    def _totals(
        self, facts: list[WorkerFacts], whole: Snapshot, now: float, previous: Snapshot | None
    ) -> dict[str, Metrics]:
        if len(self._roles) == 1:
            return dict.fromkeys(self._roles, whole.total)
        totals: dict[str, Metrics] = {}
        for role, aggregator in self._roles.items():
            before = replace(previous, total=previous.roles[role]) if previous else None
            mine = [one for one in facts if one.role == role]
            totals[role] = aggregator.snapshot(
                mine, now=now, wall=whole.time, previous=before
            ).total
        return totals
