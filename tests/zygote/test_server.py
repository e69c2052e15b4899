"""The zygote is a small program of its own here, so that only a process without threads forks.

Each worker runs the code that its Fork carries, and talks to the test over its channel.
"""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Self

import msgspec
import pytest

from aiocluster.ipc.handoff import handoff_pair
from aiocluster.ipc.messages import (
    Exited,
    Fork,
    Forked,
    ForkFailed,
    FromZygote,
    Message,
    Prepared,
    Watch,
)
from aiocluster.ipc.packets import packet_pair, receive_packet, send_packet

PATIENCE = 60.0  # far above what anything here takes: a failure must not hang

LONG = 1000.0  # a grace that no test waits for

ZYGOTE = """
import gc, os, select, signal, socket, sys
from aiocluster.zygote.server import ZygoteServer, freeze, take_signals

sock = socket.socket(fileno=int(sys.argv[1]))
take_signals()
exec(sys.argv[3])
freeze()
server = ZygoteServer(sock, float(sys.argv[2]))
sock.sendall(b"ready")
order = server.serve()
if order is not None:
    channel, fork = order.channel, order.fork
    channel.setblocking(True)
    exec(fork.env["code"])
    os._exit(0)
"""

# A worker that only ever ends by SIGKILL, and says when it has begun not to.
STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
channel.sendall(b"busy")
while True:
    pass
"""

# The same, as a program of its own.
STUBBORN_PROGRAM = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("busy", flush=True)
while True:
    signal.pause()
"""


class Worker:
    """The test's ends of what one worker was given."""

    def __init__(self, worker_id: int, code: str) -> None:
        self.fork = Fork(worker_id, 3, "web", 2, 17, [2, 10], {"code": code})
        self.handoff, self.its_handoff = handoff_pair()
        self.channel, self.its_channel = socket.socketpair()
        self.channel.settimeout(PATIENCE)
        self.scoreboard = os.memfd_create("scoreboard")
        self.stacks = os.memfd_create("stacks")
        self.pid = -1
        self.pidfd = -1

    @property
    def its_fds(self) -> list[int]:
        sockets = [self.its_handoff.fileno(), self.its_channel.fileno()]
        return [*sockets, self.scoreboard, self.stacks]

    def says(self) -> bytes:
        """Return what it said next; b"" once it is dead."""
        return self.channel.recv(65536)

    def wait_until_dead(self) -> None:
        assert is_dead(self.pidfd, PATIENCE)

    def forget_its_ends(self) -> None:
        """Close the duplicates of what the worker owns, so that its end is seen."""
        self.its_handoff.close()
        self.its_channel.close()

    def close(self) -> None:
        for sock in (self.handoff, self.its_handoff, self.channel, self.its_channel):
            sock.close()
        os.close(self.scoreboard)
        os.close(self.stacks)
        if self.pidfd >= 0:
            kill(self.pidfd)
            os.close(self.pidfd)


class Zygote:
    """A zygote, seen from the primary."""

    def __init__(self, grace: float, prelude: str = "") -> None:
        self.sock, theirs = packet_pair()
        self.sock.settimeout(PATIENCE)
        self._workers: list[Worker] = []
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", ZYGOTE, str(theirs.fileno()), str(grace), prelude],
                pass_fds=[theirs.fileno()],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                # Its output is to be buffered, as it is where nobody says otherwise.
                env={**os.environ, "PYTHONUNBUFFERED": ""},
            )
        assert self.sock.recv(100) == b"ready", self.output()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for worker in self._workers:
            worker.close()
        self.sock.close()
        self.process.kill()
        self.process.communicate()

    def order(self, code: str, worker_id: int = 1) -> Worker:
        """Send a Fork."""
        worker = Worker(worker_id, code)
        self._workers.append(worker)
        send_packet(self.sock, worker.fork, worker.its_fds)
        worker.forget_its_ends()
        return worker

    def fork(self, code: str, worker_id: int = 1) -> Worker:
        """Send a Fork and wait until the worker exists."""
        worker = self.order(code, worker_id)
        self.expect_forked(worker)
        return worker

    def expect_forked(self, worker: Worker) -> None:
        message, fds = self.receive()
        assert isinstance(message, Forked)
        assert message.worker_id == worker.fork.worker_id
        worker.pid = message.pid
        (worker.pidfd,) = fds

    def receive(self) -> tuple[Message, list[int]]:
        received = receive_packet(self.sock, FromZygote)
        assert received is not None, self.output()
        return received

    def exit_code_of(self, worker: Worker) -> int:
        """Wait for the worker's Exited, and read it as the primary does."""
        message, fds = self.receive()
        assert isinstance(message, Exited)
        assert (message.worker_id, fds) == (worker.fork.worker_id, [])
        return os.waitstatus_to_exitcode(message.status)

    def leave(self) -> None:
        """Be gone, as the primary is when it was killed."""
        self.sock.close()

    def exit_code(self) -> int:
        return self.process.wait(PATIENCE)

    def output(self) -> str:
        """Wait until it has ended, and return all it printed."""
        output, _ = self.process.communicate(timeout=PATIENCE)
        return str(output)


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    with Zygote(grace=LONG) as started:
        yield started


def is_dead(pidfd: int, timeout: float = 0.0) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def kill(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return


# ---- forking


def test_a_worker_gets_its_order(zygote: Zygote) -> None:
    """What it is to be, and the pid that the primary is told is its own."""
    worker = zygote.fork("channel.sendall(repr((fork, os.getpid())).encode())")

    assert worker.says().decode() == repr((worker.fork, worker.pid))


def test_a_worker_gets_its_descriptors(zygote: Zygote) -> None:
    """Each for what it is: connections come in, messages go out, the scoreboard is shared."""
    worker = zygote.fork(
        "os.pwrite(order.scoreboard_fd, b'row', 0)\n"
        "os.pwrite(order.stacks_fd, b'stack', 0)\n"
        "from aiocluster.ipc.handoff import take\n"
        "select.select([order.handoff], [], [])\n"
        "((fd, listener, client),) = take(order.handoff)\n"
        "os.write(fd, bytes([listener]))\n"
        "channel.sendall(b'done')\n"
    )
    read, write = os.pipe()
    socket.send_fds(worker.handoff, [b"\x07"], [write])
    os.close(write)

    assert worker.says() == b"done"
    assert os.read(read, 10) == b"\x07"
    assert os.pread(worker.scoreboard, 10, 0) == b"row"
    assert os.pread(worker.stacks, 10, 0) == b"stack"
    os.close(read)


def test_the_pidfd_that_comes_back_is_the_workers(zygote: Zygote) -> None:
    """So the primary can never signal a stranger that got the same pid."""
    worker = zygote.fork("channel.recv(1)")
    assert not is_dead(worker.pidfd)

    signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)

    assert zygote.exit_code_of(worker) == -signal.SIGKILL
    assert is_dead(worker.pidfd)


def test_several_workers_live_at_once(zygote: Zygote) -> None:
    """Orders are carried out in order, and each end is told with the right name."""
    code = "channel.sendall(b'here'); os._exit(channel.recv(1)[0])"
    workers = [zygote.order(code, worker_id) for worker_id in range(1, 9)]
    for worker in workers:
        zygote.expect_forked(worker)
    assert [worker.says() for worker in workers] == [b"here"] * 8
    assert len({worker.pid for worker in workers}) == 8

    for worker in reversed(workers):
        worker.channel.sendall(bytes([worker.fork.worker_id]))
        assert zygote.exit_code_of(worker) == worker.fork.worker_id


def test_a_worker_inherits_nothing_else(zygote: Zygote) -> None:
    """No end of another's channel, or its death would go unseen; no pidfd, no socket of ours."""
    with ExitStack() as stack:
        first = zygote.fork("channel.recv(1)")
        watched = stack.enter_context(subprocess.Popen(["sleep", "1000"]))
        stack.callback(watched.kill)
        pidfd = os.pidfd_open(watched.pid)
        stack.callback(os.close, pidfd)
        send_packet(zygote.sock, Watch(9), [pidfd])

        second = zygote.fork(
            "own = {0, 1, 2, order.handoff.fileno(), channel.fileno(), order.scoreboard_fd,"
            " order.stacks_fd}\n"
            "fds = {int(fd) for fd in os.listdir('/proc/self/fd')}\n"
            "more = [fd for fd in fds - own if os.path.exists(f'/proc/self/fd/{fd}')]\n"
            "channel.sendall(repr(sorted(more)).encode())\n",
            worker_id=2,
        )
        assert second.says() == b"[]"
        assert not is_dead(first.pidfd)


def test_the_zygote_keeps_nothing_of_its_workers(zygote: Zygote) -> None:
    """The end of a worker's channel is seen at once, and no descriptor is left behind."""
    folder = f"/proc/{zygote.process.pid}/fd"
    before = sorted(os.listdir(folder))
    for worker_id in range(1, 4):
        worker = zygote.fork("os._exit(0)", worker_id)
        assert zygote.exit_code_of(worker) == 0
        assert worker.says() == b""
        with pytest.raises(BrokenPipeError):
            worker.handoff.send(b"nobody takes this")

    assert sorted(os.listdir(folder)) == before


def test_the_collector_rests_in_the_zygote_and_works_in_the_workers(zygote: Zygote) -> None:
    """What was imported is out of its sight, so pages stay shared."""
    worker = zygote.fork(
        "channel.sendall(repr((gc.isenabled(), gc.get_freeze_count() > 1000)).encode())"
    )

    assert worker.says() == b"(True, True)"


def test_what_was_printed_before_a_fork_is_printed_once() -> None:
    """A buffer that is copied by a fork must be empty."""
    with Zygote(grace=LONG, prelude="print('hello from the import')") as zygote:
        for worker_id in (1, 2):
            worker = zygote.fork("sys.stdout.flush()", worker_id)
            assert zygote.exit_code_of(worker) == 0
        zygote.leave()

        assert zygote.output().count("hello") == 1


FIRST_FORK_FAILS = """
def fail_once(fork=os.fork):
    os.fork = fork
    raise BlockingIOError(11, "Resource temporarily unavailable")
os.fork = fail_once
"""


def test_a_fork_that_the_kernel_refuses_is_told() -> None:
    """The worker's descriptors are closed, and the next order may succeed."""
    with Zygote(grace=LONG, prelude=FIRST_FORK_FAILS) as zygote:
        before = sorted(os.listdir(f"/proc/{zygote.process.pid}/fd"))
        refused = zygote.order("os._exit(0)")
        message, fds = zygote.receive()

        assert isinstance(message, ForkFailed)
        assert "refused the fork: Resource temporarily unavailable; look at the" in message.error
        assert fds == []
        assert refused.says() == b""
        assert zygote.exit_code_of(zygote.fork("os._exit(4)", 2)) == 4
        assert sorted(os.listdir(f"/proc/{zygote.process.pid}/fd")) == before


NO_PIDFD_AT_FIRST = """
real_pidfd_open = os.pidfd_open
def fail_once(pid):
    os.pidfd_open = real_pidfd_open
    raise OSError(23, "Too many open files in system")
os.pidfd_open = fail_once
"""


def test_a_worker_of_which_there_can_be_no_pidfd_is_none() -> None:
    """Nobody would hear of its death: it is killed, and the next order may succeed."""
    with Zygote(grace=LONG, prelude=NO_PIDFD_AT_FIRST) as zygote:
        refused = zygote.order("signal.pause()")
        message, fds = zygote.receive()

        assert isinstance(message, ForkFailed)
        assert "the kernel refused a pidfd: Too many open files in system; look" in message.error
        assert fds == []
        assert refused.says() == b""
        assert zygote.exit_code_of(zygote.fork("os._exit(4)", 2)) == 4


# ---- ends


@pytest.mark.parametrize("code", [0, 1, 77, 255])
def test_an_exit_code_is_reported(zygote: Zygote, code: int) -> None:
    """As the worker gave it."""
    worker = zygote.fork(f"os._exit({code})")

    assert zygote.exit_code_of(worker) == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_a_deadly_signal_is_reported(zygote: Zygote, number: signal.Signals) -> None:
    """By its number; and SIGTERM, left alone, ends a worker."""
    no_core = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))"
    worker = zygote.fork(f"{no_core}; channel.sendall(b'here'); channel.recv(1)")
    assert worker.says() == b"here"
    os.kill(worker.pid, number)

    assert zygote.exit_code_of(worker) == -number


def test_a_stranger_is_reaped_without_a_word() -> None:
    """What the user's module left running is not a worker."""
    prelude = "stranger = os.spawnlp(os.P_NOWAIT, 'cat', 'cat', '/dev/null')"
    with Zygote(grace=LONG, prelude=prelude) as zygote:
        worker = zygote.fork("os._exit(3)")

        assert zygote.exit_code_of(worker) == 3
        zygote.leave()
        assert zygote.exit_code() == 0


# ---- signals


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGALRM,
    ],
)
def test_signals_are_for_the_primary_to_obey(zygote: Zygote, number: signal.Signals) -> None:
    """A Ctrl-C reaches every process of the terminal; the zygote lives on and serves."""
    for _ in range(3):
        zygote.process.send_signal(number)
    worker = zygote.fork("os._exit(5)")
    zygote.process.send_signal(number)

    assert zygote.exit_code_of(worker) == 5
    assert zygote.process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1])
def test_signals_to_all_do_not_end_a_worker(zygote: Zygote, number: signal.Signals) -> None:
    """The primary decides what they mean."""
    worker = zygote.fork("channel.sendall(b'here'); os._exit(channel.recv(1)[0])")
    assert worker.says() == b"here"
    os.kill(worker.pid, number)
    worker.channel.sendall(b"\x06")

    assert zygote.exit_code_of(worker) == 6


def test_programs_a_worker_starts_can_be_interrupted(zygote: Zygote) -> None:
    """An ignored signal would be inherited; a handled one is not."""
    worker = zygote.fork(
        "ignored = os.popen('grep SigIgn /proc/self/status').read().split()[1]\n"
        "mine = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT]\n"
        "mask = sum(1 << number - 1 for number in mine)\n"
        "channel.sendall(str(int(ignored, 16) & mask).encode())\n"
    )

    assert worker.says() == b"0"


def test_a_read_in_the_background_fails_and_stops_nobody(zygote: Zygote) -> None:
    """The kernel looks at who ignores TTIN; a handler would be called for ever."""
    worker = zygote.fork(
        "how = [signal.getsignal(one) for one in (signal.SIGTTIN, signal.SIGTTOU)]\n"
        "channel.sendall(bytes(one is signal.SIG_IGN for one in how))\n"
    )

    assert worker.says() == b"\x01\x01"


def test_a_blocked_signal_does_not_stay_blocked() -> None:
    """Whatever mask the program inherited, a worker can be terminated."""
    prelude = (
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD]);take_signals()"
    )
    with Zygote(grace=LONG, prelude=prelude) as zygote:
        worker = zygote.fork("channel.sendall(b'here'); channel.recv(1)")
        assert worker.says() == b"here"
        os.kill(worker.pid, signal.SIGTERM)

        assert zygote.exit_code_of(worker) == -signal.SIGTERM


# ---- when the primary is gone


def test_without_workers_it_ends_at_once(zygote: Zygote) -> None:
    """Nobody is left to wait for."""
    zygote.leave()

    assert zygote.output() == ""
    assert zygote.exit_code() == 0


def test_it_waits_for_workers_that_finish_and_no_longer(zygote: Zygote) -> None:
    """They have the grace to drain; the last of them is the end of it."""
    workers = [
        zygote.fork("channel.recv(1); channel.sendall(b'finished')", number) for number in (1, 2, 3)
    ]
    zygote.leave()
    for worker in workers:
        worker.channel.sendall(b"!")
        assert worker.says() == b"finished"

    assert zygote.exit_code() == 0
    for worker in workers:
        worker.wait_until_dead()


def test_a_blocked_worker_is_killed_when_the_grace_is_over() -> None:
    """It cannot outlive the cluster, whatever it does."""
    with Zygote(grace=0.05) as zygote:
        worker = zygote.fork(STUBBORN)
        assert worker.says() == b"busy"
        zygote.leave()

        assert zygote.exit_code() == 0
        worker.wait_until_dead()


def test_workers_outlive_a_zygote_that_cannot_hear_any_more() -> None:
    """Code that it has imported has shut its socket down: the primary lives, and has them still."""
    deafening = "import socket\nos.register_at_fork(before=lambda: sock.shutdown(socket.SHUT_RD))"
    with Zygote(grace=0.0, prelude=deafening) as zygote:
        worker = zygote.fork("channel.recv(1); channel.sendall(b'finished')")
        assert zygote.exit_code() == -signal.SIGKILL

        worker.channel.sendall(b"!")
        assert worker.says() == b"finished"


def test_signals_do_not_shorten_the_grace(zygote: Zygote) -> None:
    """Also then a worker may finish."""
    worker = zygote.fork("channel.recv(1); channel.sendall(b'finished')")
    zygote.leave()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        zygote.process.send_signal(number)
    worker.channel.sendall(b"!")

    assert worker.says() == b"finished"
    assert zygote.exit_code() == 0


def test_a_worker_ordered_at_the_last_moment_is_not_forgotten() -> None:
    """It was forked for a primary that is gone already; it ends as all others do."""
    with Zygote(grace=0.05) as zygote:
        worker = zygote.order(STUBBORN)
        zygote.leave()

        assert zygote.exit_code() == 0
        assert worker.says() in (b"busy", b"")


# ---- watching what another zygote forked


@pytest.fixture
def stubborn() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that is nobody's worker here, and its pidfd."""
    command = [sys.executable, "-c", STUBBORN_PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "busy\n"
        pidfd = os.pidfd_open(process.pid)
        yield process, pidfd
        os.close(pidfd)
        process.kill()


def test_a_watched_worker_is_killed_too(stubborn: tuple[subprocess.Popen[str], int]) -> None:
    """A zygote that was replaced has left workers behind; they have the same grace."""
    process, pidfd = stubborn
    with Zygote(grace=0.05) as zygote:
        send_packet(zygote.sock, Watch(7), [pidfd])
        worker = zygote.fork("os._exit(0)")
        assert zygote.exit_code_of(worker) == 0
        assert process.poll() is None
        zygote.leave()

        assert zygote.exit_code() == 0
        assert process.wait(PATIENCE) == -signal.SIGKILL


def test_a_watched_worker_may_finish(
    zygote: Zygote, stubborn: tuple[subprocess.Popen[str], int]
) -> None:
    """The zygote ends with it, not with the grace."""
    process, pidfd = stubborn
    send_packet(zygote.sock, Watch(7), [pidfd])
    zygote.leave()
    process.kill()

    assert zygote.exit_code() == 0


def test_a_watched_worker_that_is_dead_is_no_harm(
    stubborn: tuple[subprocess.Popen[str], int],
) -> None:
    """Nobody waits for it, and nobody else is killed in its place."""
    process, pidfd = stubborn
    process.kill()
    process.wait(PATIENCE)
    with Zygote(grace=LONG) as zygote:
        send_packet(zygote.sock, Watch(7), [pidfd])
        zygote.leave()

        assert zygote.output() == ""
        assert zygote.exit_code() == 0


def test_a_watched_worker_that_dies_is_forgotten(
    zygote: Zygote, stubborn: tuple[subprocess.Popen[str], int]
) -> None:
    """Its descriptor is closed; the zygote sleeps and forks as before."""
    process, pidfd = stubborn
    folder = f"/proc/{zygote.process.pid}/fd"
    before = sorted(os.listdir(folder))
    send_packet(zygote.sock, Watch(7), [pidfd])
    assert zygote.exit_code_of(zygote.fork("os._exit(0)", 2)) == 0
    assert len(os.listdir(folder)) == len(before) + 1

    process.kill()
    process.wait(PATIENCE)

    assert zygote.exit_code_of(zygote.fork("os._exit(5)", 3)) == 5
    assert sorted(os.listdir(folder)) == before


# ---- descriptors that were lost


def test_a_fork_without_its_descriptors_fails(zygote: Zygote) -> None:
    """The zygote is at its limit of open files; it goes on."""
    send_packet(zygote.sock, Fork(1, 0, "web", 1, 0, [], {}))

    message, _ = zygote.receive()
    assert isinstance(message, ForkFailed)
    assert "refused what a worker is given: Too many open files; look at" in message.error
    assert zygote.exit_code_of(zygote.fork("os._exit(5)", 2)) == 5


def test_a_worker_that_cannot_be_watched_is_no_reason_to_end(zygote: Zygote) -> None:
    """It serves on."""
    send_packet(zygote.sock, Watch(1))

    assert zygote.exit_code_of(zygote.fork("os._exit(5)", 2)) == 5


# ---- a primary with a bug


@pytest.mark.parametrize(
    ("message", "number"),
    [
        (Prepared(True, ""), 0),
        (Watch(1), 2),
        (Fork(1, 0, "web", 1, 0, [], {}), 2),
        (Fork(1, 0, "web", 1, 0, [], {}), 5),
    ],
    ids=repr,
)
def test_a_wrong_message_ends_the_zygote(zygote: Zygote, message: Any, number: int) -> None:
    """With a message that says what was wrong; the primary starts another."""
    send_packet(zygote.sock, message, [0] * number)

    assert "ProtocolError" in zygote.output()
    assert zygote.exit_code() == 1
    assert receive_packet(zygote.sock, FromZygote) is None


def test_garbage_ends_the_zygote(zygote: Zygote) -> None:
    """What is no message at all is not guessed at."""
    zygote.sock.sendall(b"\xc1garbage")

    assert "ProtocolError" in zygote.output()
    assert zygote.exit_code() == 1


# ---- listening sockets that are shared


def test_a_fork_with_other_descriptors_than_it_says_ends_the_zygote(zygote: Zygote) -> None:
    """One listening socket too few, and a worker would serve another's port."""
    send_packet(zygote.sock, Fork(1, 0, "web", 1, 0, [2, 2], {}, [0, 1]), [0] * 5)

    assert "ProtocolError" in zygote.output()
    assert zygote.exit_code() == 1


def test_a_worker_gets_the_listening_sockets_it_shares(zygote: Zygote) -> None:
    """In the order of its fork; the zygote keeps none of them."""
    code = (
        "names = [sock.getsockname()[1] for sock in order.shared]\n"
        "channel.sendall(repr((fork.shared, names)).encode())"
    )
    worker = Worker(1, code)
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        ports = [one.getsockname()[1], other.getsockname()[1]]
        order = msgspec.structs.replace(worker.fork, shared=[4, 7])
        send_packet(zygote.sock, order, [*worker.its_fds, one.fileno(), other.fileno()])
        zygote.expect_forked(worker)
        assert worker.says().decode() == repr(([4, 7], ports))
    assert zygote.exit_code_of(worker) == 0
    # Nobody listens there any more.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[0]))
    worker.close()


A_CHILD_THAT_ENDS = """
import multiprocessing
child = multiprocessing.get_context("fork").Process(target=os._exit, args=(5,))
child.start()
"""


def test_the_end_of_a_child_of_the_import_is_told_to_multiprocessing() -> None:
    """The zygote has reaped it: an exit hook must not signal whatever has its pid by then."""
    with Zygote(grace=LONG, prelude=A_CHILD_THAT_ENDS) as zygote:
        # The first worker's end proves that what ended before is reaped.
        assert zygote.exit_code_of(zygote.fork("os._exit(0)")) == 0
        code = "channel.sendall(repr(child._popen.returncode).encode())"
        worker = zygote.fork(code, 2)

        assert worker.says() == b"5"
