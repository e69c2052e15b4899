"""What a program that is a cluster prints and logs, also where nobody reads it.

A service must neither fail to start nor end because its output is closed or full.
"""

import logging
import os
import sys
from typing import TextIO

import click

from aiocluster.cluster import Cluster
from aiocluster.config.roles import Plan
from aiocluster.config.settings import Address, Settings
from aiocluster.log_limit import limit_own_lines
from aiocluster.worker.loggers import keep_loggers

log = logging.getLogger("aiocluster")


def open_standard_files() -> None:
    """Put /dev/null where standard input, output or error was closed.

    A socket that got such a number would be printed to, and libuv refuses to close it.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one


def set_up_logging(plan: Plan) -> None:
    """Log to standard error, while the program or the app has not set up its own logging."""
    keep_loggers()
    limit_own_lines()
    logging.getLogger("aiocluster").setLevel(plan.settings.log_level.upper())
    if any(role.settings.access_log for role in plan.roles.values()):
        logging.getLogger("aiohttp.access").setLevel(logging.INFO)
    for name in ("aiocluster", "aiohttp"):
        logger = logging.getLogger(name)
        if not any(isinstance(handler, FallbackHandler) for handler in logger.handlers):
            logger.addHandler(FallbackHandler())


class FallbackHandler(logging.StreamHandler[TextIO]):
    """A handler for the records that no other handler gets, as is decided for each of them.

    The app is imported, and may set up its logging, long after ours was. And as long as ours is
    not at the root, `logging.basicConfig` does what it should.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s [%(process)d] %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, unless it goes to another handler."""
        if not _is_heard(record.name):
            super().emit(record)


def _is_heard(name: str) -> bool:
    """Does a record of this logger reach a handler that is not ours?"""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        if any(not isinstance(handler, FallbackHandler) for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


def say(line: str) -> None:
    """Print a line for the user who has started the program."""
    try:
        click.echo(line)
    except OSError as error:
        log.warning("cannot print (%s): %s", error, line)


def say_where(cluster: Cluster) -> None:
    """Print where it serves, if it does, how many workers, and how to stop it."""
    urls = " and ".join(_urls(cluster))
    count = len(cluster.workers)
    serving = f"serving on {urls} with " if urls else ""
    say(
        f"aiocluster: {serving}{count} worker{'s' if count != 1 else ''}"
        f" (pid {os.getpid()}); stop with Ctrl-C or `kill {os.getpid()}`"
    )


def warn_of_loopback(cluster: Cluster, pid: int) -> None:
    """Warn that as process 1, of a container, the default address cannot be reached from outside.

    Whoever has given that address has reasons for it.
    """
    default = Settings().bind
    is_default = any(role.settings.bind is default for role in cluster.plan.roles.values())
    if pid == 1 and is_default and cluster.addresses == ((default[0].host, default[0].port),):
        log.warning(
            "%s, where it listens by default, can be reached only from inside this container; for"
            " clients outside give bind='0.0.0.0:%d' (-b 0.0.0.0:%d)",
            default[0],
            default[0].port,
            default[0].port,
        )


def _urls(cluster: Cluster) -> list[str]:
    """Return where it serves; what, where there are several roles."""
    by_role = cluster.addresses_of
    return [
        Address(host, port).url() + (f" ({role})" if len(by_role) > 1 else "")
        for role, addresses in by_role.items()
        for host, port in addresses
    ]


def discard_unwritable_output() -> None:
    """What is buffered and can never be written would turn a clean end's exit code into 120."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
