"""A process that has imported what every zygote needs, and is forked in the place of a new one.

A new interpreter takes a quarter of a second of a CPU to import aiohttp, uvloop and this package;
the fork of one that has them takes a few milliseconds. So the new interpreters of clusters in the
tests' own process are forked from a *template*. What is forked so has all that `posix_spawn` gives:
the arguments, the environment, the descriptors and no others, the folder, the limits, the process
group, the signals, and this process for its parent.

A test that is about the start itself is marked `real_start`.
"""

import contextlib
import fcntl
import importlib
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aiocluster import beginning
from aiocluster.zygote.holdings import open_descriptors

# What the interpreter of a cluster's zygote calls (launch/pickled_app.py).
_MARK = "import unpickled_zygote; "

# What the template imports: all that a zygote and its workers do, but for the app.
_IMPORTED = ["aiocluster.children.start", "aiohttp.web", "asyncio", "uvloop"]

_MAX_REQUEST = 128 * 1024
_MAX_FDS = 253  # the kernel's
_REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class _Order:
    """What a new process is to be. The first of its descriptors is its folder."""

    argv: list[str]
    environ: dict[str, str]
    numbers: list[int]  # of the other descriptors
    process_group: int | None
    blocked: list[int]
    scheduler: tuple[int, int]
    limits: list[tuple[int, tuple[int, int]]]
    cpus: set[int]
    umask: int


class Template:
    """The template, seen from the process of the tests."""

    def __init__(self) -> None:
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._python = _python_variables(os.environ)
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        code = f"from tests.support.warm import be_template; be_template({theirs.fileno()})"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *flags, "-c", code],
                pass_fds=[theirs.fileno()],
                cwd=_REPOSITORY,
                stdin=subprocess.DEVNULL,
            )

    def close(self) -> None:
        """End the template. What was forked from it lives on."""
        self._sock.close()
        self._process.wait()

    @contextlib.contextmanager
    def in_place_of_new_ones(self) -> Iterator[None]:
        """Fork the template meanwhile where the interpreter of a cluster is to be started."""
        real = os.posix_spawn

        def posix_spawn(path: str, argv: list[str], env: Mapping[str, str], **options: Any) -> int:
            is_ours = path == sys.executable and _MARK in argv[-1]
            if is_ours and _python_variables(env) == self._python:
                return self._fork(argv, env, **options)
            return real(path, argv, env, **options)

        os.posix_spawn = posix_spawn  # type: ignore[assignment]
        try:
            yield
        finally:
            os.posix_spawn = real

    def _fork(
        self,
        argv: list[str],
        env: Mapping[str, str],
        *,
        file_actions: Sequence[tuple[int, int, int]],
        setpgroup: int | None = None,
        setsigmask: Sequence[int] = (),
        scheduler: tuple[int, os.sched_param] | None = None,
    ) -> int:
        fds = {fd: fd for fd in open_descriptors() if _is_inheritable(fd)}
        fds |= {number: fd for _, fd, number in file_actions}
        order = _Order(
            argv=argv,
            environ={**env},
            numbers=[*fds],
            process_group=setpgroup,
            blocked=[*map(int, setsigmask)],
            scheduler=_place(scheduler),
            limits=[(one, resource.getrlimit(one)) for one in _LIMITS],
            cpus=os.sched_getaffinity(0),
            umask=_umask(),
        )
        folder = os.open(".", os.O_PATH | os.O_CLOEXEC)
        try:
            socket.send_fds(self._sock, [pickle.dumps(order)], [folder, *fds.values()])
        finally:
            os.close(folder)
        answer = pickle.loads(self._sock.recv(_MAX_REQUEST))
        if isinstance(answer, OSError):
            raise answer
        return int(answer)


@pytest.fixture(scope="session")
def template() -> Iterator[Template]:
    """Return the template of this run."""
    template = Template()
    yield template
    template.close()


@pytest.fixture(autouse=True)
def forked_zygotes(request: pytest.FixtureRequest, template: Template) -> Iterator[None]:
    """Let clusters of this process have forked zygotes, where the test is not about their start."""
    if request.node.get_closest_marker("real_start"):
        yield
    else:
        with template.in_place_of_new_ones():
            yield


_LIMITS = [resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_AS, resource.RLIMIT_CORE]


def _python_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what an interpreter reads when it starts."""
    return {name: text for name, text in environ.items() if name.startswith("PYTHON")}


def _is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:  # the one by which they were read
        return False


def _place(scheduler: tuple[int, os.sched_param] | None) -> tuple[int, int]:
    if scheduler is None:
        scheduler = os.sched_getscheduler(0), os.sched_getparam(0)
    return scheduler[0], scheduler[1].sched_priority


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


# ---- in the template


def be_template(fd: int) -> None:
    """Fork for each order until the other end is closed; return in what was forked, once it ends.

    What it raises then is the interpreter's to handle, as always.
    """
    for name in _IMPORTED:
        importlib.import_module(name)
    interrupted = signal.getsignal(signal.SIGINT)
    # It reaches all processes of a terminal; the tests' own says what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock = socket.socket(fileno=fd)
    while True:
        message, fds, _, _ = socket.recv_fds(sock, _MAX_REQUEST, _MAX_FDS)
        if not message:
            return
        order = pickle.loads(message)
        read, write = os.pipe()
        shared_listener, opener = os.pipe()
        # Forked twice: the kernel gives the child of a process that has ended to the nearest
        # subreaper, as which every cluster's process has made itself known.
        first = os.fork()
        if first == 0:
            if os.fork() == 0:
                sock.close()
                signal.signal(signal.SIGINT, interrupted)
                os.close(opener)
                _become(order, fds, write, shared_listener)
                return
            os._exit(0)
        os.waitpid(first, 0)
        for one in (write, shared_listener, opener):
            os.close(one)
        sock.send(os.read(read, _MAX_REQUEST) or pickle.dumps(OSError("the fork has died")))
        for one in (read, *fds):
            os.close(one)


def _become(order: _Order, fds: list[int], answer: int, shared_listener: int) -> None:
    """Be what `posix_spawn` would have started, once that is told."""
    os.read(shared_listener, 1)  # which ends when the tests' process is the parent
    above = max(order.numbers) + 1  # the numbers that are to be given
    answer, folder, *rest = [fcntl.fcntl(fd, fcntl.F_DUPFD, above) for fd in (answer, *fds)]
    os.fchdir(folder)
    for number, fd in zip(order.numbers, rest, strict=True):
        os.dup2(fd, number)
    _close_others({*order.numbers, answer})
    _take_place(order)
    os.write(answer, pickle.dumps(os.getpid()))
    os.close(answer)
    _run(order.argv)


def _close_others(kept: set[int]) -> None:
    for fd in {*map(int, os.listdir("/proc/self/fd"))} - kept:
        with contextlib.suppress(OSError):  # the one by which they were read
            os.close(fd)


def _take_place(order: _Order) -> None:
    os.umask(order.umask)
    os.environ.clear()
    os.environ.update(order.environ)
    for one, limits in order.limits:
        resource.setrlimit(one, limits)
    os.sched_setaffinity(0, order.cpus)
    os.sched_setscheduler(0, order.scheduler[0], os.sched_param(order.scheduler[1]))
    if order.process_group is not None:
        os.setpgid(0, order.process_group)
    signal.pthread_sigmask(signal.SIG_SETMASK, order.blocked)


def _run(argv: list[str]) -> None:
    sys.orig_argv = argv
    importlib.reload(beginning)  # it was another process's
    main = sys.modules["__main__"].__dict__
    del main["be_template"]
    exec(argv[-1], main)
