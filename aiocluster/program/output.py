"""The output and the log of the program, even if no process reads them.

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
    """Open /dev/null as standard input, output or error if one of them is closed.

    Otherwise a socket would get that number: output would go to it, and libuv refuses to close it.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is `fd`


def set_up_logging(plan: Plan) -> None:
    """Log to standard error until the program or the app has set up its own logging."""
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
    """A handler for the records that no other handler gets; each record is checked for that.

    The app is imported, and may set up its logging, long after this handler is added. Since the
    handler is not at the root, `logging.basicConfig` works as usual.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s [%(process)d] %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, unless another handler gets it."""
        if not _is_heard(record.name):
            super().emit(record)


def _is_heard(name: str) -> bool:
    """Return True if a record of this logger reaches another handler than a FallbackHandler."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        if any(not isinstance(handler, FallbackHandler) for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


def say(line: str) -> None:
    """Print a line for the user."""
    try:
        click.echo(line)
    except OSError as error:
        log.warning("cannot print (%s): %s", error, line)


def say_where(cluster: Cluster) -> None:
    """Print the addresses, if there are any, the number of workers, and how to stop the program."""
    urls = " and ".join(_urls(cluster))
    count = len(cluster.workers)
    serving = f"serving on {urls} with " if urls else ""
    say(
        f"aiocluster: {serving}{count} worker{'s' if count != 1 else ''}"
        f" (pid {os.getpid()}); stop with Ctrl-C or `kill {os.getpid()}`"
    )


def warn_of_loopback(cluster: Cluster, pid: int) -> None:
    """Warn that the default address of process 1 cannot be reached from outside its container.

    If the user has given that address, there is no warning.
    """
    default = Settings().bind
    is_default = any(role.settings.bind is default for role in cluster.plan.roles.values())
    if pid == 1 and is_default and cluster.addresses == ((default[0].host, default[0].port),):
        log.warning(
            "%s, the default address, can be reached only from inside this container; for"
            " clients outside give bind='0.0.0.0:%d' (-b 0.0.0.0:%d)",
            default[0],
            default[0].port,
            default[0].port,
        )


def _urls(cluster: Cluster) -> list[str]:
    """Return the URLs of the cluster, each with its role if there are several roles."""
    by_role = cluster.addresses_of
    return [
        Address(host, port).url() + (f" ({role})" if len(by_role) > 1 else "")
        for role, addresses in by_role.items()
        for host, port in addresses
    ]


def discard_unwritable_output() -> None:
    """Drop buffered output that cannot be written: it would make the exit code 120."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
