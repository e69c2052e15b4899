"""What a zygote that needs no program does before it imports the app."""

import logging
from collections.abc import Callable

import pytest

from aiocluster.config.roles import RoleSpec
from aiocluster.config.settings import settings_from
from aiocluster.program import new_zygote


def test_it_logs_as_the_program_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set up before anything of the app is imported, which may set up its own."""
    begun: list[Callable[[RoleSpec], object]] = []
    monkeypatch.setattr(new_zygote, "unpickled_zygote", lambda fd, begin: begun.append(begin))
    monkeypatch.setattr(logging.getLogger("aiocluster"), "level", logging.NOTSET)

    new_zygote.zygote_of_a_program(5)
    begun[0](RoleSpec("jobs", "pkg:name", settings_from({"log_level": "error"})))

    assert logging.getLogger("aiocluster").level == logging.ERROR
