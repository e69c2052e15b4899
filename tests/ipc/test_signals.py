"""Whom all processes leave what to."""

import signal

from aiocluster.ipc.signals import FOR_THE_PRIMARY, STOPPING
from aiocluster.program.signals import handled_signals


def test_the_primary_handles_what_is_left_to_it() -> None:
    """Else nobody would."""
    assert {*FOR_THE_PRIMARY} <= handled_signals()


def test_what_scales_is_left_to_the_primary() -> None:
    """Any other process would be stopped by it."""
    assert {signal.SIGTTIN, signal.SIGTTOU} == {*STOPPING} <= {*FOR_THE_PRIMARY}
