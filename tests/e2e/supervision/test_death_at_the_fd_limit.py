"""The primary has not one descriptor to spare when a worker dies."""

import sys
from pathlib import Path

from tests.support.cluster import who_answers
from tests.support.program import Program

SOURCE = """
import os, resource, signal
import aiocluster
from tests.support.cluster import HTTP_APP

async def use_all_descriptors(cluster):
    first, second = cluster.workers.values()
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        print("no more:", error, flush=True)
    os.kill(first.pid, signal.SIGKILL)
    async for event in cluster.events():
        if isinstance(event, aiocluster.WorkerExited) and event.worker is second:
            print("the healthy one ended", flush=True)
        if isinstance(event, aiocluster.WorkerListening):
            print("replaced", flush=True)
            for fd in taken:
                os.close(fd)

if __name__ == "__main__":
    aiocluster.run(
        HTTP_APP, workers=2, bind="127.0.0.1:0", on_start=use_all_descriptors,
        graceful_timeout=0.5,
    )
"""


async def test_the_dead_worker_is_replaced_and_the_others_live(tmp_path: Path) -> None:
    """The descriptors that the dead one leaves are enough for the next."""
    env = {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = ["bash", "-c", f"ulimit -n 64; exec {sys.executable} program.py"]
    async with Program(tmp_path, SOURCE, command=command, env=env) as program:
        url = (await program.url()).rstrip("/")
        await program.line("no more: .* Too many open files")
        await program.line("replaced")
        slots = {(await who_answers(url))["slot"] for _ in range(2)}
        code = await program.stop()
        output = await program.all_output()

    assert slots == {0, 1}
    assert code == 0
    assert "the healthy one ended" not in output.split("stopping, within")[0]
