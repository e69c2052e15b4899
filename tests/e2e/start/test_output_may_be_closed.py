"""A service does not depend on anybody reading what it prints."""

import signal
import sys
from pathlib import Path

import pytest

from tests.support.cluster import ask, kill
from tests.support.program import Program, until

SOURCE = """
import os, sys
from aiohttp import web
import aiocluster

def say(what):
    with open("said", "a") as file:
        file.write(f"{what}\\n")

async def serving(cluster):
    say(f"pid {os.getpid()}")
    say("serving on http://%s:%d" % cluster.addresses[0])

async def pid(request):
    print("printed by a worker")
    return web.Response(text=str(os.getpid()))

def make_app():
    app = web.Application()
    app.router.add_get("/", pid)
    return app

if __name__ == "__main__":
    try:
        aiocluster.run(make_app, workers=2, bind="127.0.0.1:0", on_start=serving)
    finally:
        say(f"ended in {os.getpid()}")
"""


# So that what is printed meets the closed output at a flush, not where it is printed.
BUFFERED = {"PYTHONUNBUFFERED": ""}


async def said(folder: Path, what: str) -> str:
    """Wait until the program has said `what` in its file; return the rest of that line."""
    file = folder / "said"

    def find() -> str | None:
        lines = file.read_text().splitlines() if file.exists() else []
        return next((line for line in lines if line.startswith(what)), None)

    await until(lambda: find() is not None, f"it did not say {what!r}")
    return (find() or "").removeprefix(what).strip()


@pytest.mark.parametrize(
    "output", [">&-", "2>&-", ">&- 2>&-", ">/dev/full", ">/dev/full 2>&1", "| true", "2>&1 | true"]
)
async def test_it_serves_and_stops_well_without_its_output(tmp_path: Path, output: str) -> None:
    """Closed, full, or a pipe whose reader has gone; what follows `run` runs once."""
    line = f"set -o pipefail; {sys.executable} program.py {output}; echo code $? >> said"
    async with Program(tmp_path, SOURCE, command=["bash", "-c", line], env=BUFFERED):
        url = await said(tmp_path, "serving on")
        answers = {await ask(url, "/") for _ in range(2)}
        kill(int(await said(tmp_path, "pid")), signal.SIGTERM)
        code = await said(tmp_path, "code")

    assert code == "0"
    assert len(answers) == 2
    assert (tmp_path / "said").read_text().count("ended in") == 1
