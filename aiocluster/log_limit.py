"""Keeps a fault from flooding the log: each place of ours may write only so many lines.

Lines are counted for each call site and level, in each process. A later line says how many were
left out. Tracebacks and stacks are never left out, since they are mostly of the app's code, nor is
a line of another package's logger.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

# The lines that one place may write at once: as many as the start, the stop or the crash of a
# large cluster needs. Then the lines a second: as many as a person can still read.
BURST = 200.0
PER_SECOND = 10.0

# Seconds in which what is left out is counted before it is told.
_TELLING_INTERVAL = 10.0

# Every logger of ours: a filter holds for its own logger only, not for those below it.
LOGGERS = (
    "aiocluster",
    "aiocluster.autoscale",
    "aiocluster.dispatcher",
    "aiocluster.events",
    "aiocluster.listener",
    "aiocluster.metrics",
    "aiocluster.reload",
    "aiocluster.spawner",
    "aiocluster.supervisor",
    "aiocluster.upgrade",
    "aiocluster.watchdog",
    "aiocluster.worker",
)


@dataclass(slots=True)
class _Site:
    """One place at one level."""

    left: float  # lines that it may write at once
    at: float  # when that was so
    left_out: int = 0
    since: float = 0.0  # when the first of these came
    sample: logging.LogRecord | None = None  # the last of them


class LogLimit(logging.Filter):
    """The limit of one process."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._sites: dict[Hashable, _Site] = {}
        self._telling = False

    def filter(self, record: logging.LogRecord) -> bool:
        """May this line be written? First tell what is due of those that were not."""
        if self._telling:
            return True
        now = self._now()
        self.tell(now - _TELLING_INTERVAL)
        key = (record.pathname, record.lineno, record.levelno)
        site = self._sites.setdefault(key, _Site(BURST, now))
        site.left = min(site.left + max(now - site.at, 0.0) * PER_SECOND, BURST)
        site.at = now
        if site.left >= 1.0:
            site.left -= 1.0
            return True
        if _is_text(record):
            return True
        self._leave_out(site, record, now)
        return False

    def tell(self, until: float | None = None) -> None:
        """Tell how many lines were left out: of those places where that began by `until`."""
        for site in [*self._sites.values()]:
            if site.left_out and (until is None or site.since <= until):
                self._tell_of(site)

    def _leave_out(self, site: _Site, record: logging.LogRecord, now: float) -> None:
        if not site.left_out:
            site.since = now
            # Where no loop runs the next line, or the end of the process, tells it.
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().call_later(_TELLING_INTERVAL, self.tell)
        site.left_out += 1
        site.sample = record

    def _tell_of(self, site: _Site) -> None:
        count, sample, site.left_out, site.sample = site.left_out, site.sample, 0, None
        if sample is None:  # another thread has just told it
            return
        seconds = self._now() - site.since
        self._telling = True
        try:
            logging.getLogger(sample.name).log(
                sample.levelno,
                "%d lines like this one were left out in the last %.0f s: %s",
                count,
                seconds,
                sample.getMessage(),
            )
        finally:
            self._telling = False


def _is_text(record: logging.LogRecord) -> bool:
    return bool(record.exc_info or record.stack_info) or "\n" in record.getMessage()


_limit = LogLimit()


def limit_own_lines() -> None:
    """Limit what our loggers write, in this process and those that it forks. Idempotent."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_limit)


def tell_what_was_left_out() -> None:
    """Tell it now: the process is about to fork, or to end."""
    _limit.tell()
