"""Which generators are named: those that a module of the app made for itself."""

import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

from aiocluster.zygote.generators import made_by


@pytest.fixture
def module(tmp_path: Path) -> ModuleType:
    """An empty module of the app."""
    made = ModuleType("shop_web")
    made.__file__ = str(tmp_path / "shop_web.py")
    return made


def test_a_generator_of_the_app_is_named(module: ModuleType) -> None:
    """By its module and its name, where it can be changed."""
    module.own = random.Random()  # type: ignore[attr-defined]

    assert made_by([module, None]) == ["shop_web.own"]


def test_one_without_a_state_is_not_named(module: ModuleType) -> None:
    """The system's generator gives each process other numbers."""
    module.own = random.SystemRandom()  # type: ignore[attr-defined]
    module.function = random.random  # type: ignore[attr-defined]

    assert made_by([module]) == []


def test_one_of_an_installed_package_is_not_named(module: ModuleType) -> None:
    """The user cannot change it, and it may be meant so."""
    module.own = random.Random()  # type: ignore[attr-defined]
    module.__file__ = pytest.__file__

    assert made_by([module, random]) == []


def test_those_of_numpy_are_named(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it is imported: it is not imported for that."""
    numpy_random = ModuleType("numpy.random")
    numpy_random.Generator = type("Generator", (), {})  # type: ignore[attr-defined]
    numpy_random.RandomState = type("RandomState", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "numpy.random", numpy_random)
    module.own = numpy_random.Generator()  # type: ignore[attr-defined]
    module.old = numpy_random.RandomState()  # type: ignore[attr-defined]

    assert made_by([module]) == ["shop_web.old", "shop_web.own"]


def test_an_object_that_claims_to_be_anything_is_left_alone(module: ModuleType) -> None:
    """A proxy that is asked for its class outside of a request may raise."""

    def refuse(self: object) -> type:
        raise RuntimeError("outside of a request")

    module.proxy = type("Proxy", (), {"__class__": property(refuse)})()  # type: ignore[attr-defined]

    assert made_by([module]) == []
