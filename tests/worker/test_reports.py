"""What a worker tells of itself; the test plays its channel."""

from typing import Any, cast

import pytest

from aiocluster.config.settings import settings_from
from aiocluster.ipc.channel import Channel
from aiocluster.ipc.messages import Message, ReportMetrics
from aiocluster.metrics.instruments import LagMeter
from aiocluster.metrics.snapshot import Report
from aiocluster.worker.reports import Reports
from tests.support.waiting import turns_until


class FakeChannel:
    """Writes down what is sent, unless the primary does not read."""

    def __init__(self) -> None:
        self.congested = self.closed = False
        self.reports: list[Report] = []

    def post(self, message: Message) -> None:
        assert isinstance(message, ReportMetrics)
        self.reports.append(message.report)


class Stage:
    """The reports of one worker, and what it has measured."""

    def __init__(self, **settings: Any) -> None:
        self.channel = FakeChannel()
        self.lag = LagMeter()
        self.latency = {7: 1}
        made = settings_from({"metrics_interval": 1000.0, **settings})
        self.reports = Reports(made, cast(Channel, self.channel), self.lag)

    def take(self) -> dict[int, int]:
        taken, self.latency = self.latency, {}
        return taken


async def test_the_first_is_sent_at_once() -> None:
    """A worker that has just come up is seen as it is."""
    stage = Stage()
    stage.lag.record(0.5)
    stage.reports.begin(stage.take)

    (report,) = stage.channel.reports
    assert (report.latency, report.lag_max) == ({7: 1}, 0.5)
    assert report.rss_bytes > 0 < report.pss_bytes


async def test_further_ones_follow_by_themselves() -> None:
    """Each with what was measured since the one before."""
    stage = Stage(metrics_interval=0.05)
    stage.reports.begin(stage.take)
    await turns_until(lambda: len(stage.channel.reports) >= 3)
    assert [report.latency for report in stage.channel.reports[:2]] == [{7: 1}, {}]


@pytest.mark.parametrize("state", ["congested", "closed"])
async def test_a_primary_that_does_not_read_is_sent_none(state: str) -> None:
    """What was measured is kept for when it does."""
    stage = Stage()
    setattr(stage.channel, state, True)
    stage.lag.record(0.5)
    stage.reports.begin(stage.take)
    assert stage.channel.reports == []

    setattr(stage.channel, state, False)
    stage.reports.send()
    (report,) = stage.channel.reports
    assert (report.latency, report.lag_max) == ({7: 1}, 0.5)


async def test_before_it_has_begun_there_is_none() -> None:
    """A worker that fails to start has measured nothing."""
    stage = Stage()
    stage.reports.send()
    assert stage.channel.reports == []
