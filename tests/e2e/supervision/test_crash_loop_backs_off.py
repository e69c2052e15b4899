"""A worker that cannot live is started again more and more slowly, and the log says so."""

import re

import pytest

from aiocluster import RoleDegraded, WorkerExited, WorkerForked
from tests.support.cluster import logged, serving, who_answers
from tests.support.program import until

APP = "tests.support.apps:make_app_unless_told_to_crash"

_NEXT_START = re.compile(r"slot 1: too many failures lately, next start in ([\d.]+) s")


def delays(caplog: pytest.LogCaptureFixture) -> list[float]:
    """The waits that the log has told so far, seconds."""
    return [float(found) for found in _NEXT_START.findall(caplog.text)]


async def test_failures_up_to_max_failures_are_replaced_at_once_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With max_failures=3 the fourth crash in a row waits, for as long as it is allowed to."""
    settings = {"max_failures": 3, "failure_half_life": 1e6}
    async with serving(APP, workers=1, **settings) as (cluster, heard):
        await cluster.fork(env={"CRASH": "4"})
        await logged(caplog, "too many failures lately")
        (degraded,) = heard.of_kind(RoleDegraded)
        forks = len(heard.of_kind(WorkerForked))
        exits = [(event.code, event.reason) for event in heard.of_kind(WorkerExited)]
        answer = await who_answers(cluster)

    assert degraded.role == "web"
    assert forks == 4
    assert exits == [(4, "crash")] * 4
    assert answer["slot"] == 0


async def test_the_wait_doubles_up_to_max_restart_delay(caplog: pytest.LogCaptureFixture) -> None:
    """0.2 s, then 0.4 s, then no more than max_restart_delay, less at most a quarter of jitter."""
    settings = {"max_failures": 0, "failure_half_life": 1e6, "max_restart_delay": 0.5}
    async with serving(APP, workers=1, **settings) as (cluster, _):
        await cluster.fork(env={"CRASH": "4"})
        await until(lambda: len(delays(caplog)) == 4, "no four waits")
        first, second, third, fourth = delays(caplog)

    assert 0.1 <= first <= 0.2
    assert 0.3 <= second <= 0.4
    assert 0.3 <= third <= 0.5
    assert 0.3 <= fourth <= 0.5


async def test_a_factory_that_raises_in_a_replacement_is_told_once_in_full(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The same traceback is not logged for every try; the cause is."""
    settings = {"max_failures": 2, "failure_half_life": 1e6}
    async with serving(APP, workers=1, **settings) as (cluster, heard):
        await cluster.fork(env={"RAISE": "1"})
        await logged(caplog, "too many failures lately")
        reasons = [(event.code, event.reason) for event in heard.of_kind(WorkerExited)]

    assert reasons == [(3, "boot_failed")] * 3
    assert (
        len(re.findall(r"could not start worker .*: RuntimeError: told to raise", caplog.text)) == 3
    )
    assert caplog.text.count("Traceback (most recent call last)") == 1


async def test_a_slot_that_waits_holds_nothing_up(caplog: pytest.LogCaptureFixture) -> None:
    """While a crashed slot waits an hour, another worker is forked, serves, and all stop."""
    settings = {"max_failures": 0, "failure_half_life": 1e6, "max_restart_delay": 3600}
    async with serving(APP, workers=1, **settings) as (cluster, _heard):
        await cluster.fork(env={"CRASH": "4"})
        await logged(caplog, "too many failures lately")
        added = await cluster.fork()
        await added.settled
        answers = {(await who_answers(cluster))["id"] for _ in range(2)}

    assert added.id in answers
