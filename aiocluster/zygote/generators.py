"""Random generators that the app made when it was imported: a fork copies them with their state.

The global generators (of `random` and of `numpy.random`) are seeded anew in each
worker. One that a module made for itself is the module's, so it is only named.
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
    """Name the generators in the namespaces of these modules, if they are the app's own.

    Those of installed packages are left out: what they need them for is their matter.
    """
    kinds = _kinds()
    return sorted(
        f"{vars(module).get('__name__')}.{name}"
        for module in modules
        if isinstance(module, ModuleType) and _is_of_the_app(module)
        for name, value in list(vars(module).items())
        # By its type: an object may claim any class, and do anything when it is asked.
        if issubclass(type(value), kinds) and not issubclass(type(value), random.SystemRandom)
    )


def _is_of_the_app(module: ModuleType) -> bool:
    # By the path alone: at the limit of descriptors, or as another user, no file can be read.
    file = vars(module).get("__file__")
    if not isinstance(file, str) or file.startswith(_STANDARD_LIBRARY):
        return False
    return _PACKAGES.isdisjoint(file.split(os.sep))


def _kinds() -> tuple[type, ...]:
    return (random.Random, *_numpys())


def _numpys() -> Iterator[type]:
    # Not imported: an app that has no numpy has none of its generators.
    numpy = sys.modules.get("numpy.random")
    for name in ("Generator", "RandomState"):
        if isinstance(kind := getattr(numpy, name, None), type):
            yield kind
