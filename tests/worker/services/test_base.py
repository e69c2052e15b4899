"""What the runtime asks of a service."""

import inspect
from typing import Any, cast

from aiocluster.config.settings import settings_from
from aiocluster.worker.http.service import AiohttpService
from aiocluster.worker.services.base import Service


def test_the_aiohttp_service_is_a_service() -> None:
    """It has every member, and takes what the runtime gives; the type checker knows the rest."""
    service: type[Service] = AiohttpService
    for name in ("start", "adopt", "drain", "hurry", "take_latency"):
        asked = inspect.signature(getattr(Service, name))
        given = inspect.signature(getattr(service, name))
        assert [*given.parameters] == [*asked.parameters]


async def test_before_it_starts_it_has_cut_nothing() -> None:
    """`cut` can be asked for at any time."""
    service: Service = AiohttpService(cast(Any, None), settings_from({}), memoryview(b""))

    assert service.cut == []
