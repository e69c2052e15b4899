"""A transport whose peer's address is that of the client which a proxy has named."""

import asyncio
from typing import Any, cast

from aiocluster.ipc.handoff import Client


def with_client(transport: asyncio.BaseTransport, client: Client) -> asyncio.Transport:
    """Return the transport of a proxy's connection, with its client as the peer."""
    return cast(asyncio.Transport, _ClientTransport(transport, client))


class _ClientTransport:
    """A transport that passes on all but the question for the peer's address."""

    def __init__(self, transport: asyncio.BaseTransport, client: Client) -> None:
        self._transport = transport
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See asyncio.BaseTransport."""
        if name == "peername":
            return self._client
        return self._transport.get_extra_info(name, default)
