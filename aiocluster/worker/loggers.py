"""Keeps aiohttp's and our own loggers audible when the app sets up its logging.

`dictConfig` and `fileConfig` by default disable every logger that exists and is not named. An
app that sets up its logging before it imports aiohttp loses nothing of aiohttp's by that, under
`web.run_app`; here aiohttp is always imported first. So what they have disabled is enabled again.
"""

import logging

_KEPT = ("aiohttp", "aiocluster")

# Nothing but such a configuration disables it: a logger that an app has disabled by itself stays
# as it is.
_canary = logging.getLogger("_aiocluster.canary")


def keep_loggers() -> None:
    """Enable our loggers and aiohttp's, if a configuration has disabled all that it knew."""
    if not _canary.disabled:
        return
    _canary.disabled = False
    for name, logger in [*logging.root.manager.loggerDict.items()]:
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in _KEPT:
            logger.disabled = False
