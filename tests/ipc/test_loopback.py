import asyncio
import contextvars
from typing import Any

import pytest

from aiocluster.errors import ChannelClosed, MessageError, ProtocolError
from aiocluster.ipc.channel import WINDOW_BYTES, Channel
from aiocluster.ipc.loopback import connect
from aiocluster.ipc.messages import DrainRequest, FromWorker, Message, ToWorker, UserMessage


class Side:
    """One end, and what it has heard."""

    def __init__(self, expected: Any) -> None:
        self.heard: asyncio.Queue[tuple[Message, int]] = asyncio.Queue()
        self.closed: asyncio.Future[ProtocolError | None] = asyncio.Future()
        self.contexts: list[str] = []
        self.channel = Channel(expected, self._on_message, self.closed.set_result)

    def _on_message(self, message: Message, size: int) -> None:
        self.contexts.append(_where.get())
        self.heard.put_nowait((message, size))


_where: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="nowhere")


def connected() -> tuple[Side, Side]:
    primary, worker = Side(FromWorker), Side(ToWorker)
    connect(primary.channel, worker.channel)
    return primary, worker


async def test_each_end_hears_what_the_other_sends() -> None:
    """A message arrives as it would from another process: a tuple as a list."""
    primary, worker = connected()
    await worker.channel.send({"numbers": (1, 2)})
    worker.channel.post(DrainRequest("drain"))
    await primary.channel.send("hello")
    message, _ = await primary.heard.get()
    assert message == UserMessage({"numbers": [1, 2]})
    assert await primary.heard.get() == (DrainRequest("drain"), 0)
    assert (await worker.heard.get())[0] == UserMessage("hello")


async def test_what_no_process_could_be_sent_is_refused() -> None:
    """An app that is written on a Mac meets the error there, not in production."""
    _, worker = connected()
    with pytest.raises(MessageError, match=r"message\['users'\]"):
        await worker.channel.send({"users": {1, 2}})


async def test_an_unread_message_holds_up_its_sender() -> None:
    """Memory stays bounded though nobody reads."""
    primary, worker = connected()
    await worker.channel.send(b"x" * WINDOW_BYTES)
    second = asyncio.ensure_future(worker.channel.send(b"second"))
    _, size = await primary.heard.get()
    assert not second.done()
    primary.channel.consumed(size)
    await second


async def test_what_one_end_hears_is_in_the_context_of_who_connected_them() -> None:
    """What the primary's side does with a message must not seem to be the worker's doing."""
    _where.set("program")
    primary, worker = connected()

    async def send() -> None:
        _where.set("worker")
        await worker.channel.send(1)

    await asyncio.create_task(send())
    await primary.heard.get()
    assert primary.contexts == ["program"]


async def test_both_ends_close_together_after_what_was_sent() -> None:
    """The last words are heard; what is sent later is refused or dropped. Closing may repeat."""
    primary, worker = connected()
    await worker.channel.send("last words")
    worker.channel.close()
    worker.channel.close()
    assert await primary.closed is None
    assert await worker.closed is None
    assert (await primary.heard.get())[0] == UserMessage("last words")
    with pytest.raises(ChannelClosed):
        await primary.channel.send("too late")
    primary.channel.abort()


async def test_what_crosses_the_end_is_dropped() -> None:
    """A message that is under way when the other end closes is lost, and nothing fails."""
    primary, worker = connected()
    worker.channel.close()
    primary.channel.post(DrainRequest("drain"))
    await primary.channel.send("under way")
    assert await worker.closed is None
    await asyncio.sleep(0)
    assert worker.heard.empty()
