"""A role whose workers keep failing is degraded: its starts are fewer and slower, and loud.

Each role counts for itself, so one that fails takes nothing from the others. While a role is
degraded one of its dead workers at a time is being replaced, after the wait that its failures
demand; it has recovered when most of them have faded. A reload, which may bring the mend, does
not wait for that.
"""

import asyncio
import logging
from collections.abc import Callable

from aiocluster.events import Event, RoleDegraded, RoleRecovered
from aiocluster.ipc.handover import FailuresState
from aiocluster.primary.supervision.restart_policy import RestartPolicy

log = logging.getLogger("aiocluster.supervisor")


class CircuitBreaker:
    """The failures of one role, and what they mean for its starts."""

    def __init__(self, role: str, policy: RestartPolicy, publish: Callable[[Event], None]) -> None:
        self.is_degraded = False
        self._role = role
        self._policy = policy
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._recovery: asyncio.TimerHandle | None = None

    def state(self) -> FailuresState:
        """What the next program must know."""
        return self._policy.state(is_degraded=self.is_degraded)

    def adopt(self, state: FailuresState) -> None:
        """Go on with what another program has counted; that the role is degraded was told."""
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
        """Wait until a worker may be started; return what must be called once it has settled."""
        if not self.is_degraded:
            return lambda: None
        await self._turn.acquire()
        return self._turn.release

    def close(self) -> None:
        """Look no more. Idempotent."""
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
