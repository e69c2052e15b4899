"""The program in an interpreter's command line, found as Python itself finds it."""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple


class Source(Enum):
    """The place from which the program came."""

    SCRIPT = "a file, a folder or an archive"
    MODULE = "-m"
    COMMAND = "-c"
    STDIN = "standard input, or what is typed"


class Started(NamedTuple):
    """The source of the program, and the index of the argument that names it (-1: none does)."""

    source: Source
    place: int


# Options that may have the next argument as their value. -c and -m end the options.
_WITH_VALUE = "WX"
_LONG_WITH_VALUE = "--check-hash-based-pycs"


def started_with(arguments: Sequence[str]) -> Started:
    """Return the program in the arguments of an interpreter, the first of which is its own name."""
    place = 1
    while place < len(arguments):
        argument = arguments[place]
        if argument == "-":
            return Started(Source.STDIN, -1)
        if not argument.startswith("-"):
            return Started(Source.SCRIPT, place)
        if argument.startswith("--"):
            place += 2 if argument == _LONG_WITH_VALUE else 1
            continue
        source, values = _short(argument)
        if source is not None:
            return Started(source, place + values)
        place += 1 + values
    return Started(Source.STDIN, -1)


def _short(argument: str) -> tuple[Source | None, int]:
    """Return the source that joined short options name, and how many arguments are their value."""
    for index, letter in enumerate(argument[1:], 1):
        is_last = index == len(argument) - 1
        if letter in "cm":
            source = Source.COMMAND if letter == "c" else Source.MODULE
            return source, int(is_last)
        if letter in _WITH_VALUE:
            return None, int(is_last)
    return None, 0
