"""Imports the app once, in the zygote, so that a fork is all a new worker costs.

A module that starts a thread when imported cannot be forked safely: the thread would be
missing in the worker, and a lock it held would stay locked. Then the zygote starts itself
again, imports nothing, and each worker imports for itself.

Only threads that Python knows count. Native ones (of a BLAS, say) come from libraries that
register what a fork needs; a library that does not is what `preload=False` is for.
"""

import threading
from collections.abc import Callable
from typing import Literal

from aiocluster.ipc.failures import describe
from aiocluster.ipc.messages import PrepareFailed


def preload(
    load: Callable[[], object], setting: bool | Literal["auto"]
) -> object | PrepareFailed | None:
    """Return what `load` imports; None when each worker must import it for itself."""
    if setting is False:
        return None
    threads_before = set(threading.enumerate())
    try:
        app = load()
    except BaseException as error:
        return PrepareFailed(*describe(error))
    if setting == "auto" and set(threading.enumerate()) - threads_before:
        return None
    return app
