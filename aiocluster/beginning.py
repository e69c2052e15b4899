"""Where this process began, as far as it is known when aiocluster is imported for the first time.

A program may leave its folder before it serves; to run it again takes the folder it was started in.
"""

import os
import sys


def _current_folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it has been removed
        return ""


# The real path of the folder; "" when it did not exist any more.
FOLDER = _current_folder()

# The first folder that modules are searched in: with `python -m` the one it was started in.
FIRST_OF_PATH = sys.path[0] if sys.path else ""

# A process that has another id was forked since.
PID = os.getpid()
