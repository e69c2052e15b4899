"""A worker's requests to the primary to bind addresses, and the answers."""

import asyncio
import itertools
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiocluster.errors import ClusterStopping
from aiocluster.ipc.messages import (
    Bound,
    Endpoint,
    Listen,
    ListenFailed,
    Listening,
    Message,
    Unlisten,
)

Host = str | Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Asked:
    """The address that the user's code asks for, in asyncio's terms."""

    host: Host
    port: int | None
    family: int
    flags: int
    backlog: int


_Answer = asyncio.Future[list[Bound]]


class Requests:
    """The listen requests of one worker."""

    def __init__(self, post: Callable[[Message], None]) -> None:
        self._post = post
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._unanswered: dict[int, _Answer] = {}
        self._given_up: set[_Answer] = set()
        self._claimed: dict[tuple[Endpoint, ...], set[int]] = {}
        self._stopped = False

    async def listen(self, asked: Asked) -> tuple[list[Bound], Callable[[], None]]:
        """Have the primary bind; return the listeners, and the function that releases the claim.

        Raise the kernel's OSError, socket.gaierror or ClusterStopping.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("a server can be started in the worker's own loop only")
        endpoints = await self._endpoints(asked)
        while self._given_up:  # until these are undone, their addresses belong to this worker
            await asyncio.wait(self._given_up)
        if self._stopped:
            raise _draining()
        nth, release = self._claim(tuple(endpoints))
        answer = self._ask(endpoints, nth, asked.backlog)
        try:
            await asyncio.wait({answer})  # if this is cancelled, the answer is not
        except BaseException:
            self._give_up(answer, release)
            raise
        try:
            bound = answer.result()
            if self._stopped:  # by a message that was read along with the answer
                raise _draining()
        except BaseException as error:
            release()
            raise _placed(error, asked) from None
        return bound, release

    def hear(self, message: Listening | ListenFailed) -> None:
        """Settle the request that the primary answers."""
        answer = self._unanswered.pop(message.request_id, None)
        if answer is None:  # a draining worker has no listeners any more
            return
        if isinstance(message, Listening):
            answer.set_result(message.bound)
        else:
            answer.set_exception(OSError(message.errno, message.text))

    def stop(self) -> None:
        """Fail all open requests: the worker drains. Idempotent."""
        self._stopped = True
        for answer in self._unanswered.values():
            answer.set_exception(_draining())
        self._unanswered.clear()

    def _ask(self, endpoints: list[Endpoint], nth: int, backlog: int) -> _Answer:
        request_id = next(self._ids)
        answer: _Answer = self._loop.create_future()
        self._unanswered[request_id] = answer
        self._post(Listen(request_id, endpoints, nth, backlog))
        return answer

    def _give_up(self, answer: _Answer, release: Callable[[], None]) -> None:
        """Undo a request that was given up, when its answer has come."""
        self._given_up.add(answer)
        answer.add_done_callback(partial(self._undo, release))

    def _undo(self, release: Callable[[], None], answer: _Answer) -> None:
        self._given_up.discard(answer)
        release()
        if answer.exception() is None and not self._stopped:
            for one in answer.result():
                self._post(Unlisten(one.listener))

    async def _endpoints(self, asked: Asked) -> list[Endpoint]:
        """Look the names up here: a look-up may be slow, and must not delay the primary."""
        if asked.host is None and asked.port is None:
            raise ValueError("neither host nor port were given")
        single = asked.host is None or isinstance(asked.host, str)
        names: Sequence[Any] = [asked.host] if single else asked.host or []
        _check_port(asked.port)
        found = await asyncio.gather(*(self._look_up(name or None, asked) for name in names))
        endpoints = [endpoint for some in found for endpoint in some]
        return [*dict.fromkeys(endpoints)]

    async def _look_up(self, name: str | None, asked: Asked) -> list[Endpoint]:
        infos = await self._loop.getaddrinfo(
            name, asked.port, family=asked.family, type=socket.SOCK_STREAM, flags=asked.flags
        )
        endpoints = [_endpoint(info) for info in infos if info[0] in _FAMILIES]
        if not endpoints:
            raise OSError(f"getaddrinfo({name!r}) returned empty list")
        return endpoints

    def _claim(self, key: tuple[Endpoint, ...]) -> tuple[int, Callable[[], None]]:
        """Return this request's number among those for any free port, else 0; and its release."""
        claimed = self._claimed.setdefault(key, set())
        if all(endpoint.port for endpoint in key):
            return 0, lambda: None
        nth = next(n for n in itertools.count() if n not in claimed)
        claimed.add(nth)
        return nth, partial(claimed.discard, nth)


def _check_port(port: Any) -> None:
    """Raise OverflowError, as asyncio does, if getaddrinfo would change the port."""
    try:
        number = int(port or 0)
    except ValueError:  # the name of a service
        return
    if not 0 <= number <= _MAX_PORT:
        raise OverflowError(f"port must be 0 to {_MAX_PORT}, not {port!r:.80}")


_MAX_PORT = 0xFFFF

_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def _endpoint(info: tuple[Any, ...]) -> Endpoint:
    """Return the part of a getaddrinfo result that the primary needs."""
    family, _, _, _, address = info
    scope = address[3] if family == socket.AF_INET6 else 0
    return Endpoint(int(family), address[0].partition("%")[0], address[1], scope)


def _placed(error: BaseException, asked: Asked) -> BaseException:
    """Return an OSError that also names the address: there may be several servers."""
    if not isinstance(error, OSError):
        return error
    return OSError(error.errno, f"{error.strerror} ({_shown(asked.host)}:{asked.port or 0})")


def _shown(host: Host) -> str:
    names = [host] if host is None or isinstance(host, str) else host
    return ",".join(f"[{name}]" if name and ":" in name else name or "*" for name in names)


def _draining() -> ClusterStopping:
    return ClusterStopping("cannot listen: this worker is draining")
