"""Degrades a role if its workers keep failing: its starts are fewer and slower, and logged.

Each role counts its own failures, so a failing role takes nothing from the others. In a degraded
role one dead worker at a time is replaced, after the wait that the failures demand. The role has
recovered when most of its failures have faded. A reload, which may bring a fix, does not wait
for that.
"""

import asyncio
import logging
from collections.abc import Callable

from aiocluster.events import Event, RoleDegraded, RoleRecovered
from aiocluster.ipc.handover import FailuresState
from aiocluster.primary.supervision.restart_policy import RestartPolicy

log = logging.getLogger("aiocluster.supervisor")


class CircuitBreaker:
    """A count of one role's failures, which slows its starts down if there are too many."""

    def __init__(self, role: str, policy: RestartPolicy, publish: Callable[[Event], None]) -> None:
        self.is_degraded = False
        self._role = role
        self._policy = policy
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._recovery: asyncio.TimerHandle | None = None

    def state(self) -> FailuresState:
        """Return what the next program must know."""
        return self._policy.state(is_degraded=self.is_degraded)

    def adopt(self, state: FailuresState) -> None:
        """Restore the previous program's count; that program has published RoleDegraded."""
        self._policy.adopt(state)
        self.is_degraded = state.is_degraded
        if self.is_degraded:
            self._look_again()

    def delay_after_failure(self, weight: float) -> float:
        """Count a failure; return the seconds to wait before the next start."""
        delay = self._policy.delay_after_failure(self._loop.time(), weight)
        now = self._loop.time()
        if not self.is_degraded and self._policy.is_past_limit(now):
            self.is_degraded = True
            failures = self._policy.failures(now)
            log.error(
                "role %s is degraded: %.0f recent failures; it is started again more slowly, and"
                " one worker at a time",
                self._role,
                failures,
            )
            self._publish(RoleDegraded(self._role, failures))
            self._look_again()
        return delay

    async def take_turn(self) -> Callable[[], None]:
        """Wait until a worker may be started; return the function to call once it has settled."""
        if not self.is_degraded:
            return lambda: None
        await self._turn.acquire()
        return self._turn.release

    def close(self) -> None:
        """Stop waiting for the recovery. Idempotent."""
        if self._recovery is not None:
            self._recovery.cancel()

    def _look_again(self) -> None:
        left = self._policy.recovers_in(self._loop.time())
        if left > 0:
            self._recovery = self._loop.call_later(left, self._look_again)
            return
        self.is_degraded = False
        log.warning("role %s has recovered", self._role)
        self._publish(RoleRecovered(self._role))
