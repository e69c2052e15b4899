"""What stops an import, in a process of its own: the signals act on the whole of it."""

import signal
import socket
import subprocess
import sys

import pytest

from aiocluster.ipc.hangup import is_hung_up

PRELUDE = """
import asyncio, multiprocessing, os, signal, socket, sys, time
from aiocluster.ipc.hangup import ImportStopped, die_of, stopped_by_hangup

def say(*what):
    print(*what, flush=True)

kind = getattr(socket, sys.argv[1])
ours, theirs = socket.socketpair(socket.AF_UNIX, kind)

def hang_up_soon():
    if os.fork() == 0:
        # The other process of two that have this end is the one that closes it last.
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        time.sleep(1000)
    ours.close()
"""

KINDS = ["SOCK_SEQPACKET", "SOCK_STREAM"]  # a zygote's socket, and a worker's channel


def run(code: str, kind: str = KINDS[0]) -> list[str]:
    """Return the lines that this code says."""
    ended = subprocess.run(
        [sys.executable, "-c", PRELUDE + code, kind],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


IMPORTS = {
    "sleeps": "time.sleep(1000)",
    "computes": "[None for _ in iter(int, 1)]",
    "runs a loop": "asyncio.run(asyncio.sleep(1000))",
    "runs one of uvloop": "import uvloop; uvloop.run(asyncio.sleep(1000))",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", IMPORTS)
def test_an_import_ends_when_the_other_end_is_closed(what: str, kind: str) -> None:
    """Whatever it does, as long as it is Python or a call that a signal interrupts."""
    code = (
        "try:\n"
        "    with stopped_by_hangup(theirs, term=False):\n"
        "        hang_up_soon()\n"
        f"        {IMPORTS[what]}\n"
        "except ImportStopped:\n"
        "    say('stopped')\n"
    )

    assert run(code, kind) == ["stopped"]


def test_an_import_that_begins_too_late_is_stopped_at_once() -> None:
    """The primary may be gone before the kernel is asked."""
    code = (
        "ours.close()\n"
        "try:\n"
        "    with stopped_by_hangup(theirs, term=False):\n"
        "        say('begun')\n"
        "except ImportStopped:\n"
        "    say('stopped')\n"
    )

    assert run(code) == ["stopped"]


def test_what_the_primary_says_meanwhile_changes_nothing() -> None:
    """A message is read later."""
    code = (
        "with stopped_by_hangup(theirs, term=False):\n"
        "    ours.send(b'drain')\n"
        "    time.sleep(0.01)\n"
        "say(theirs.recv(100))\n"
    )

    assert run(code) == ["b'drain'"]


def test_a_hangup_after_the_import_changes_nothing() -> None:
    """The socket is read by then, and the signal would be one that ends a process."""
    code = (
        "with stopped_by_hangup(theirs, term=False):\n"
        "    pass\n"
        "ours.close()\n"
        "time.sleep(0.01)\n"
        "say('lives', signal.getsignal(signal.SIGIO) is signal.SIG_DFL)\n"
    )

    assert run(code) == ["lives True"]


@pytest.mark.parametrize(("term", "said"), [(True, "stopped"), (False, "goes on")])
def test_a_term_is_heard_or_left_to_the_primary(term: bool, said: str) -> None:
    """A worker goes when it is told to; a zygote only when the primary does."""
    code = (
        "try:\n"
        f"    with stopped_by_hangup(theirs, term={term}):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        say('goes on')\n"
        "except ImportStopped:\n"
        "    say('stopped')\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"  # a second one has nothing to stop any more
    )

    assert run(code) == [said]


def test_a_process_that_the_import_forked_dies_of_a_term() -> None:
    """It has the handler by the fork, and whoever ends it has a right to."""
    code = (
        "context = multiprocessing.get_context('fork')\n"
        "runs = context.Event()\n"
        "with stopped_by_hangup(theirs, term=False):\n"
        "    child = context.Process(target=lambda: (runs.set(), time.sleep(1000)))\n"
        "    child.start()\n"
        "    runs.wait()\n"
        "    child.terminate()\n"
        "    child.join()\n"
        "    say(child.exitcode)\n"
    )

    assert run(code) == [str(-signal.SIGTERM)]


def test_a_process_may_die_of_a_signal_that_it_handles() -> None:
    """As if it had no handler."""
    code = "signal.signal(signal.SIGTERM, print)\ndie_of(signal.SIGTERM)\n"
    ended = subprocess.run([sys.executable, "-c", PRELUDE + code, KINDS[0]], capture_output=True)

    assert ended.returncode == -signal.SIGTERM


def test_a_socket_whose_other_end_is_open_is_not_hung_up() -> None:
    """What lies unread in it is no matter."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        ours.send(b"fork")
        assert not is_hung_up(theirs)
        ours.close()
        assert is_hung_up(theirs)
