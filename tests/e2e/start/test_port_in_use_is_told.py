"""The most usual mistake of all."""

import re
import socket
import sys
from pathlib import Path

from tests.support.ports import unused_port
from tests.support.program import Program, until

SOURCE = """
from aiohttp import web
import aiocluster

def make_app():
    print("the factory was called", flush=True)
    return web.Application()

if __name__ == "__main__":
    aiocluster.run(make_app, workers=4, bind=["127.0.0.1:0", "127.0.0.1:{port}"])
"""

SLOW_MODULE = """
import os, time
from aiohttp import web

print("importing", flush=True)
while not os.path.exists("gate"):
    time.sleep(0.01)

def make_app():
    return web.Application()
"""


async def test_a_port_in_use_ends_it_with_3_and_the_cause(tmp_path: Path) -> None:
    """It says which address and why, once, calls no factory and leaves no process."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with Program(tmp_path, SOURCE.format(port=port)) as program:
            assert await program.exit_code() == 3
            output = await program.all_output()
            await until(lambda: program.left_behind() == [], "its zygote is gone")

    assert output.count(f"cannot bind 127.0.0.1:{port}: Address already in use") == 1
    assert "Traceback" not in output
    assert "the factory was called" not in output
    assert "serving on" not in output


async def test_a_port_taken_while_the_app_was_imported_ends_it_with_3(tmp_path: Path) -> None:
    """Of two that are started at once one serves; the other says why it does not."""
    port = unused_port()
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "shop.py").write_text(SLOW_MODULE)
    run = f"-m aiocluster run shop:make_app -w 1 -b 127.0.0.1:{port}"
    command = [sys.executable, *run.split()]
    async with Program(one, command=command) as first, Program(other, command=command) as second:
        await first.line("importing")
        await second.line("importing")
        first.write("gate")
        await first.url()
        second.write("gate")
        assert await second.exit_code() == 3
        output = await second.all_output()
        assert await first.stop() == 0

    # Its app may have been imported before it had come to bind.
    told = rf"cannot (?:bind|listen on) 127\.0\.0\.1:{port}: Address already in use"
    assert len(re.findall(told, output)) == 1
    assert "Traceback" not in output
