"""The seed of the run: given or thrown, told at the end, and what every test's dice begin with."""

import os
import random

import pytest

_VARIABLE = "AIOCLUSTER_CHAOS_SEED"
_SEED = int(os.environ.get(_VARIABLE) or random.getrandbits(32))


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """The dice of one test: the same for the same seed, whatever else runs."""
    return random.Random(f"{_SEED} {request.node.name}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"chaos: {_VARIABLE}={_SEED} does the same again")
