"""What one reads in the terminal."""

import re
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.support.program import Program

SOURCE = """
from aiohttp import web
import aiocluster

if __name__ == "__main__":
    aiocluster.run(web.Application, workers={workers}, bind="127.0.0.1:0")
"""


@pytest.mark.parametrize(("workers", "words"), [(1, "1 worker"), (3, "3 workers")])
async def test_start_says_where_how_many_and_how_to_stop(
    tmp_path: Path, workers: int, words: str
) -> None:
    """One line has the real URL, the number of workers and a `kill` that stops it."""
    async with Program(tmp_path, SOURCE.format(workers=workers)) as program:
        line = await program.line("serving on")
        match = re.search(r"serving on (http://127\.0\.0\.1:\d+) with (\d+ workers?) ", line)
        assert match is not None
        assert match[2] == words
        async with aiohttp.ClientSession() as session, session.get(match[1]) as response:
            assert response.status == 404  # an app without routes
        assert len(program.workers()) == workers
        assert "Ctrl-C" in line
        assert f"`kill {program.pid}`" in line
        assert await program.stop(signal.SIGTERM) == 0
        assert (await program.all_output()).count("serving on") == 1
