"""A role that keeps failing, in a loop whose timers are real and short."""

import asyncio

import pytest

from aiocluster.events import Event, RoleDegraded, RoleRecovered
from aiocluster.ipc.handover import FailuresState
from aiocluster.primary.supervision.circuit_breaker import CircuitBreaker
from aiocluster.primary.supervision.restart_policy import RestartConfig, RestartPolicy
from tests.support.waiting import soon, turns


def breaker(heard: "asyncio.Queue[Event]", half_life: float = 1000.0) -> CircuitBreaker:
    config = RestartConfig(max_failures=2, half_life=half_life)
    return CircuitBreaker("web", RestartPolicy(config, lambda: 1.0), heard.put_nowait)


async def test_past_its_limit_a_role_is_degraded_once(caplog: pytest.LogCaptureFixture) -> None:
    """It is told when it happens, and not with each further failure."""
    heard: asyncio.Queue[Event] = asyncio.Queue()
    role = breaker(heard)
    delays = [role.delay_after_failure(1.0) for _ in range(5)]
    role.close()
    role.close()

    assert delays[:2] == [0.0, 0.0]
    assert sorted(delays[2:]) == delays[2:]
    degraded = heard.get_nowait()
    assert isinstance(degraded, RoleDegraded)
    assert degraded.failures == pytest.approx(3.0, abs=0.01)
    assert heard.empty()
    assert caplog.text.count("role web is degraded: 3 recent failures") == 1


async def test_when_failures_have_faded_it_has_recovered() -> None:
    """Told once, too."""
    heard: asyncio.Queue[Event] = asyncio.Queue()
    role = breaker(heard, half_life=0.02)
    while not role.is_degraded:
        role.delay_after_failure(1.0)
    assert isinstance(await soon(heard.get()), RoleDegraded)

    assert isinstance(await soon(heard.get()), RoleRecovered)
    assert not role.is_degraded


async def test_while_degraded_one_at_a_time_may_start() -> None:
    """Before, as many as there are."""
    heard: asyncio.Queue[Event] = asyncio.Queue()
    role = breaker(heard)
    for _ in range(2):
        await soon(role.take_turn())
    for _ in range(3):
        role.delay_after_failure(1.0)
    end = await soon(role.take_turn())
    second = asyncio.create_task(role.take_turn())
    await turns(20)
    assert not second.done()

    end()

    (await soon(second))()
    role.close()


async def test_another_program_goes_on_counting() -> None:
    """A role that is degraded stays so, and that is not told again."""
    heard: asyncio.Queue[Event] = asyncio.Queue()
    first, second, calm = breaker(heard), breaker(heard), breaker(heard)
    for _ in range(3):
        first.delay_after_failure(1.0)
    heard.get_nowait()
    second.adopt(first.state())
    calm.adopt(breaker(heard).state())

    assert second.is_degraded
    assert not calm.is_degraded
    assert second.delay_after_failure(1.0) > 0.0
    assert heard.empty()
    for role in (first, second):
        role.close()


async def test_a_role_that_was_degraded_is_so_until_it_has_recovered() -> None:
    """In the next program as well, though its failures would not degrade it any more."""
    heard: asyncio.Queue[Event] = asyncio.Queue()
    second = breaker(heard)
    now = asyncio.get_running_loop().time()
    second.adopt(FailuresState(count=1.5, last=now, is_degraded=True))
    assert second.is_degraded
    second.close()

    third = breaker(heard)
    third.adopt(FailuresState(count=0.0, last=now, is_degraded=True))
    assert not third.is_degraded
    assert isinstance(heard.get_nowait(), RoleRecovered)
