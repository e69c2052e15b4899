"""What an import started, and its end; in a process of its own, which has nothing else."""

import subprocess
import sys

import psutil

from tests.support.program import is_running

PATIENCE = 60.0

PRELUDE = """
import atexit, multiprocessing, os, signal, socket, subprocess, sys, threading, time
from aiocluster.worker.process_exit import run_exit_hooks
from aiocluster.zygote.ends import end_children, end_import

def say(*what):
    print(*what, flush=True)

def started(*command):
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    child.stdout.readline()
    return child.pid
"""

# Both have a child before they say so.
MEEK = "sleep 1000 & echo; wait"
STUBBORN = "trap '' TERM; sleep 1000 & echo; wait"


def run(code: str) -> list[str]:
    """Return the lines that this code says."""
    ended = subprocess.run(
        [sys.executable, "-c", PRELUDE + code],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        start_new_session=True,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def are_gone(pids: str) -> bool:
    return not any(
        psutil.pid_exists(pid) and is_running(psutil.Process(pid)) for pid in map(int, pids.split())
    )


def test_children_are_ended() -> None:
    """By TERM, and one that does not hear it by KILL, with what it leaves behind."""
    said = run(
        "from aiocluster.launch.subreaper import become_subreaper\n"
        "become_subreaper()\n"
        f"pids = [started('sh', '-c', {MEEK!r}), started('sh', '-c', {STUBBORN!r})]\n"
        "family = [c for pid in pids for c in __import__('psutil').Process(pid).children()]\n"
        "say(*pids, *(c.pid for c in family))\n"
        "end_children()\n"
    )

    assert len(said[0].split()) == 4
    assert are_gone(said[0])


def test_children_are_ended_at_the_limit_of_descriptors() -> None:
    """One is to be had, for the list of children; none to wait for them by."""
    (said,) = run(
        "import resource\n"
        "child = subprocess.Popen(['sleep', '1000'])\n"
        "spare = os.dup(0)\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 1, hard))\n"
        "os.close(spare)\n"
        "end_children()\n"
        "say(child.poll() is not None)\n"
    )

    assert said == "True"


def test_a_daemon_stays() -> None:
    """One that has made itself a session of its own did so to be left alone."""
    (said,) = run(
        "null = subprocess.DEVNULL\n"
        "child = subprocess.Popen(\n"
        "    ['sleep', '1000'], stdout=null, stderr=null, start_new_session=True\n"
        ")\n"
        "end_children()\n"
        "say(child.pid)\n"
    )
    daemon = psutil.Process(int(said))
    try:
        assert is_running(daemon)
    finally:
        daemon.kill()


def test_only_those_that_are_named_are_ended() -> None:
    """In a worker others than the import's may be the handlers'."""
    (said,) = run(
        "one, other = (subprocess.Popen(['sleep', '1000']) for _ in range(2))\n"
        "end_children([one.pid])\n"
        "say(one.poll() is not None, other.poll() is None)\n"
        "other.kill()\n"
    )

    assert said == "True True"


def test_exit_hooks_run_before_children_are_ended() -> None:
    """A hook may end its child in its own way."""
    said = run(
        "child = subprocess.Popen(['sleep', '1000'])\n"
        "atexit.register(lambda: say('hook', child.poll()))\n"
        "end_import(run_exit_hooks)\n"
        "say('child', child.wait() is not None)\n"
        "atexit._clear()\n"
    )

    assert said == ["hook None", "child True"]


def test_a_manager_is_ended_by_its_own_hook() -> None:
    """As at the end of any program that has one."""
    said = run(
        "manager = multiprocessing.Manager()\n"
        "say(manager._process.pid)\n"
        "end_import(run_exit_hooks)\n"
        "say(manager._process.exitcode)\n"
    )

    assert are_gone(said[0])
    assert said[1] == "0"


def test_a_hook_that_does_not_end_is_interrupted() -> None:
    """The next one has its turn, and nothing holds the end of a zygote up."""
    said = run(
        "atexit.register(lambda: say('next'))\n"
        "atexit.register(time.sleep, 1000)\n"
        "end_import(run_exit_hooks)\n"
        "say(signal.getitimer(signal.ITIMER_REAL)[0])\n"
        "atexit._clear()\n"
    )

    assert said == ["next", "0.0"]
