"""What is asked of the primary, and what its answers mean."""

import asyncio
import errno
import re
import socket
from collections.abc import Callable
from typing import Any

import pytest

from aiocluster.errors import ClusterStopping
from aiocluster.ipc.messages import Bound, Endpoint, Listen, ListenFailed, Listening, Unlisten
from aiocluster.worker.services.listen_requests import Asked, Host, Requests
from tests.support.waiting import soon, turns, turns_until

V4 = int(socket.AF_INET)
FREE = Endpoint(V4, "127.0.0.1", 0)
Answer = tuple[list[Bound], Callable[[], None]]


class Stage:
    """One worker's requests; the test is the primary."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.requests = Requests(self.said.append)

    def ask(
        self, host: Host = "127.0.0.1", port: int | None = 0, *, backlog: int = 100
    ) -> "asyncio.Task[Answer]":
        asked = Asked(host, port, socket.AF_UNSPEC, socket.AI_PASSIVE, backlog)
        return asyncio.create_task(self.requests.listen(asked))

    async def next(self) -> Listen:
        await turns_until(lambda: bool(self.said))
        listen = self.said.pop(0)
        assert isinstance(listen, Listen)
        return listen

    async def grant(self, asking: "asyncio.Task[Answer]", listener: int) -> Callable[[], None]:
        listen = await self.next()
        bound = [Bound(listener, endpoint) for endpoint in listen.endpoints]
        self.requests.hear(Listening(listen.request_id, bound))
        answer, release = await soon(asking)
        assert answer == bound
        return release


@pytest.fixture
async def stage() -> Stage:
    return Stage()


async def test_names_are_looked_up_here(stage: Stage) -> None:
    """Each once, all of them in one request."""
    asking = stage.ask(["127.0.0.1", "localhost", "127.0.0.1"], 4711, backlog=7)

    listen = await stage.next()

    assert listen.endpoints[0] == Endpoint(V4, "127.0.0.1", 4711)
    assert len(set(listen.endpoints)) == len(listen.endpoints)
    assert listen.backlog == 7
    asking.cancel()


@pytest.mark.parametrize("host", [None, ""])
async def test_no_host_is_every_address(stage: Stage, host: Host) -> None:
    """As asyncio has it."""
    asking = stage.ask(host, 4711)

    assert Endpoint(V4, "0.0.0.0", 4711) in (await stage.next()).endpoints
    asking.cancel()


async def test_no_host_is_every_address_in_a_list_too(stage: Stage) -> None:
    """Beside others; who wants both is told by the kernel that they are one."""
    asking = stage.ask(["127.0.0.1", ""], 4711)

    endpoints = (await stage.next()).endpoints
    assert endpoints[0] == Endpoint(V4, "127.0.0.1", 4711)
    assert Endpoint(V4, "0.0.0.0", 4711) in endpoints
    asking.cancel()


@pytest.mark.parametrize("port", [70000, -1, "70000", "-1", 2**70])
async def test_what_is_no_port_is_refused(stage: Stage, port: Any) -> None:
    """By name; what looks names up would take 70000 for 4464."""
    with pytest.raises(OverflowError, match=re.escape(f"port must be 0 to 65535, not {port!r}")):
        await soon(stage.ask(port=port))
    assert stage.said == []


@pytest.mark.parametrize(
    ("port", "number"), [(None, 0), ("", 0), (0, 0), (65535, 65535), ("4711", 4711)]
)
async def test_a_port_may_be_a_text_or_none(stage: Stage, port: Any, number: int) -> None:
    """As asyncio has it."""
    asking = stage.ask(port=port)

    assert [one.port for one in (await stage.next()).endpoints] == [number]
    asking.cancel()


async def test_an_answer_goes_to_who_asked(stage: Stage) -> None:
    """In whatever order they come."""
    one, other = stage.ask(port=1), stage.ask(port=2)
    first, second = await stage.next(), await stage.next()

    stage.requests.hear(Listening(second.request_id, [Bound(9, second.endpoints[0])]))
    stage.requests.hear(ListenFailed(first.request_id, errno.EACCES, "Permission denied"))

    asked = {first.endpoints[0].port: one, second.endpoints[0].port: other}
    ports = {1: one, 2: other}
    assert asked == ports
    with pytest.raises(PermissionError, match="Permission denied"):
        await soon(one)
    assert (await soon(other))[0] == [Bound(9, second.endpoints[0])]


@pytest.mark.parametrize(
    "number", [errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL, errno.EMFILE]
)
async def test_what_the_kernel_says_is_raised_with_its_number(stage: Stage, number: int) -> None:
    """And after it is freed another try may work: nothing is remembered."""
    asking = stage.ask(port=4711)
    stage.requests.hear(ListenFailed((await stage.next()).request_id, number, "why"))

    with pytest.raises(OSError, match="why") as caught:
        await soon(asking)

    assert caught.value.errno == number
    await stage.grant(stage.ask(port=4711), 5)


@pytest.mark.parametrize(
    ("host", "port", "shown"),
    [
        ("127.0.0.1", 4711, "127.0.0.1:4711"),
        ("::1", 4711, "[::1]:4711"),
        (None, 4711, "*:4711"),
        (["127.0.0.1", "::1"], 0, "127.0.0.1,[::1]:0"),
    ],
)
async def test_an_error_says_where(stage: Stage, host: Host, port: int, shown: str) -> None:
    """A worker may ask for several."""
    asking = stage.ask(host, port)
    listen = await stage.next()
    stage.requests.hear(ListenFailed(listen.request_id, errno.EADDRINUSE, "in use"))

    with pytest.raises(OSError, match=re.escape(f"[Errno 98] in use ({shown})")):
        await soon(asking)


async def test_another_loop_is_told_that_it_cannot(stage: Stage) -> None:
    """It would wait for an answer that comes in this one."""
    asked = Asked("127.0.0.1", 0, 0, 0, 100)
    with pytest.raises(RuntimeError, match="in the worker's own loop only"):
        await asyncio.to_thread(lambda: asyncio.run(stage.requests.listen(asked)))

    assert stage.said == []


async def test_a_name_that_is_none_is_told_without_the_primary(stage: Stage) -> None:
    """gaierror, as from asyncio."""
    with pytest.raises(socket.gaierror):
        await soon(stage.ask("no-such-name.invalid", 80))
    service: Any = "no-such-service"
    with pytest.raises(socket.gaierror):
        await soon(stage.ask(port=service))
    with pytest.raises(ValueError, match="neither host nor port"):
        await soon(stage.ask(None, None))
    assert stage.said == []


async def test_each_free_port_is_another_one(stage: Stage) -> None:
    """Their numbers are the same in every worker; that of one that was closed is used again."""
    releases = []
    for nth in range(3):
        asking = stage.ask()
        await turns_until(lambda: bool(stage.said))
        assert (stage.said[0].endpoints, stage.said[0].nth) == ([FREE], nth)
        releases.append(await stage.grant(asking, nth + 1))

    releases[1]()
    releases[1]()

    asking = stage.ask()
    await turns_until(lambda: bool(stage.said))
    assert stage.said[0].nth == 1
    asking.cancel()


async def test_a_port_that_is_named_is_that_one(stage: Stage) -> None:
    """Asked for twice, it is for the primary to refuse."""
    for listener in range(2):
        asking = stage.ask(port=4711)
        await turns_until(lambda: bool(stage.said))
        assert stage.said[0].nth == 0
        await stage.grant(asking, listener)


async def given_up(asking: "asyncio.Task[Answer]") -> None:
    asking.cancel()
    await asyncio.wait({asking})
    assert asking.cancelled()


async def test_what_nobody_waits_for_any_more_is_unlistened(stage: Stage) -> None:
    """The primary must not keep a port that nobody serves; its number is free again."""
    asking = stage.ask()
    listen = await stage.next()
    await given_up(asking)

    stage.requests.hear(Listening(listen.request_id, [Bound(5, FREE), Bound(6, FREE)]))
    stage.requests.hear(ListenFailed(77, errno.EACCES, "nobody asked"))
    await turns_until(lambda: bool(stage.said))

    assert stage.said == [Unlisten(5), Unlisten(6)]
    assert stage.requests._claimed == {(FREE,): set()}


async def test_an_answer_that_comes_as_it_is_given_up_is_undone(stage: Stage) -> None:
    """In the same turn of the loop, before who asked goes on."""
    asking = stage.ask()
    listen = await stage.next()

    stage.requests.hear(Listening(listen.request_id, [Bound(5, FREE)]))
    await given_up(asking)
    await turns_until(lambda: bool(stage.said))

    assert stage.said == [Unlisten(5)]
    assert stage.requests._claimed == {(FREE,): set()}


@pytest.mark.parametrize("port", [0, 4711])
async def test_asked_again_what_was_given_up_is_undone_first(stage: Stage, port: int) -> None:
    """Else it would be in use, by nobody; and a free port another one than in other workers."""
    asking = stage.ask(port=port)
    listen = await stage.next()
    await given_up(asking)
    again, waiting_too = stage.ask(port=port), stage.ask(port=port)
    await turns(20)
    await given_up(waiting_too)
    assert stage.said == []

    stage.requests.hear(Listening(listen.request_id, [Bound(5, listen.endpoints[0])]))
    await turns_until(lambda: len(stage.said) == 2)

    assert stage.said.pop(0) == Unlisten(5)
    assert (stage.said[0].endpoints, stage.said[0].nth) == (listen.endpoints, 0)
    await stage.grant(again, 5)


async def test_what_was_given_up_and_failed_holds_up_nobody(stage: Stage) -> None:
    """There is nothing to undo then."""
    asking = stage.ask()
    listen = await stage.next()
    await given_up(asking)
    again = stage.ask()

    stage.requests.hear(ListenFailed(listen.request_id, errno.EADDRINUSE, "in use"))

    await stage.grant(again, 5)


async def test_who_waits_for_an_undoing_is_told_of_a_drain(stage: Stage) -> None:
    """It will not come any more; neither is what came last unlistened, which the drain does."""
    asking, other = stage.ask(port=4711), stage.ask(port=4712)
    first, _ = await stage.next(), await stage.next()
    await given_up(asking)
    await given_up(other)
    again = stage.ask(port=4711)
    await turns(20)

    stage.requests.hear(Listening(first.request_id, [Bound(5, first.endpoints[0])]))
    stage.requests.stop()

    with pytest.raises(ClusterStopping, match="this worker is draining"):
        await soon(again)
    assert stage.said == []


async def test_a_worker_that_drains_asks_for_nothing(stage: Stage) -> None:
    """Neither does who waits wait in vain."""
    asking = stage.ask()
    await stage.next()

    stage.requests.stop()
    stage.requests.stop()

    with pytest.raises(ClusterStopping, match="this worker is draining"):
        await soon(asking)
    with pytest.raises(ClusterStopping, match="this worker is draining"):
        await soon(stage.ask())
    await turns()
    assert stage.said == []


async def test_an_answer_that_comes_with_the_drain_is_not_had(stage: Stage) -> None:
    """Nobody would close that server any more; its number is free again."""
    asking = stage.ask()
    listen = await stage.next()

    stage.requests.hear(Listening(listen.request_id, [Bound(5, FREE)]))
    stage.requests.stop()

    with pytest.raises(ClusterStopping, match="this worker is draining"):
        await soon(asking)
    assert stage.said == []
    assert stage.requests._claimed == {(FREE,): set()}
