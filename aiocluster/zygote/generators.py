"""Random generators that the import of the app made: a fork copies them with their state.

Each worker seeds the global generators (of `random` and of `numpy.random`) anew. A generator that
a module made for itself belongs to the module, so it is only named.
"""

import os
import random
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType

_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep

# The folders of installed packages, Debian's among them.
_PACKAGES = frozenset({"site-packages", "dist-packages"})


def made_by(modules: Iterable[object]) -> list[str]:
    """Return the names of the generators in those of these modules that are the app's own.

    Generators of installed packages are left out: the user cannot change them.
    """
    kinds = _kinds()
    return sorted(
        f"{vars(module).get('__name__')}.{name}"
        for module in modules
        if isinstance(module, ModuleType) and _is_of_the_app(module)
        for name, value in list(vars(module).items())
        # The type decides: an object may claim any class, and run any code at isinstance.
        if issubclass(type(value), kinds) and not issubclass(type(value), random.SystemRandom)
    )


def _is_of_the_app(module: ModuleType) -> bool:
    # Only the path counts: at the fd limit, or as another user, no file can be read.
    file = vars(module).get("__file__")
    if not isinstance(file, str) or file.startswith(_STANDARD_LIBRARY):
        return False
    return _PACKAGES.isdisjoint(file.split(os.sep))


def _kinds() -> tuple[type, ...]:
    return (random.Random, *_numpys())


def _numpys() -> Iterator[type]:
    # numpy is not imported here: an app that has not imported it has none of its generators.
    numpy = sys.modules.get("numpy.random")
    for name in ("Generator", "RandomState"):
        if isinstance(kind := getattr(numpy, name, None), type):
            yield kind
