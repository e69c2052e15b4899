"""A script that calls `aiocluster.run` itself, started by the command: it is the program.

Nothing tells that before it has run as far as that call. So it is first run in a zygote, like any
other script, and then the command starts over, in the same process, and runs it as the program.
"""

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from aiocluster.config.script import Script
from aiocluster.program.run import typed
from aiocluster.program.signals import handled_signals
from aiocluster.zygote.script import run_script

# The hidden option of the command that says so.
AS_PROGRAM = "--as-program"


def start_over() -> NoReturn:
    """Put the command, with AS_PROGRAM among its options, in the place of this one."""
    prefix, (command, *rest) = sys.orig_argv[: -len(sys.argv[1:])], sys.argv[1:]
    # No process is left; what comes now means what it means for any program that starts.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handled_signals())
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *prefix[1:], command, AS_PROGRAM, *rest])


def run_program(script: Script, on_start: str | None, settings: Mapping[str, Any]) -> None:
    """Run it to its end. What is given here comes before what it gives to `aiocluster.run`."""
    typed.settings, typed.on_start = settings, on_start
    run_script(script)
