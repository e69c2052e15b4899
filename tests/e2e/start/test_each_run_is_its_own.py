"""A program may call `run` more than once, one after the other."""

from pathlib import Path

from tests.support.cluster import ask, kill
from tests.support.program import Program

SOURCE = """
import os, sys
from aiohttp import web
import aiocluster

def factory(name):
    def make_app():
        app = web.Application()
        app.router.add_get("/", lambda request: web.Response(text=f"{name} {os.getpid()}"))
        return app
    return make_app

if __name__ == "__main__":
    for name in sys.argv[1:]:
        os.write(1, f"next: {name}\\n".encode())
        aiocluster.run(factory(name), workers=1, bind="127.0.0.1:0")
    os.write(1, b"the program goes on\\n")
"""


async def test_a_new_zygote_of_the_second_serves_the_second(tmp_path: Path) -> None:
    """It runs the program again, and there the same call; it does not stop at the first."""
    program = Program(tmp_path, SOURCE)
    program._command += ["first", "second"]
    async with program:
        await program.url()
        program.send_signal(15)
        await program.line("next: second")
        begun = program.lines.index("next: second")
        url = (await program.line("serving on", after=begun)).split()[3]
        kill(program.zygote().pid)
        await program.line("starting a new one")
        (_, pid) = (await ask(url, "/")).split()
        kill(int(pid))
        await program.line("worker 2 .* is ready")
        answer = await ask(url, "/")
        code = await program.stop()
        output = await program.all_output()

    assert answer.startswith("second ")
    assert answer != f"second {pid}"
    assert code == 0
    assert output.count("stopping, within") == 2  # each line once, also in the second run
    assert output.count("the program goes on") == 1
