"""A script that the command starts and that calls `aiocluster.run` itself: it is the program.

This is known only once the script reaches that call. So the script first runs in a zygote, like
any other script. Then the command starts over, in the same process, and runs it as the program.
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

# The hidden option of the command that makes the script the program.
AS_PROGRAM = "--as-program"


def start_over() -> NoReturn:
    """Replace this process by the same command with the option AS_PROGRAM."""
    prefix, (command, *rest) = sys.orig_argv[: -len(sys.argv[1:])], sys.argv[1:]
    # No child process is left; from here signals have the effects they have at any program's start.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handled_signals())
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *prefix[1:], command, AS_PROGRAM, *rest])


def run_program(script: Script, on_start: str | None, settings: Mapping[str, Any]) -> None:
    """Run the script to its end. These settings override those it gives to `aiocluster.run`."""
    typed.settings, typed.on_start = settings, on_start
    run_script(script)
