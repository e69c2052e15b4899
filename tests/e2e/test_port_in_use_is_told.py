"""The most usual mistake of all."""

import socket
from pathlib import Path

from tests.support.program import Program

SOURCE = """
from aiohttp import web
import aiocluster

def make_app():
    print("the factory was called", flush=True)
    return web.Application()

if __name__ == "__main__":
    aiocluster.run(make_app, workers=4, bind=["127.0.0.1:0", "127.0.0.1:{port}"])
"""


async def test_a_port_in_use_ends_it_with_3_and_the_cause(tmp_path: Path) -> None:
    """It says which address and why, once, calls no factory and leaves no process."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with Program(tmp_path, SOURCE.format(port=port)) as program:
            assert await program.exit_code() == 3
            output = await program.all_output()
            assert program.left_behind() == []

    assert output.count(f"cannot bind 127.0.0.1:{port}: Address already in use") == 1
    assert "Traceback" not in output
    assert "the factory was called" not in output
    assert "serving on" not in output
