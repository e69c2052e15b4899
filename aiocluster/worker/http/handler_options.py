"""The options of aiohttp's request handler: the settings, and the app's own `handler_args`.

As under aiohttp's runner, an app's option overrides a setting. If the handler does not take an
option, aiohttp warns at each connection, and also ignores all other options.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

log = logging.getLogger("aiocluster.worker")


def usable_options(options: Mapping[str, Any], make: Callable[..., object]) -> dict[str, Any]:
    """Return the options with which `make` can make a handler; warn once of the refused ones."""
    refused = _refused(options, make)
    if refused:
        log.warning(
            "the app's handler_args: ignored %s: %s",
            ", ".join(refused),
            "; ".join(str(error) for error in refused.values()),
        )
    return {name: value for name, value in options.items() if name not in refused}


def _refused(options: Mapping[str, Any], make: Callable[..., object]) -> dict[str, TypeError]:
    if _error_of(options, make) is None:
        return {}
    errors = {name: _error_of({name: value}, make) for name, value in options.items()}
    return {name: error for name, error in errors.items() if error is not None}


def _error_of(options: Mapping[str, Any], make: Callable[..., object]) -> TypeError | None:
    try:
        make(**options)
    except TypeError as error:
        return error
    return None
