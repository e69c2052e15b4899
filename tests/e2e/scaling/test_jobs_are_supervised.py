"""A job is an `async def job(worker)`: no connections, and all else as for an app."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from aiocluster import BootError, Role, WorkerExited, WorkerForked, WorkerListening
from tests.support.cluster import first, serving, serving_roles
from tests.support.program import Program

JOB = "tests.support.jobs:obedient_job"
REPOSITORY = Path(__file__).parents[3]

PROGRAM = """
import aiocluster
from tests.support.jobs import {job}
if __name__ == "__main__":
    aiocluster.run({job}, **{settings!r})
"""


def program(folder: Path, job: str, **settings: object) -> Program:
    source = PROGRAM.format(job=job, settings={"workers": 2, "bind": "127.0.0.1:0", **settings})
    return Program(folder, source, env={"PYTHONPATH": str(REPOSITORY)})


async def test_jobs_run_and_nothing_listens() -> None:
    """Each worker has its job; messages go both ways; metrics are reported."""
    async with serving(JOB, metrics_interval=0.05) as (cluster, heard):
        assert cluster.addresses == ()
        assert await cluster.broadcast("tell") == 2
        told = [await heard.message(lambda one: one[1] == 0)]
        told += [await heard.message(lambda one: one[1] == 1)]
        assert [[worker.id, worker.slot, worker.pid] for worker in cluster.workers.values()] == told
        async for snapshot in cluster.subscribe(0.1):
            if all(worker.rss_bytes for worker in snapshot.workers.values()):
                break
        assert snapshot.total.requests_total == 0


async def test_a_stop_lets_jobs_end_in_their_own_time() -> None:
    """They are told, and nothing has to be cut."""
    async with serving(JOB) as (cluster, heard):
        assert await cluster.stop() == []

    ends = heard.of_kind(WorkerExited)
    assert [(end.code, end.reason, end.voluntary) for end in ends] == [(0, "stop", True)] * 2
    assert [await heard.message() for _ in ends] == ["stopped in its own time"] * 2


async def test_a_job_that_does_not_listen_is_cut_and_named(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """At the deadline it is cancelled, and may clean up."""
    async with serving("tests.support.jobs:deaf_job", workers=1) as (cluster, heard):
        worker = first(cluster)
        assert await cluster.stop(0.1) == [str(worker)]

    assert (await heard.exit_of(worker)).code == 1
    assert "cut: the job deaf_job" in caplog.text
    assert "cleaned up" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("told", "code", "reason", "voluntary"),
    [
        ("return", 0, "finished", True),
        ("raise", 1, "crash", False),
        ("exit", 7, "crash", False),
    ],
)
async def test_however_a_job_ends_another_takes_its_slot(
    told: str, code: int, reason: str, voluntary: bool
) -> None:
    """With restart="always"; the others go on."""
    async with serving(JOB) as (cluster, heard):
        worker = first(cluster)
        await worker.send(told)
        exited = await heard.exit_of(worker)
        successor = await heard.replacement_of(worker)
        other = cluster.workers[2]

    assert (exited.code, exited.reason, exited.voluntary) == (code, reason, voluntary)
    assert (successor.slot, successor.restarts) == (worker.slot, 1)
    assert (await heard.exit_of(other)).reason == "stop"


async def test_a_finished_job_is_not_replaced_on_failure() -> None:
    """One that raised is; the cluster is empty when all have finished."""
    async with serving(JOB, restart="on_failure") as (cluster, heard):
        one, other = cluster.workers.values()
        await one.send("raise")
        successor = await heard.replacement_of(one)
        await successor.send("return")
        assert (await heard.exit_of(successor)).reason == "finished"
        assert not cluster.all_finished
        await other.send("return")
        await cluster.wait_empty()
        assert cluster.all_finished

    assert len(heard.of_kind(WorkerExited)) == 3


async def test_a_job_that_returns_an_application_ends_the_start() -> None:
    """As a role any function of one argument is a job, until it returns what no job makes."""
    with pytest.raises(BootError, match=r"init was called as a job, .* It is a factory, but needs"):
        async with serving_roles({"web": Role("tests.support.jobs:init", workers=2)}):
            raise AssertionError


async def test_a_reload_replaces_jobs() -> None:
    """The old ones end in their own time, once the new ones have begun."""
    async with serving(JOB, min_uptime=0.1) as (cluster, heard):
        old = [*cluster.workers.values()]
        await cluster.reload()
        ends = [await heard.exit_of(worker) for worker in old]
        assert {worker.generation for worker in cluster.workers.values()} == {2}

    assert [(end.code, end.reason) for end in ends] == [(0, "reload")] * 2
    assert all(event.addresses == () for event in heard.of_kind(WorkerListening))


async def test_a_reload_is_not_failed_by_jobs_that_return() -> None:
    """Not even by those that do so soon."""
    settings = {"min_uptime": 1000.0, "max_failures": 1000.0, "workers": 1}
    async with serving("tests.support.jobs:hasty_job", **settings) as (cluster, heard):
        await cluster.reload()
        await heard.next(WorkerForked, lambda event: event.worker.generation == 2, nth=2)

    assert {event.reason for event in heard.of_kind(WorkerExited)} <= {"finished", "stop", "reload"}


async def test_a_program_of_jobs_says_how_many(tmp_path: Path) -> None:
    """And not where, since nobody can connect; it ends well when it is stopped."""
    async with program(tmp_path, "obedient_job") as running:
        line = await running.line("2 workers")
        assert line.startswith(f"aiocluster: 2 workers (pid {running.pid}); stop with Ctrl-C")
        assert await running.stop() == 0
        assert "Traceback" not in await running.all_output()


async def test_a_program_ends_when_its_jobs_have_finished(tmp_path: Path) -> None:
    """With nothing left to do, and with 0."""
    async with program(tmp_path, "short_job", restart="on_failure") as running:
        assert await running.exit_code() == 0
        output = await running.all_output()
        assert "all jobs have finished" in output
        assert "Traceback" not in output


async def test_a_job_that_returns_at_once_is_refused(tmp_path: Path) -> None:
    """The line says what to give in its place."""
    async with program(tmp_path, "short_job", workers=1) as running:
        assert await running.exit_code() == 3
        output = await running.all_output()
        assert "short_job was called as a job, with the worker, and returned at once" in output
        assert "finished" not in output


async def test_a_job_that_returns_soon_does_not_spin(tmp_path: Path) -> None:
    """It is started again and again, more and more slowly."""
    async with program(tmp_path, "hasty_job", workers=1, max_failures=1) as running:
        await running.line("its job returns as soon as it has begun, .* next start in")
        assert await running.stop() == 0


async def test_a_job_that_raises_shows_its_traceback(tmp_path: Path) -> None:
    """And is started again."""
    async with program(tmp_path, "failing_job", workers=1, max_failures=1) as running:
        await running.line("LookupError: no such queue")
        await running.line(r"worker 2 .* exited with code 1 \(crash\)")
        await running.line("too many failures lately, next start in")
        assert await running.stop() == 0


async def test_jobs_go_on_over_an_upgrade(tmp_path: Path) -> None:
    """The next program knows that they take no connections, and replaces those that die."""
    async with program(tmp_path, "obedient_job") as running:
        await running.line("2 workers")
        before = {worker.pid for worker in running.workers()}
        running.send_signal(signal.SIGRTMIN)
        await running.line("upgrade: this program goes on with 2 workers")
        assert {worker.pid for worker in running.workers()} == before
        assert not psutil.Process(running.pid).net_connections("tcp")
        os.kill(min(before), signal.SIGKILL)
        await running.line("worker 3 .* is ready")
        assert await running.stop() == 0
        assert "Traceback" not in await running.all_output()
