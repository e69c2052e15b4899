"""What is printed and logged, also in processes of their own, whose output is closed or full."""

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import cast

import pytest

from aiocluster.cluster import Cluster
from aiocluster.config.roles import plan_from
from aiocluster.program.output import say_where, warn_of_loopback

PROGRAM = """
import os, socket, sys
from aiocluster.program.output import discard_unwritable_output, open_standard_files
open_standard_files()
with socket.socket() as sock:
    assert sock.fileno() > 2, sock.fileno()
print("buffered")
discard_unwritable_output()
"""


@pytest.mark.parametrize("output", ["", "<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full"])
def test_a_program_ends_well_whatever_its_output_is(output: str) -> None:
    """No socket takes a standard file's number, and what cannot be written changes no code."""
    line = f'PYTHONUNBUFFERED= "{sys.executable}" -c "$0" {output}'

    assert subprocess.run(["bash", "-c", line, PROGRAM], check=False).returncode == 0


@pytest.mark.parametrize(
    ("addresses", "workers", "said"),
    [
        (
            {"web": [("127.0.0.1", 80), ("::1", 81)]},
            4,
            "serving on http://127.0.0.1:80 and http://[::1]:81 with 4 workers",
        ),
        (
            {"web": [("127.0.0.1", 80)], "jobs": [], "admin": [("127.0.0.1", 81)]},
            4,
            "serving on http://127.0.0.1:80 (web) and http://127.0.0.1:81 (admin) with 4 workers",
        ),
        ({"web": []}, 1, "1 worker"),
        ({"mail": [], "jobs": []}, 2, "2 workers"),
    ],
)
def test_a_start_says_where_and_what(
    addresses: dict[str, list[tuple[str, int]]],
    workers: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Which role, where there are several; and how to stop it."""
    cluster = SimpleNamespace(addresses_of=addresses, workers=dict.fromkeys(range(workers)))

    say_where(cast(Cluster, cluster))

    pid = os.getpid()
    assert capsys.readouterr().out == (
        f"aiocluster: {said} (pid {pid}); stop with Ctrl-C or `kill {pid}`\n"
    )


LOGGING = """
import logging, logging.config, sys
from aiocluster.config.roles import plan_from
from aiocluster.program.output import set_up_logging
from aiocluster.worker.loggers import keep_loggers
from aiohttp import web

class ToOutput(logging.Handler):
    def emit(self, record):
        print(record.name, record.getMessage())

DICT = {{
    "version": 1,
    "handlers": {{"own": {{"()": ToOutput}}}},
    "root": {{"handlers": ["own"], "level": "INFO"}},
}}
{before}
for _ in range(2):
    set_up_logging(plan_from("pkg:app", None, {{"access_log": True}}))
{after}
keep_loggers()
logging.getLogger("aiohttp.server").error("a traceback")
logging.getLogger("aiohttp.access").info("a request")
logging.getLogger("aiocluster.worker").info("a word")
"""

NOTHING = "pass"
BASIC = "logging.basicConfig(handlers=[ToOutput()], level=logging.INFO)"
OWN = "logging.getLogger('aiohttp').addHandler(ToOutput())"
DICT = "logging.config.dictConfig(DICT)"
ACCESS = "logging.getLogger('aiohttp.access').addHandler(ToOutput())"

SERVER_LINE, ACCESS_LINE = "aiohttp.server a traceback\n", "aiohttp.access a request\n"
ALL = f"{SERVER_LINE}{ACCESS_LINE}aiocluster.worker a word\n"


@pytest.mark.parametrize(
    ("before", "after", "heard", "by_us"),
    [
        (NOTHING, NOTHING, "", 3),
        (BASIC, NOTHING, ALL, 0),
        (NOTHING, BASIC, ALL, 0),
        (DICT, NOTHING, ALL, 0),
        (NOTHING, DICT, ALL, 0),
        (BASIC, DICT, ALL, 0),
        (NOTHING, OWN, f"{SERVER_LINE}{ACCESS_LINE}", 1),
        (NOTHING, ACCESS, ACCESS_LINE, 2),
        (BASIC, "logging.getLogger('aiohttp').propagate = False", ALL[-25:], 2),
    ],
)
def test_each_record_is_written_once(before: str, after: str, heard: str, by_us: int) -> None:
    """By the app's handlers, whenever it sets them up; by ours when there is none of the app's."""
    program = LOGGING.format(before=before, after=after)
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert ran.stdout == heard
    assert len(ran.stderr.splitlines()) == by_us, ran.stderr


DEFAULT = (("127.0.0.1", 8000),)


@pytest.mark.parametrize(
    ("pid", "given", "addresses", "is_told"),
    [
        (1, {}, DEFAULT, True),
        (7, {}, DEFAULT, False),
        (1, {"bind": "127.0.0.1:8000"}, DEFAULT, False),  # whoever gives it has reasons for it
        (1, {}, (("0.0.0.0", 80),), False),  # a socket that was handed down
        (1, {}, (), False),  # a job
    ],
)
def test_a_container_s_own_address_is_warned_of(
    pid: int,
    given: dict[str, str],
    addresses: tuple[tuple[str, int], ...],
    is_told: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As process 1, where nobody has said where to listen."""
    cluster = SimpleNamespace(plan=plan_from("pkg:app", None, given), addresses=addresses)

    warn_of_loopback(cast(Cluster, cluster), pid)

    assert ("only from inside this container" in caplog.text) == is_told
    assert ("bind='0.0.0.0:8000' (-b 0.0.0.0:8000)" in caplog.text) == is_told
