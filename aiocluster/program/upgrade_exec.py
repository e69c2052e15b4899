"""The next program in the same process: it is tested as a child, then replaces this one by exec.

Its environment says which it is: a trial, which only reports whether it would start, or an heir,
which goes on with the handover state of this program.
"""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Literal, NamedTuple, NoReturn

import msgspec

from aiocluster.ipc import handover, messages
from aiocluster.ipc.error_text import describe
from aiocluster.ipc.handover import HandoverState
from aiocluster.launch.interpreter import ZYGOTE_STDERR, InterpreterSpec
from aiocluster.launch.scheduling import workers_not_preferred
from aiocluster.primary.lifecycle.preflight import SUCCESSION, PreflightResult, try_out
from aiocluster.private_apis import log_handlers
from aiocluster.program.signals import holding_signals


class UpgradeRequest(NamedTuple):
    """The purpose for which this program was started, from its `call`-th call of `run` on."""

    kind: Literal["trial", "heir"]
    call: int
    fd: int


class ExecNextProgram:
    """The program as it is now on the disk, which can replace this one. See upgrade.NextProgram."""

    def __init__(self, program: InterpreterSpec, roles: Collection[str]) -> None:
        self._program = program
        self._roles = roles

    async def try_out(self, boot_timeout: float) -> None:
        """See NextProgram."""
        await try_out(self._program, boot_timeout, self._roles)

    def holding_signals(self) -> contextlib.AbstractContextManager[None]:
        """See NextProgram."""
        return holding_signals()

    def take_over(self, handover_state: HandoverState) -> None:
        """See NextProgram."""
        with (
            _memory(handover.to_bytes(handover_state)) as fd,
            _inheritable([fd, *handover_state.descriptors()]),
            workers_not_preferred(),
        ):
            _flush()
            self._program.execute({SUCCESSION: f"heir:{self._program.call}:{fd}"})


def upgrade_request_from_environment() -> UpgradeRequest | None:
    """Return the request for which this program was started; None if there is none."""
    match os.environ.get(SUCCESSION, "").split(":"):
        case ["trial" | "heir" as kind, call, fd]:
            return UpgradeRequest(kind, int(call), int(fd))
    return None


def answer(
    upgrade_request: UpgradeRequest, check: Callable[[], object], roles: Collection[str] = ()
) -> NoReturn:
    """Report whether the program would start, which `check` tests, and end."""
    os.environ.pop(SUCCESSION)
    os.environ.pop(ZYGOTE_STDERR, None)
    os.set_inheritable(upgrade_request.fd, False)
    cause = traceback = ""
    try:
        check()
    except BaseException as error:
        cause, traceback = describe(error)
    verdict = PreflightResult(handover.RECORD, messages.PROTOCOL, cause, traceback, [*roles])
    try:
        with io.FileIO(upgrade_request.fd, "w") as pipe:
            pipe.write(msgspec.json.encode(verdict))
        _flush()
    finally:
        # The code after the program's `run` must not run in a trial.
        os._exit(0)


def inherit(upgrade_request: UpgradeRequest) -> HandoverState:
    """Return the previous program's handover state; its descriptors become close-on-exec."""
    os.environ.pop(SUCCESSION)
    with io.FileIO(upgrade_request.fd, "r") as file:
        handover_state = handover.from_bytes(file.readall())
    for fd in handover_state.descriptors():
        os.set_inheritable(fd, False)
    return handover_state


@contextlib.contextmanager
def _memory(content: bytes) -> Iterator[int]:
    fd = os.memfd_create("aiocluster-estate", os.MFD_CLOEXEC)
    try:
        with io.FileIO(fd, "w", closefd=False) as file:
            file.write(content)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _inheritable(fds: Iterable[int]) -> Iterator[None]:
    fds = [*fds]
    try:
        for fd in fds:
            os.set_inheritable(fd, True)
        yield
    finally:
        for fd in fds:
            os.set_inheritable(fd, False)


def _flush() -> None:
    """Write buffered output, which an exec would lose."""
    for stream in (*log_handlers(), sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
