"""A transport that shows the client named by a proxy as its peer."""

import asyncio
from typing import Any, cast

from aiocluster.ipc.handoff import Client


def with_client(transport: asyncio.BaseTransport, client: Client) -> asyncio.Transport:
    """Return the transport of a proxy's connection, with `client` as its peer."""
    return cast(asyncio.Transport, _ClientTransport(transport, client))


class _ClientTransport:
    """A transport that passes on everything except the look-up of the peer's address."""

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
