"""A worker's reports: its own figures, sent to the primary at intervals."""

import asyncio
from collections.abc import Callable

from aiocluster.config.settings import Settings
from aiocluster.ipc.channel import Channel
from aiocluster.ipc.messages import ReportMetrics
from aiocluster.metrics.instruments import LagMeter
from aiocluster.metrics.process import ProcessFigures
from aiocluster.metrics.snapshot import Report


class Reports:
    """The reports of one worker: one each `metrics_interval` seconds, from `begin` on."""

    def __init__(self, settings: Settings, channel: Channel, lag: LagMeter) -> None:
        self._interval = settings.metrics_interval
        self._channel = channel
        self._lag = lag
        self._figures = ProcessFigures(pss_has_limit=settings.memory_measure == "pss")
        self._loop = asyncio.get_running_loop()
        self._take_latency: Callable[[], dict[int, int]] | None = None

    def begin(self, take_latency: Callable[[], dict[int, int]]) -> None:
        """Send the first report; `take_latency` returns the latencies since its last call."""
        self._take_latency = take_latency
        self._repeat()

    def send(self) -> None:
        """Send a report now. If the primary does not read, keep the figures for the next one."""
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
