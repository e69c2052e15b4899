"""Stopped before it has even started."""

import signal
import sys
from pathlib import Path

import pytest

from tests.support.program import Program

SLOW_IMPORT = """
import os, time
os.write(1, b"importing\\n")
time.sleep(1000)
"""

# The first import, in the zygote, finds a thread; then each worker imports for itself.
SLOW_IMPORT_IN_EACH_WORKER = """
import os, threading, time
from pathlib import Path
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
if Path("tried").exists():
    os.write(1, b"importing\\n")
    time.sleep(1000)
Path("tried").touch()
make_app = dict
"""

SLOW_FACTORY = """
import asyncio, os
async def make_app():
    os.write(1, b"importing\\n")
    await asyncio.Event().wait()
"""

BLOCKED_FACTORY = """
import os, time
def make_app():
    os.write(1, b"importing\\n")
    time.sleep(1000)
"""

SLOW_STARTUP = """
import asyncio, os
from aiohttp import web
async def connect(app):
    os.write(1, b"importing\\n")
    await asyncio.Event().wait()
def make_app():
    app = web.Application()
    app.on_startup.append(connect)
    return app
"""

MODULES = {
    "import": SLOW_IMPORT,
    "import in each worker": SLOW_IMPORT_IN_EACH_WORKER,
    "factory": SLOW_FACTORY,
    "blocked factory": BLOCKED_FACTORY,
    "on_startup": SLOW_STARTUP,
}

OPTIONS = ["-w", "2", "-b", "127.0.0.1:0"]
COMMAND = [sys.executable, "-m", "aiocluster", "run", "shop:make_app", *OPTIONS]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("what", MODULES)
async def test_stop_while_booting_is_prompt(
    tmp_path: Path, what: str, number: signal.Signals
) -> None:
    """However long it would still take, it ends with 0, without a traceback or a process left."""
    program = Program(tmp_path, command=COMMAND)
    program.write("shop.py", MODULES[what])
    async with program:
        await program.line("^importing$")
        # To all of its processes, as a terminal does: the children must leave it to the primary.
        program.signal_group(number)
        assert await program.exit_code() == 0
        output = await program.all_output()
        assert program.left_behind() == []

    assert "Traceback" not in output
    assert "could not start" not in output
    assert "serving on" not in output
    assert output.count("stopping before anything serves") == 1
