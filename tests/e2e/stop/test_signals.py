"""What a terminal, an operator or a stray process may send."""

import signal
from pathlib import Path

from tests.support.program import Program
from tests.support.wire import Wire

SOURCE = """
from aiohttp import web
import aiocluster

async def hello(request):
    return web.Response(text="hello")

def make_app():
    app = web.Application()
    app.router.add_get("/", hello)
    return app

if __name__ == "__main__":
    aiocluster.run(make_app, workers=2, bind="127.0.0.1:0")
"""

RELOAD = {signal.SIGHUP, signal.SIGUSR2, signal.SIGRTMIN}  # or upgrade
SCALE = {signal.SIGTTIN, signal.SIGTTOU}
STOP = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
UNCATCHABLE = {signal.SIGKILL, signal.SIGSTOP}
JOB_CONTROL = {signal.SIGTSTP, signal.SIGCONT}
FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}


async def test_a_stray_signal_changes_nothing(tmp_path: Path) -> None:
    """After every catchable signal, one by one, the same workers serve; INT then ends it with 0."""
    known = STOP | RELOAD | SCALE
    stray = signal.valid_signals() - known - UNCATCHABLE - JOB_CONTROL - FAULTS
    async with Program(tmp_path, SOURCE) as program:
        url = await program.url()
        before = {process.pid for process in program.descendants()}
        for number in sorted(stray):
            program.send_signal(number)
            async with Wire(url) as wire:
                assert (await wire.get()).body == b"hello", number
        assert {process.pid for process in program.descendants()} == before
        assert await program.stop(signal.SIGINT) == 0
        assert "Traceback" not in await program.all_output()
        assert program.left_behind() == []


async def test_a_stray_signal_to_all_processes_changes_nothing(tmp_path: Path) -> None:
    """USR1 and such may come by pkill."""
    async with Program(tmp_path, SOURCE) as program:
        url = await program.url()
        before = {process.pid for process in program.descendants()}
        for number in (signal.SIGUSR1, signal.SIGUSR1):
            program.signal_group(number)
            for _ in range(2):
                async with Wire(url) as wire:
                    assert (await wire.get()).body == b"hello", number
        assert {process.pid for process in program.descendants()} == before
        assert await program.stop(signal.SIGINT) == 0
