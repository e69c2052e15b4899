"""A worker whose code has broken a wire to the primary is replaced, and finishes what it has."""

import logging
import signal

import pytest

from tests.support.breaking import FAULTS_OF
from tests.support.cluster import Client, first, kill, serving, who_answers

APP = "tests.support.breaking:make_app"

# A fault is told by the process that finds it; where it is the primary, the worker says beside it
# that it is disconnected. And then its end, and its successor.
FEW_LINES = 5


async def test_each_kind_of_fault_has_the_only_worker_replaced(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """At once, with a few lines in the log, while a request that is under way is finished."""
    caplog.set_level(logging.INFO, "aiocluster")
    async with serving(APP, workers=1, max_failures=1e6, idle_grace=0) as (cluster, heard):
        for wire, faults in FAULTS_OF.items():
            for fault in faults:
                worker = first(cluster)
                caplog.clear()
                capfd.readouterr()
                async with await Client.connect(cluster) as client:
                    assert await client.get(f"/break/{wire}/{fault}") == str(worker.pid)
                    exited = await heard.exit_of(worker)
                await heard.replacement_of(worker)
                lines = [*caplog.messages, *capfd.readouterr().err.splitlines()]

                assert (fault, exited.code, exited.reason) == (fault, 0, "disconnected")
                assert (fault, (await who_answers(cluster))["id"] != worker.id) == (fault, True)
                assert len(lines) <= FEW_LINES, lines

        # It is found by its figures; a reload goes on meanwhile.
        worker = first(cluster)
        async with await Client.connect(cluster) as client:
            assert await client.get("/spoil") == str(worker.pid)
            await cluster.reload()
            exited = await heard.exit_of(worker)
        assert exited.reason in ("disconnected", "reload")
        assert "cannot be right in what it counts" in caplog.text

        # One that has long to do yet is not waited for.
        worker = first(cluster)
        async with await Client.connect(cluster) as client:
            client.send("/break/handoff/close?hold")
            successor = await heard.replacement_of(worker)
            assert (await who_answers(cluster))["id"] == successor.id
            assert not worker.is_dead
            kill(worker.pid, signal.SIGUSR1)
            assert await client.answer() == str(worker.pid)
        assert (await heard.exit_of(worker)).reason == "disconnected"


async def test_a_worker_whose_loop_lacks_a_descriptor_is_replaced(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It would lose each connection that gets the number of that descriptor, for ever."""
    async with serving(APP, workers=1, idle_grace=0) as (cluster, heard):
        worker = first(cluster)
        async with await Client.connect(cluster) as client:
            assert await client.get("/break_loop") == str(worker.pid)
        await heard.exit_of(worker)
        await heard.replacement_of(worker)
        assert (await who_answers(cluster))["id"] != worker.id
    assert "of the event loop: the app has closed a descriptor" in capfd.readouterr().err
