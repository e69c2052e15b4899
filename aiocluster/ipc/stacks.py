"""The stacks of a worker, on request: a signal asks for them, a file in memory brings them.

The kernel delivers a signal, and faulthandler answers it, also while the worker's loop is
blocked and while some C code holds the interpreter; a message would only be read afterwards.
Both sides have the file from the fork on, so that asking takes no descriptor and no channel.
"""

import os
import re
import signal
from itertools import takewhile

# A realtime signal: no default use anywhere, and hardly any program chooses one. Not the
# first ones, which C libraries like to take for themselves. (Only Linux has any.)
STACKS_SIGNAL = getattr(signal, "SIGRTMIN", 0) + 13

# What the worker writes last, when the interpreter gets to it.
END = b"(end of stacks)\n"

# More than that nobody reads; a thousand frames have room.
MAX_STACKS_BYTES = 64 * 1024

# The calls of the loop's stack that its summary has: the innermost, where it is blocked, and the
# outermost, where the app begins.
_INNERMOST = 10
_OUTERMOST = 3

# The first line of a thread's stack, and of those of the tasks.
_THREAD = re.compile(r"^(Current thread|Thread) 0x.*:$")
_TASKS = re.compile(r"^(\d+) tasks of the loop")

# The call that runs the loop (worker/process_exit.py): those outside of it say nothing.
_RUNS_THE_LOOP = " in run_to_the_end"


class StackFile:
    """The primary's side: what one worker writes when it is asked.

    `fd` is the file of a worker that another program had; else a new one is made.
    """

    def __init__(self, fd: int | None = None) -> None:
        import fcntl  # which Windows does not have

        self.fd = os.memfd_create("aiocluster-stacks", os.MFD_CLOEXEC) if fd is None else fd
        # Whoever writes appends: two writers there take turns, and after `clear` they begin
        # at the beginning. The worker's duplicate shares this with ours.
        fcntl.fcntl(self.fd, fcntl.F_SETFL, os.O_APPEND)

    @property
    def is_complete(self) -> bool:
        """Has the worker written all it has to say? One that cannot never does."""
        if self.fd < 0:
            return True
        written = os.fstat(self.fd).st_size
        return os.pread(self.fd, len(END), max(written - len(END), 0)) == END

    def clear(self) -> None:
        """Forget what was written, before the worker is asked. Idempotent."""
        if self.fd >= 0:
            os.ftruncate(self.fd, 0)

    def take(self) -> str:
        """Return what is written, at most MAX_STACKS_BYTES of it, and forget it."""
        if self.fd < 0:
            return ""
        written, size = os.pread(self.fd, MAX_STACKS_BYTES, 0), os.fstat(self.fd).st_size
        self.clear()
        text = written.removesuffix(END).decode(errors="replace").rstrip()
        return text if size <= MAX_STACKS_BYTES else f"{text}\n(cut: {size} bytes in all)"

    def close(self) -> None:
        """Close it. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def loop_stack(stacks: str) -> str:
    """Return the calls of the loop's thread, and how many other stacks there are.

    All of `stacks` where it has no thread's.
    """
    lines = stacks.splitlines()
    threads = [place for place, line in enumerate(lines) if _THREAD.match(line)]
    if not threads:
        return stacks
    # faulthandler writes the newest thread first; the loop's is the first there was.
    calls = [*takewhile(_is_call_in_the_loop, lines[threads[-1] + 1 :])]
    tasks = next((match[1] for line in lines if (match := _TASKS.match(line))), "0")
    if (left_out := len(calls) - _INNERMOST - _OUTERMOST) > 0:
        calls[_INNERMOST:-_OUTERMOST] = [f"  ({left_out} more calls)"]
    others = f"(other threads: {len(threads) - 1}, tasks: {tasks})"
    return "\n".join(["The loop's thread (most recent call first):", *calls, others])


def _is_call_in_the_loop(line: str) -> bool:
    return line.startswith("  ") and not line.endswith(_RUNS_THE_LOOP)
