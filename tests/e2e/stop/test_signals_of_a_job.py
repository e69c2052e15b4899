"""`kill -TTIN %1`: a shell with job control sends a signal to all processes of a job.

The job's process group has a member whose parent is the shell, so the kernel stops who is sent
TTIN or TTOU and does not care for it; it would not in the group of a service.
"""

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.support.program import Program
from tests.support.wire import Wire

SHELL = """
import subprocess, sys
job = subprocess.Popen([sys.executable, "job.py"], process_group=0)
print("job", job.pid, flush=True)
sys.exit(job.wait())
"""

JOB = """
from aiohttp import web
import aiocluster

async def hello(request):
    return web.Response(text="hello")

def make_app():
    app = web.Application()
    app.router.add_get("/", hello)
    return app

if __name__ == "__main__":
    aiocluster.run(make_app, workers=2, bind="127.0.0.1:0", preload={preload})
"""


@pytest.mark.parametrize("preload", [True, False])
async def test_a_job_is_scaled_and_stays(tmp_path: Path, preload: bool) -> None:
    """Neither the zygote nor a worker is stopped: one more is forked, one goes, all serve."""
    (tmp_path / "job.py").write_text(JOB.format(preload=preload))
    async with Program(tmp_path, SHELL, command=[sys.executable, "program.py"]) as shell:
        job = await job_of(shell)
        url = await shell.url()

        os.killpg(job, signal.SIGTTIN)
        await shell.line(r"worker 3 \(pid \d+\) is ready")
        os.killpg(job, signal.SIGTTOU)
        await shell.line(r"worker 3 \(pid \d+\) exited with code 0 \(scale_down\)")

        for _ in range(2):
            async with Wire(url) as wire:
                assert (await wire.get()).body == b"hello"
        os.killpg(job, signal.SIGTERM)
        assert await shell.exit_code() == 0
        assert "has not turned" not in await shell.all_output()


async def job_of(shell: Program) -> int:
    found = re.search(r"job (\d+)", await shell.line(r"job \d+"))
    assert found is not None
    return int(found[1])
