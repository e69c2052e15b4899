"""A script: a program's file that is served as it is."""

from msgspec import Struct


class Script(Struct, frozen=True):
    """A script as in `python path arguments...`: a file, or a folder or zip with a __main__.py."""

    path: str
    arguments: tuple[str, ...] = ()
    folder: str = ""  # the folder in which the command was typed; "" is the current one

    def __str__(self) -> str:
        """Return the path, as it was typed."""
        return self.path
