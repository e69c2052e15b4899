"""What a worker measures of itself, sent to the primary again and again."""

import asyncio
from collections.abc import Callable

from aiocluster.config.settings import Settings
from aiocluster.ipc.channel import Channel
from aiocluster.ipc.messages import ReportMetrics
from aiocluster.metrics.instruments import LagMeter
from aiocluster.metrics.process import ProcessFigures
from aiocluster.metrics.snapshot import Report


class Reports:
    """Those of one worker: each `metrics_interval` seconds one, from `begin` on."""

    def __init__(self, settings: Settings, channel: Channel, lag: LagMeter) -> None:
        self._interval = settings.metrics_interval
        self._channel = channel
        self._lag = lag
        self._figures = ProcessFigures(pss_has_limit=settings.memory_measure == "pss")
        self._loop = asyncio.get_running_loop()
        self._take_latency: Callable[[], dict[int, int]] | None = None

    def begin(self, take_latency: Callable[[], dict[int, int]]) -> None:
        """Send the first one; `take_latency` returns what it was since the last take."""
        self._take_latency = take_latency
        self._repeat()

    def send(self) -> None:
        """Send one now, unless the primary does not read: then what was measured is kept."""
        if self._channel.congested or self._channel.closed or self._take_latency is None:
            return
        cpu_percent, rss_bytes, pss_bytes = self._figures.take()
        lag_mean, lag_max = self._lag.take()
        report = Report(
            latency=self._take_latency(),
            lag_mean=lag_mean,
            lag_max=lag_max,
            cpu_percent=cpu_percent,
            rss_bytes=rss_bytes,
            pss_bytes=pss_bytes,
        )
        self._channel.post(ReportMetrics(report))

    def _repeat(self) -> None:
        self._loop.call_later(self._interval, self._repeat)
        self.send()
