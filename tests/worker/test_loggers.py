"""Our loggers, and aiohttp's, through the configurations that an app may make."""

import logging
import logging.config
from collections.abc import Iterator

import pytest

from aiocluster.worker.loggers import keep_loggers

SERVER, OURS = logging.getLogger("aiohttp.server"), logging.getLogger("aiocluster.worker")
OTHER = logging.getLogger("some_library")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Leave the loggers of the other tests alone."""
    loggers = [one for one in logging.root.manager.loggerDict.values() if hasattr(one, "disabled")]
    handlers, level = logging.root.handlers[:], logging.root.level
    before = [(logger, logger.disabled) for logger in loggers]
    yield
    for logger, disabled in before:
        logger.disabled = disabled
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def test_what_dict_config_has_disabled_is_enabled_again() -> None:
    """Of ours and of aiohttp's; other libraries' loggers are as under run_app."""
    logging.config.dictConfig({"version": 1})
    assert SERVER.disabled
    assert OURS.disabled

    keep_loggers()

    assert not SERVER.disabled
    assert not OURS.disabled
    assert OTHER.disabled


def test_what_an_app_has_disabled_itself_stays_so() -> None:
    """It has said what it does not want to hear."""
    SERVER.disabled = True

    keep_loggers()

    assert SERVER.disabled
