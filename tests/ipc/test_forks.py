"""What a process that is forked by the program's own code has of this one: in one of its own."""

import subprocess
import sys

PATIENCE = 60.0

PRELUDE = """
import os, resource, signal, socket, sys
from aiocluster.ipc.forks import hear_alone, hear_no_more, keep_from_children, leave_if_forked

def in_child(say):
    if (pid := os.fork()) == 0:
        try:
            print(say(), flush=True)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)

def of(fd):
    return os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]
"""


def run(code: str) -> list[str]:
    """Return the lines that this code says."""
    ended = subprocess.run(
        [sys.executable, "-c", PRELUDE + code], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.splitlines()


SOCKETS = """
one, other = socket.socketpair()
theirs, closed = socket.socket(), socket.socket()
keep_from_children(one, other, closed)
closed.close()
reused = os.open("/dev/zero", os.O_RDWR)
fds = [one.fileno(), other.fileno(), theirs.fileno(), reused]
"""


def test_our_sockets_are_closed_in_a_child() -> None:
    """Others are not, nor what has the number of one that was closed; ours stay open here."""
    code = "in_child(lambda: [*map(of, fds)])\nprint([*map(of, fds)])"

    assert run(SOCKETS + code) == [
        "['/dev/null', '/dev/null', 'socket', '/dev/zero']",
        "['socket', 'socket', 'socket', '/dev/zero']",
    ]


def test_a_child_may_close_the_objects_later() -> None:
    """What it has opened itself meanwhile is not closed with them."""
    code = (
        "def close():\n"
        "    opened = os.open('/dev/zero', os.O_RDWR)\n"
        "    one.close(); other.close()\n"
        "    return of(opened)\n"
        "in_child(close)"
    )

    assert run(SOCKETS + code) == ["/dev/zero"]


def test_they_are_closed_at_the_limit_of_descriptors_too() -> None:
    """No descriptor is to be had; nothing is left by which the other end could be held up."""
    code = (
        "resource.setrlimit(resource.RLIMIT_NOFILE, (max(fds) + 1, max(fds) + 1))\n"
        "in_child(lambda: [os.fstat(fd).st_rdev == os.fstat(reused).st_rdev for fd in fds[:2]])\n"
        "keep_from_children(theirs)\n"
        "if (pid := os.fork()) == 0:\n"
        "    os._exit(0)\n"
        "os.waitpid(pid, 0)\n"
        "one.close()\n"
        "print(other.recv(1))"
    )

    assert run(SOCKETS + code) == ["[False, False]", "b''"]


HEARING = """
def ours(number, frame): pass
def apps(number, frame): pass
reader, writer = os.pipe2(os.O_NONBLOCK)
signal.signal(signal.SIGTERM, ours)
signal.signal(signal.SIGINT, ours)
signal.signal(signal.SIGUSR1, apps)
signal.set_wakeup_fd(writer)
hear_alone([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], lambda handler: handler is ours)

def heard():
    names = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    return [getattr(one, "__name__", one) for one in names], signal.set_wakeup_fd(-1) >= 0
"""


def test_a_child_hears_no_signal_for_its_parent() -> None:
    """It has the app's handlers, and in the place of ours what Python has; no mask stays."""
    code = (
        "in_child(heard)\n"
        "in_child(lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()))\n"
        "print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), heard())"
    )

    assert run(HEARING + code) == [
        "([<Handlers.SIG_DFL: 0>, 'default_int_handler', 'apps'], False)",
        "set()",
        "set() (['ours', 'ours', 'apps'], True)",
    ]


def test_a_process_that_hears_nothing_leaves_its_children_as_they_are() -> None:
    """Nor is a grandchild touched: what its parent has set is that one's."""
    code = "hear_no_more()\nin_child(heard)"

    assert run(HEARING + code) == ["(['ours', 'ours', 'apps'], True)"]


def test_a_child_that_comes_back_ends() -> None:
    """With the code and its output; the process itself goes on."""
    code = (
        "process = os.getpid()\n"
        "leave_if_forked(process, 5)\n"
        "if (pid := os.fork()) == 0:\n"
        "    print('child')\n"
        "    leave_if_forked(process, 7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )

    assert run(code) == ["child", "7"]
