"""A program tried out as a child: what it says, and what becomes of it."""

import sys

import psutil
import pytest

from aiocluster.errors import BootError
from aiocluster.ipc.handover import RECORD
from aiocluster.ipc.messages import PROTOCOL
from aiocluster.launch.interpreter import InterpreterSpec
from aiocluster.primary.lifecycle.preflight import SUCCESSION, check_roles, try_out
from tests.support.connections import open_fds
from tests.support.waiting import soon

SAY = f"import os; os.write(int(os.environ['{SUCCESSION}'].split(':')[2]), b'%s')"
ROLES = ["web", "jobs"]
GOOD = f'{{"record": {RECORD}, "protocol": {PROTOCOL}, "roles": ["jobs", "web"], "more": 5}}'


def program(source: str) -> InterpreterSpec:
    return InterpreterSpec([sys.executable, "-c", source], call=3)


async def test_one_that_would_start_is_good() -> None:
    """A later version may say more; no child and no descriptor is left."""
    before, children = open_fds(), psutil.Process().children()
    await soon(try_out(program(SAY % GOOD), 60.0, ROLES))
    assert open_fds() - before == set()
    assert {*psutil.Process().children()} <= {*children}


async def test_it_knows_which_call_it_is() -> None:
    """Of the calls of `run` that the program makes."""
    check = f"assert os.environ['{SUCCESSION}'].startswith('trial:3:')"
    await soon(try_out(program(f"import os; {check}; {SAY % GOOD}"), 60.0, ROLES))


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("no Python", "SyntaxError: invalid syntax"),
        ("raise OSError('no file')", "OSError: no file"),
        ("pass", "ended before it called aiocluster.run"),
        (SAY % '{"record"', "ended before it called aiocluster.run"),
        (SAY % '{"record": 1, "protocol": 1, "cause": "ImportError: x"}', "ImportError: x"),
        (SAY % f'{{"record": 99, "protocol": {PROTOCOL}}}', "record 99 and"),
        (SAY % f'{{"record": {RECORD}, "protocol": 99}}', "protocol 99 and"),
        (SAY % GOOD.replace("jobs", "mail"), "roles are mail, web and not jobs, web"),
    ],
)
async def test_one_that_would_not_is_told(source: str, cause: str) -> None:
    """By its own words, by its standard error, or by its versions."""
    before = open_fds()
    with pytest.raises(BootError, match=cause):
        await soon(try_out(program(source), 60.0, ROLES))
    assert open_fds() - before == set()


@pytest.mark.parametrize("new", [["web"], ["web", "jobs", "mail"], ["web", "mail"], []])
def test_a_program_with_other_roles_is_refused(new: list[str]) -> None:
    """It would not know what to do with the workers of the old, or what to do them for."""
    with pytest.raises(BootError, match="and not jobs, web: to change them takes a stop and a"):
        check_roles(new, ROLES)


def test_the_order_of_roles_does_not_matter() -> None:
    """They are known by their names."""
    check_roles(["jobs", "web"], ROLES)


async def test_one_that_takes_too_long_is_killed() -> None:
    """And reaped."""
    children = psutil.Process().children()
    with pytest.raises(BootError, match=r"longer than 0\.1 s"):
        await soon(try_out(program("import threading; threading.Event().wait()"), 0.1, ROLES))
    assert {*psutil.Process().children()} <= {*children}


async def test_a_long_traceback_does_not_stop_it() -> None:
    """More than a pipe holds."""
    source = f"import os, json; fd = int(os.environ['{SUCCESSION}'].split(':')[2]); "
    source += "open(fd, 'w').write(json.dumps(dict(record=1, protocol=1, cause='x', "
    source += "traceback='y' * 300_000)))"
    with pytest.raises(BootError) as caught:
        await soon(try_out(program(source), 60.0, ROLES))
    assert len(caught.value.traceback) == 300_000


async def test_one_that_cannot_be_run_again_is_not_tried() -> None:
    """Nothing else is started in its place."""
    before = open_fds()
    with pytest.raises(BootError, match="cannot be run again: it was typed"):
        await try_out(InterpreterSpec(["python"], refusal="it was typed"), 60.0, ROLES)
    assert open_fds() == before
