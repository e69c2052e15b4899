"""Keeps aiohttp's and our own loggers enabled when the app sets up its logging.

`dictConfig` and `fileConfig` by default disable every existing logger that they do not name. Under
`web.run_app`, an app that sets up its logging before it imports aiohttp keeps aiohttp's loggers;
here aiohttp is always imported first. So this module enables the disabled loggers again.
"""

import logging

_KEPT = ("aiohttp", "aiocluster")

# Only such a configuration disables this logger, and so shows itself. A logger that the app has
# disabled by name stays disabled.
_canary = logging.getLogger("_aiocluster.canary")


def keep_loggers() -> None:
    """Enable our loggers and aiohttp's, if a configuration has disabled existing loggers."""
    if not _canary.disabled:
        return
    _canary.disabled = False
    for name, logger in [*logging.root.manager.loggerDict.items()]:
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in _KEPT:
            logger.disabled = False
