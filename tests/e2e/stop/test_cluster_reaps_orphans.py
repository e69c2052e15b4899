"""A Cluster in a running loop leaves no zombie of an orphan either, also without its zygote."""

import psutil

from tests.support.cluster import ask, first, kill, serving
from tests.support.program import until


async def test_an_orphan_that_a_handler_left_is_adopted_and_reaped() -> None:
    """The program of the Cluster becomes its parent, so the cluster has to reap it."""
    async with serving(workers=1) as (cluster, _):
        orphan = int(await ask(cluster, "/orphan"))
        kill(psutil.Process(first(cluster).pid).ppid())
        await until(
            lambda: psutil.Process(orphan).ppid() == psutil.Process().pid, "nobody adopts it"
        )
        kill(orphan)
        await until(lambda: not psutil.pid_exists(orphan), "it stays a zombie")
