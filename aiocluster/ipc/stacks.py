"""The stacks of a worker on request: a signal asks for them, and a file in memory receives them.

The kernel delivers a signal, and faulthandler answers it, even while the worker's loop is blocked
or C code holds the interpreter; a message would be read only afterwards. Both sides have the file
from the fork on, so a request needs neither a descriptor nor a channel.
"""

import os
import re
import signal
from itertools import takewhile

# A realtime signal, which has no default use and which hardly any program chooses. C libraries
# often take the first ones for themselves. (Only Linux has realtime signals.)
STACKS_SIGNAL = getattr(signal, "SIGRTMIN", 0) + 13

# The last line that the worker writes, once its interpreter runs again.
END = b"(end of stacks)\n"

# The longest text that is returned: enough for a thousand frames.
MAX_STACKS_BYTES = 64 * 1024

# The calls that the summary of the loop's stack has: the innermost, where the loop is blocked, and
# the outermost, where the app begins.
_INNERMOST = 10
_OUTERMOST = 3

# The first line of a thread's stack, and of the tasks' stacks.
_THREAD = re.compile(r"^(Current thread|Thread) 0x.*:$")
_TASKS = re.compile(r"^(\d+) tasks of the loop")

# The call that runs the loop (worker/process_exit.py): the calls outside of it are left out.
_RUNS_THE_LOOP = " in run_to_the_end"


class StackFile:
    """A file in memory to which one worker writes its stacks, as the primary sees it.

    `fd` is the file of a worker that the previous program started; otherwise a new file is made.
    """

    def __init__(self, fd: int | None = None) -> None:
        import fcntl  # Windows has no such module

        self.fd = os.memfd_create("aiocluster-stacks", os.MFD_CLOEXEC) if fd is None else fd
        # Each write appends: two writers in the worker do not overwrite each other, and after
        # `clear` they begin at the start. The worker's duplicate shares this flag with ours.
        fcntl.fcntl(self.fd, fcntl.F_SETFL, os.O_APPEND)

    @property
    def is_complete(self) -> bool:
        """True if the worker has written all its stacks. A stopped worker never does."""
        if self.fd < 0:
            return True
        written = os.fstat(self.fd).st_size
        return os.pread(self.fd, len(END), max(written - len(END), 0)) == END

    def clear(self) -> None:
        """Empty the file, before the worker is asked. Idempotent."""
        if self.fd >= 0:
            os.ftruncate(self.fd, 0)

    def take(self) -> str:
        """Return the text of the file, at most MAX_STACKS_BYTES of it, and empty the file."""
        if self.fd < 0:
            return ""
        written, size = os.pread(self.fd, MAX_STACKS_BYTES, 0), os.fstat(self.fd).st_size
        self.clear()
        text = written.removesuffix(END).decode(errors="replace").rstrip()
        return text if size <= MAX_STACKS_BYTES else f"{text}\n(cut: {size} bytes in all)"

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def loop_stack(stacks: str) -> str:
    """Return the calls of the loop's thread, and how many other stacks there are.

    If `stacks` has no stack of a thread, all of it is returned.
    """
    lines = stacks.splitlines()
    threads = [place for place, line in enumerate(lines) if _THREAD.match(line)]
    if not threads:
        return stacks
    # faulthandler writes the newest thread first; the loop's thread is the oldest.
    calls = [*takewhile(_is_call_in_the_loop, lines[threads[-1] + 1 :])]
    tasks = next((match[1] for line in lines if (match := _TASKS.match(line))), "0")
    if (left_out := len(calls) - _INNERMOST - _OUTERMOST) > 0:
        calls[_INNERMOST:-_OUTERMOST] = [f"  ({left_out} more calls)"]
    others = f"(other threads: {len(threads) - 1}, tasks: {tasks})"
    return "\n".join(["The loop's thread (most recent call first):", *calls, others])


def _is_call_in_the_loop(line: str) -> bool:
    return line.startswith("  ") and not line.endswith(_RUNS_THE_LOOP)
