"""A reload, an upgrade and a new zygote find the program, or the app, wherever it was started."""

import os
import re
import shutil
import signal
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.cluster import ask, kill
from tests.support.program import Program, until

REPOSITORY = str(Path(__file__).parents[3])

SHOP = """
from aiohttp import web

async def hello(request):
    return web.Response(text={text!r})

def make_app():
    app = web.Application()
    app.router.add_get("/", hello)
    return app
"""

RUN = """
import aiocluster
if __name__ == "__main__":
    aiocluster.run({app}, workers=1, bind="127.0.0.1:0", min_uptime=0.1)
"""

COMMAND = ["-m", "aiocluster", "run", "shop:make_app", "-w1", "-b127.0.0.1:0", "--min-uptime=0.1"]


def write_release(folder: Path, number: str) -> Path:
    """Write one release of the program; return its folder."""
    release = folder / "releases" / number
    release.mkdir(parents=True)
    (release / "shop.py").write_text(SHOP.format(text=number))
    (release / "serve.py").write_text(SHOP.format(text=number) + RUN.format(app="make_app"))
    return release


@pytest.mark.parametrize("way", ["script", "import string", "chdir"])
async def test_a_reload_finds_the_release_that_a_link_leads_to_now(
    tmp_path: Path, way: str
) -> None:
    """The program was started in `current`, or is told of it; the old release is gone already."""
    old, current = write_release(tmp_path, "7"), tmp_path / "current"
    current.symlink_to(old)
    command = {
        "script": ["serve.py"],
        "import string": COMMAND,
        "chdir": [*COMMAND, f"--chdir={current}"],
    }[way]
    folder = tmp_path if way == "chdir" else current
    env = {"PYTHONPATH": REPOSITORY, "PWD": str(folder)}
    async with Program(folder, command=[sys.executable, *command], env=env) as program:
        url = (await program.url()).rstrip("/")
        assert await ask(url) == "7"

        new = write_release(tmp_path, "8")
        (tmp_path / "next").symlink_to(new)
        (tmp_path / "next").replace(current)
        shutil.rmtree(old)
        program.send_signal(signal.SIGHUP)
        await program.line("reload: generation 2 serves")

        assert await ask(url) == "8"
        await program.line(f"the app was imported from {new}$")
        assert await program.stop() == 0


LAUNCHER = (
    SHOP.format(text="hello")
    + """
import multiprocessing, sys
import aiocluster

def serve():
    aiocluster.run({app}, workers=1, bind="127.0.0.1:0", min_uptime=0.1)

if __name__ == "__main__":
    print("launcher begins", flush=True)
    process = multiprocessing.get_context(sys.argv[1]).Process(target=serve)
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""
)


@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])
async def test_a_reload_works_in_a_process_of_multiprocessing(tmp_path: Path, how: str) -> None:
    """What such a process was started with is its parent's: none of that is run again."""
    source = LAUNCHER.replace("{app}", "make_app")
    command = [sys.executable, "program.py", how]
    async with Program(tmp_path, source, command=command) as program:
        url = (await program.url()).rstrip("/")
        await program.line("an upgrade is not possible: .* multiprocessing has started it")
        serving = re.search(r"\(pid (\d+)\)", await program.line("serving on"))
        assert serving is not None
        kill(int(serving[1]), signal.SIGHUP)
        await program.line("reload: generation 2 serves")
        assert await ask(url) == "hello"
        kill(int(serving[1]), signal.SIGTERM)
        assert await program.exit_code() == 0
        assert (await program.all_output()).count("launcher begins") == 1


async def test_what_cannot_be_run_again_is_said_and_nothing_runs_in_its_place(
    tmp_path: Path,
) -> None:
    """At the start, and by each attempt. Workers go on; at the last one's end the program ends."""
    source = "print('the program begins', flush=True)\n" + SHOP.format(text="hello")
    source += RUN.format(app="make_app")
    command = ["sh", "-c", f"exec {sys.executable} - < program.py"]
    async with Program(tmp_path, source, command=command) as program:
        url = (await program.url()).rstrip("/")
        await program.line("WARNING this program cannot be run again: it was read from standard in")
        worker = program.workers()[0].pid
        for number, failure in [
            (signal.SIGHUP, "generation 2 is given up, nothing has changed: this program cannot"),
            (signal.SIGRTMIN, "upgrade: it is given up, nothing has changed: this program cannot"),
            (signal.SIGKILL, "no new zygote: this program cannot be run again"),
        ]:
            kill(program.zygote().pid if number == signal.SIGKILL else program.pid, number)
            await program.line(failure)
            assert await ask(url) == "hello"

        kill(worker)
        await program.line("slot 0 stays empty: this program cannot be run again")
        assert await program.exit_code() == 1
        assert (await program.all_output()).count("the program begins") == 1


async def new_zygote(program: Program) -> str:
    """Kill the only zygote, once it is that; return where the next has imported the app from."""
    await until(lambda: len(psutil.Process(program.pid).children()) == 1, "two zygotes")
    known = len(program.lines)
    kill(program.zygote().pid)
    return (await program.line("the app was imported from", after=known)).rpartition(" ")[2]


async def test_an_import_string_needs_no_program(tmp_path: Path) -> None:
    """Not for a reload, nor for a new zygote, though the program was read from standard input."""
    source = "print('the program begins', flush=True)\n" + RUN.format(app="'shop:make_app'")
    command = ["sh", "-c", f"exec {sys.executable} -X dev -W ignore - < program.py"]
    program = Program(tmp_path, source, command=command)
    program.write("shop.py", SHOP.format(text="old"))
    async with program:
        url = (await program.url()).rstrip("/")
        program.write("shop.py", SHOP.format(text="new"))
        program.send_signal(signal.SIGHUP)
        await program.line("reload: generation 2 serves")
        assert await ask(url) == "new"
        await new_zygote(program)
        assert await program.stop() == 0
        assert (await program.all_output()).count("the program begins") == 1


async def test_a_package_that_leaves_its_folder_is_found_again(tmp_path: Path) -> None:
    """`python -m pkg`: by a reload, by a new zygote and by an upgrade, with what is relative."""
    source = "import os, aiocluster\n" + SHOP.format(text="hello")
    source += "if __name__ == '__main__':\n    open('settings').close()\n    os.chdir('/')\n"
    source += RUN.format(app="make_app").partition("__main__")[2].partition("\n")[2]
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__main__.py").write_text(source)
    program = Program(
        tmp_path,
        command=[sys.executable, "-m", "pkg"],
        env={"PYTHONPATH": REPOSITORY, "PWD": os.fspath(tmp_path)},
    )
    program.write("settings")
    async with program:
        url = (await program.url()).rstrip("/")
        program.send_signal(signal.SIGHUP)
        await program.line("reload: generation 2 serves")
        assert await new_zygote(program) == str(tmp_path)
        program.send_signal(signal.SIGRTMIN)
        await program.line("upgrade: this program goes on with 1 workers")
        assert await ask(url) == "hello"
        assert await program.stop() == 0
