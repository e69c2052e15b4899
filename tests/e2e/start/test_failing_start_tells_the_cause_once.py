"""A start that fails says why, once, however many workers there are, and ends."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.program import Program

APP = """
from aiohttp import web
def make_app():
"""


@dataclass(frozen=True)
class Failure:
    """A module that cannot be served, and what is to be read about it."""

    module: str
    cause: str
    place: str = ""  # of the traceback; without one there is to be no traceback
    options: str = ""
    code: int = 3


FAILURES = {
    "module not importable": Failure(
        "import os\nimport no_such_thing\n",
        "ModuleNotFoundError: No module named 'no_such_thing'",
        'shop.py", line 2',
    ),
    "syntax error": Failure(
        "def make_app(:\n    pass\n",
        "SyntaxError: invalid syntax",
        'shop.py", line 1',
    ),
    "import raises": Failure("1 / 0\n", "ZeroDivisionError: division by zero", 'shop.py", line 1'),
    "import exits": Failure(
        "import sys\nsys.exit('no licence')\n",
        "shop:make_app exited with code 1 before it served: no licence",
        code=1,
    ),
    "factory raises": Failure(
        APP + "    raise LookupError('no database')\n",
        "LookupError: no database",
        'shop.py", line 4, in make_app',
    ),
    "async factory raises": Failure(
        "async def make_app():\n    raise LookupError('no database')\n",
        "LookupError: no database",
        'shop.py", line 2, in make_app',
    ),
    "on_startup raises": Failure(
        """
from aiohttp import web
async def connect(app):
    raise ConnectionRefusedError("no database")
def make_app():
    app = web.Application()
    app.on_startup.append(connect)
    return app
""",
        "ConnectionRefusedError: no database",
        'shop.py", line 4, in connect',
    ),
    "not a web app": Failure(
        "def make_app():\n    return 42\n",
        "make_app() returned 42, an int; expected an aiohttp.web.Application",
    ),
    "nothing to call": Failure("make_app = 42\n", "is an int; expected an aiohttp.web.Application"),
    "request handler": Failure(
        "async def make_app(request):\n    pass\n",
        "make_app is a request handler, for it takes 'request'; give a function without parameters",
    ),
    "request handler, imported in each worker": Failure(
        "async def make_app(request):\n    pass\n",
        "make_app is a request handler, for it takes 'request'; give a function without parameters",
        options="--preload false",
    ),
    "on_start takes nothing": Failure(
        APP + "    return web.Application()\nasync def hook():\n    pass\n",
        "on_start: 'shop:hook' must take one argument, the cluster",
        options="--on-start shop:hook",
    ),
    "no such name": Failure("x = 1\n", "module 'shop' has no 'make_app'"),
    "no such module": Failure("", "there is no module 'shop' on the path"),
    "factory ends the process": Failure(
        "import os\ndef make_app():\n    os._exit(7)\n", "exited with code 7 before it was ready"
    ),
    "factory exits": Failure(
        "import sys\ndef make_app():\n    sys.exit(7)\n",
        "the app exited with code 7 before it served",
        code=7,
    ),
    "factory hangs": Failure(
        "import asyncio\nasync def make_app():\n    await asyncio.Event().wait()\n",
        "boot_timeout",
        options="--boot-timeout 1",
    ),
    "factory blocks": Failure(
        "import time\ndef make_app():\n    time.sleep(1000)\n",
        "boot_timeout",
        options="--boot-timeout 1",
    ),
    "import hangs": Failure(
        "import time\ntime.sleep(1000)\n",
        "importing the app took longer than 1 s",
        options="--boot-timeout 1",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_a_failing_start_tells_the_cause_once(tmp_path: Path, name: str) -> None:
    """The exit code, the cause and its traceback once for four workers, and no process left."""
    failure = FAILURES[name]
    line = f"-m aiocluster run shop:make_app -w 4 -b 127.0.0.1:0 {failure.options}"
    program = Program(tmp_path, command=[sys.executable, *line.split()])
    if failure.module:
        program.write("shop.py", failure.module)
    async with program:
        assert await program.exit_code() == failure.code
        output = await program.all_output()
        assert program.left_behind() == []

    (told,) = [line for line in program.lines if "could not start: " in line]
    assert failure.cause in told
    assert output.count("Traceback (most recent call last)") == (1 if failure.place else 0)
    assert output.count(failure.cause) == (2 if failure.place else 1)  # ends the traceback, too
    assert failure.place in output
    assert "serving on" not in output
