"""Every exception, and whose fault it is."""

import inspect

import aiocluster
from aiocluster import errors
from aiocluster.errors import (
    BootError,
    ChannelClosed,
    ChannelError,
    ClusterError,
    ClusterStopping,
    ConfigError,
    MessageError,
    ProtocolError,
    WorkerGone,
)


def test_the_tree_is_as_drawn() -> None:
    """Who catches a branch catches what is promised to be on it."""
    assert {error: error.__bases__ for error in _all()} == {
        ClusterError: (Exception,),
        ConfigError: (ClusterError,),
        BootError: (ClusterError,),
        WorkerGone: (ClusterError,),
        ClusterStopping: (ClusterError,),
        ChannelError: (ClusterError,),
        MessageError: (ChannelError, ValueError),
        ChannelClosed: (ChannelError,),
        ProtocolError: (ChannelError,),
    }


def test_every_error_is_public_and_in_the_drawing() -> None:
    """Whatever may be raised can be named by who catches it, and is explained."""
    for error in _all():
        assert getattr(aiocluster, error.__name__) is error
        assert error.__name__ in str(errors.__doc__)
        assert error.__doc__


def test_a_boot_error_carries_cause_and_traceback() -> None:
    """Its text is the cause alone; a worker that was killed has no traceback."""
    error = BootError("ValueError: no", "Traceback …")

    assert (str(error), error.cause, error.traceback) == (
        "ValueError: no",
        "ValueError: no",
        "Traceback …",
    )
    assert BootError("it was killed").traceback == ""


def _all() -> list[type[Exception]]:
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass)]
    return [each for each in classes if issubclass(each, Exception)]
