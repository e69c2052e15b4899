"""What the user's code sends to the primary and hears from it: messages and snapshots."""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from aiocluster.ipc.channel import Channel
from aiocluster.ipc.messages import DrainReason, DrainRequest, SnapshotFor, Subscribe, Unsubscribe
from aiocluster.metrics.feed import Mailbox, check_interval
from aiocluster.metrics.snapshot import Snapshot


class Mail:
    """The user's side of the channel. The channel's window bounds what lies here unread."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._inbox: deque[tuple[Any, int]] = deque()
        self._arrived = asyncio.Event()
        self._closed = False
        self._ids = itertools.count(1)
        self._mailboxes: dict[int, Mailbox[Snapshot]] = {}

    async def send(self, payload: Any) -> None:
        """See WorkerContext.send."""
        await self._channel.send(payload)

    async def messages(self) -> AsyncIterator[Any]:
        """See WorkerContext.messages."""
        while True:
            while not self._inbox:
                if self._closed:
                    return
                self._arrived.clear()
                await self._arrived.wait()
            payload, size = self._inbox.popleft()
            self._channel.consumed(size)
            yield payload

    def snapshots(self, interval: float) -> AsyncIterator[Snapshot]:
        """See WorkerContext.subscribe."""
        check_interval(interval)
        return self._snapshots(float(interval))

    def ask_to_drain(self, reason: DrainReason) -> None:
        """See WorkerContext.drain."""
        self._channel.post(DrainRequest(reason))

    def put_message(self, payload: Any, size: int) -> None:
        """A message came; whoever reads it gives its size back to the sender."""
        self._inbox.append((payload, size))
        self._arrived.set()

    def put_snapshot(self, message: SnapshotFor) -> None:
        """A snapshot came; it may be for a subscription that has just ended."""
        if (mailbox := self._mailboxes.get(message.subscription_id)) is not None:
            mailbox.put(msgspec.convert(message.snapshot, Snapshot))

    def close(self) -> None:
        """End every iterator once what lies unread is read. Idempotent."""
        self._closed = True
        self._arrived.set()
        for mailbox in self._mailboxes.values():
            mailbox.close()

    async def _snapshots(self, interval: float) -> AsyncIterator[Snapshot]:
        subscription_id = next(self._ids)
        mailbox = self._mailboxes[subscription_id] = Mailbox()
        self._channel.post(Subscribe(subscription_id, interval))
        if self._closed:
            mailbox.close()
        try:
            while (taken := await mailbox.take()) is not None:
                snapshot, missed = taken
                yield msgspec.structs.replace(snapshot, missed=snapshot.missed + missed)
        finally:
            del self._mailboxes[subscription_id]
            self._channel.post(Unsubscribe(subscription_id))
