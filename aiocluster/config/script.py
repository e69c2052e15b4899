"""A program's file, given to be served as it is."""

from msgspec import Struct


class Script(Struct, frozen=True):
    """What `python path arguments...` would run: a file, or a folder or zip with a __main__.py."""

    path: str
    arguments: tuple[str, ...] = ()
    folder: str = ""  # in which the command was typed; "" is the current one

    def __str__(self) -> str:
        """Return the path, as it was typed."""
        return self.path
