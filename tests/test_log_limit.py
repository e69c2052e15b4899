"""How many lines each place may log, in made-up time."""

import asyncio
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aiocluster
from aiocluster import log_limit
from aiocluster.log_limit import BURST, LOGGERS, PER_SECOND, LogLimit, limit_own_lines

log = logging.getLogger("aiocluster.limit_of_the_test")


class Log:
    """A logger of one's own with a limit of its own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.limit = LogLimit(lambda: self.now)

    def __enter__(self) -> "Log":
        log.addFilter(self.limit)
        return self

    def __exit__(self, *_: object) -> None:
        log.removeFilter(self.limit)

    def write(self, count: int, per_second: float = 1e6) -> None:
        """So many lines from one place."""
        for number in range(count):
            log.warning("line %d", number)
            self.now += 1 / per_second


@pytest.fixture
def limited(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    caplog.set_level(logging.DEBUG, "aiocluster")
    with Log() as made:
        yield made


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """How many lines were left out, and the one that stands for them."""
    pattern = re.compile(r"(\d+) lines like this one were left out in the last \d+ s: (.*)")
    found = [match for line in lines(caplog) if (match := pattern.fullmatch(line))]
    return [(int(match[1]), match[2]) for match in found]


def test_as_many_as_a_large_cluster_logs_at_once_are_all_written(
    limited: Log, caplog: pytest.LogCaptureFixture
) -> None:
    """A hundred workers that die together are a hundred lines."""
    limited.write(int(BURST))
    limited.limit.tell()

    assert len(lines(caplog)) == BURST


def test_a_flood_is_cut_and_counted(limited: Log, caplog: pytest.LogCaptureFixture) -> None:
    """Each line is written or counted; what is counted is told while the flood goes on."""
    limited.write(60_000, per_second=1000.0)  # a minute
    limited.limit.tell()

    counts = [count for count, _ in told(caplog)]
    written = len(lines(caplog)) - len(counts)
    assert BURST + 59 * PER_SECOND <= written <= BURST + 61 * PER_SECOND
    assert written + sum(counts) == 60_000
    assert 5 <= len(counts) <= 7
    assert told(caplog)[-1] == (counts[-1], "line 59999")


def test_when_the_flood_is_over_all_is_written_again(
    limited: Log, caplog: pytest.LogCaptureFixture
) -> None:
    """The next line tells what was left out before it, of whatever place."""
    limited.write(1000)
    limited.now += 60.0
    log.info("another place")
    assert lines(caplog)[-2:] == [
        "800 lines like this one were left out in the last 60 s: line 999",
        "another place",
    ]
    caplog.clear()
    limited.write(int(BURST))
    assert len(lines(caplog)) == BURST


def test_another_place_or_level_has_its_own_number(
    limited: Log, caplog: pytest.LogCaptureFixture
) -> None:
    """What matters must not be lost in what does not."""
    for _ in range(1000):
        for level in (logging.INFO, logging.ERROR):
            log.log(level, "here")
    log.error("there")

    levels = [record.levelno for record in caplog.records]
    assert levels.count(logging.INFO) == BURST
    assert levels.count(logging.ERROR) == BURST + 1


@pytest.mark.parametrize("kind", ["exc_info", "stack_info", "text"])
def test_tracebacks_are_never_left_out(
    limited: Log, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Mostly they are of the app's own code."""
    more: dict[str, Any] = {} if kind == "text" else {kind: True}
    text = "Traceback (most recent call last):\n  x" if kind == "text" else "raised"
    for _ in range(1000):
        try:
            raise ValueError("of the app")
        except ValueError:
            log.error(text, **more)
    limited.limit.tell()

    assert len(lines(caplog)) == 1000


def test_a_clock_that_goes_back_gives_nothing(limited: Log) -> None:
    """Nor does it take."""
    limited.write(int(BURST))
    limited.now -= 3600.0
    record = log.makeRecord("x", logging.INFO, __file__, 1, "line", (), None)
    assert limited.limit.filter(record)


async def test_where_a_loop_runs_it_is_told_though_no_line_follows(
    limited: Log, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood may be the last that a process logs for hours."""
    monkeypatch.setattr(log_limit, "_TELLING_INTERVAL", 0.01)
    heard = asyncio.Event()
    log.addHandler(handler := _Listening(heard))
    limited.write(1000)
    handler.listens = True
    async with asyncio.timeout(10.0):
        await heard.wait()
    log.removeHandler(handler)

    assert told(caplog) == [(800, "line 999")]


class _Listening(logging.Handler):
    def __init__(self, heard: asyncio.Event) -> None:
        super().__init__()
        self.listens = False
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        if self.listens:
            self._heard.set()


def test_every_logger_of_ours_is_limited_and_no_other() -> None:
    """A filter holds for one logger; whoever adds one adds it to the list."""
    package = Path(aiocluster.__file__).parent
    used = {
        name
        for module in package.rglob("*.py")
        for name in re.findall(r'getLogger\("(aiocluster[^"]*)"\)', module.read_text())
    }
    assert used == set(LOGGERS)

    before = {name: [*logging.getLogger(name).filters] for name in LOGGERS}
    limit_own_lines()
    limit_own_lines()
    for name in LOGGERS:
        logger = logging.getLogger(name)
        assert sum(isinstance(one, LogLimit) for one in logger.filters) == 1
        logger.filters[:] = before[name]
    assert not any(isinstance(one, LogLimit) for one in logging.getLogger("aiohttp").filters)
