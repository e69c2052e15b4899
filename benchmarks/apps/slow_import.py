"""The hello app in a module that takes a second to import, as big apps do."""

import time

from benchmarks.apps.hello import make_app

__all__ = ["make_app"]

time.sleep(1.0)
