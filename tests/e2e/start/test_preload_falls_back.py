"""The zygote imports the app once for all, unless that cannot work; then each worker does."""

from pathlib import Path

import pytest

from tests.support.cluster import HTTP_APP, ask, first, kill, serving, who_answers
from tests.support.program import Program

pytestmark = pytest.mark.real_start

THREADED_APP = "tests.support.threaded_app:make_app"

NOTE = "importing the app left what no fork survives: thread 'Thread-1 (wait)'"


async def test_an_import_that_starts_a_thread_is_left_to_the_workers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is said once; the thread runs in each worker, and in each replacement."""
    async with serving(THREADED_APP) as (cluster, heard):
        answers = [await ask(cluster, "/alive") for _ in range(2)]
        dead = first(cluster)
        kill(dead.pid)
        await heard.replacement_of(dead)
        answers += [await ask(cluster, "/alive") for _ in range(2)]

    assert answers == ["True"] * 4
    assert caplog.text.count(NOTE) == 1


async def test_preload_false_imports_in_each_worker_without_a_try(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is said, since it was asked for; dead workers are replaced."""
    async with serving(THREADED_APP, preload=False) as (cluster, heard):
        answers = [await ask(cluster, "/alive") for _ in range(2)]
        dead = first(cluster)
        kill(dead.pid)
        await heard.replacement_of(dead)
        answers += [await ask(cluster, "/alive") for _ in range(2)]

    assert answers == ["True"] * 4
    assert NOTE not in caplog.text


async def test_preload_true_forks_without_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    """Who says that the fork is safe gets it, and a warning: the thread is missing there."""
    async with serving(THREADED_APP, preload=True, workers=1) as (cluster, _):
        assert await ask(cluster, "/alive") == "False"

    assert caplog.text.count(NOTE) == 1
    assert "preload=True shares it with all workers" in caplog.text


@pytest.mark.parametrize(("preload", "imports"), [("auto", 1), (True, 1), (False, 3)])
async def test_the_app_is_imported_once_or_once_a_worker(
    tmp_path: Path, preload: bool | str, imports: int
) -> None:
    """Two workers and a replacement: one import with preload, three without."""
    (tmp_path / "app.py").write_text(
        "import os\n"
        "from aiohttp import web\n"
        "os.write(1, b'imported\\n')\n"
        "def make_app():\n"
        "    os.write(1, b'made\\n')\n"
        "    return web.Application()\n"
    )
    source = (
        "import aiocluster\n"
        f"aiocluster.run('app:make_app', workers=2, bind='127.0.0.1:0', preload={preload!r})\n"
    )
    async with Program(tmp_path, source, env={"PYTHONPATH": str(tmp_path)}) as program:
        await program.url()
        kill(program.workers()[0].pid)
        await program.line("worker 3 .* is ready")
        await program.stop()
        lines = (await program.all_output()).splitlines()

    assert lines.count("imported") == imports
    assert lines.count("made") == 3


async def test_a_preloaded_app_shares_its_memory() -> None:
    """PSS, which divides shared pages by their sharers, is well below RSS."""
    async with serving(HTTP_APP, workers=4, metrics_interval=0.05) as (cluster, _):
        assert (await who_answers(cluster))["id"] == 1
        async for snapshot in cluster.subscribe(0.05):
            if all(worker.pss_bytes for worker in snapshot.workers.values()):
                break

    assert 0 < snapshot.total.pss_bytes < 0.8 * snapshot.total.rss_bytes
