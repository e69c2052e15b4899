"""Messages and snapshots between the user's code and the primary."""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from aiocluster.errors import ConfigError
from aiocluster.ipc.channel import Channel
from aiocluster.ipc.messages import (
    LONGEST_INTERVAL,
    MAX_SUBSCRIPTIONS,
    DrainReason,
    DrainRequest,
    SnapshotFor,
    Subscribe,
    Unsubscribe,
)
from aiocluster.metrics.feed import SnapshotBox, check_interval
from aiocluster.metrics.snapshot import Snapshot


class Messaging:
    """The user's side of the channel. The channel's window bounds the unread messages here."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._inbox: deque[tuple[Any, int]] = deque()
        self._arrived = asyncio.Event()
        self._closed = False
        self._ids = itertools.count(1)
        self._subscriptions: dict[float, _Subscription] = {}  # by their intervals

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
        """Queue a message that arrived; its reader gives its size back to the sender's window."""
        self._inbox.append((payload, size))
        self._arrived.set()

    def put_snapshot(self, message: SnapshotFor) -> None:
        """Pass on a snapshot that arrived; its subscription may have just ended."""
        for subscription in self._subscriptions.values():
            if subscription.number == message.subscription_id:
                subscription.put(msgspec.convert(message.snapshot, Snapshot))

    def close(self) -> None:
        """End every iterator once all unread messages are read. Idempotent."""
        self._closed = True
        self._arrived.set()
        for subscription in self._subscriptions.values():
            for mailbox in subscription.mailboxes:
                mailbox.close()

    async def _snapshots(self, interval: float) -> AsyncIterator[Snapshot]:
        if (subscription := self._subscriptions.get(interval)) is None:
            if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
                raise ConfigError(
                    f"subscribe: {interval:g} s would be one interval too many:"
                    f" a worker may use {MAX_SUBSCRIPTIONS} at one time"
                )
            subscription = _Subscription(next(self._ids))
            self._subscriptions[interval] = subscription
            self._channel.post(Subscribe(subscription.number, min(interval, LONGEST_INTERVAL)))
        mailbox = SnapshotBox()
        subscription.mailboxes.add(mailbox)
        if self._closed:
            mailbox.close()
        try:
            while (snapshot := await mailbox.next()) is not None:
                yield snapshot
        finally:
            subscription.mailboxes.discard(mailbox)
            if not subscription.mailboxes:
                del self._subscriptions[interval]
                self._channel.post(Unsubscribe(subscription.number))


class _Subscription:
    """A subscription at the primary, shared by all readers here with the same interval."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.mailboxes: set[SnapshotBox] = set()

    def put(self, snapshot: Snapshot) -> None:
        for mailbox in self.mailboxes:
            mailbox.put(snapshot)
