import pytest

import aiocluster

PUBLIC = {
    "Autoscale",
    "BootError",
    "Candidate",
    "ChannelClosed",
    "ChannelError",
    "Cluster",
    "ClusterError",
    "ClusterStopping",
    "ConfigError",
    "Event",
    "EventsMissed",
    "MessageError",
    "Policy",
    "ProtocolError",
    "ReloadBegan",
    "ReloadFailed",
    "Reloaded",
    "Role",
    "RoleDegraded",
    "RoleRecovered",
    "Scaled",
    "Snapshot",
    "StopBegan",
    "TCPSite",
    "WorkerBlocked",
    "UpgradeFailed",
    "Upgraded",
    "WorkerContext",
    "WorkerDisconnected",
    "WorkerEvent",
    "WorkerExited",
    "WorkerForked",
    "WorkerAtFdLimit",
    "WorkerGone",
    "WorkerHandle",
    "WorkerBelowFdLimit",
    "WorkerListening",
    "WorkerMessage",
    "WorkerOnline",
    "current_worker",
    "is_primary",
    "is_worker",
    "run",
    "sticky",
    "weighted",
}


def test_public_names_change_on_purpose() -> None:
    """Adding or removing a public name means editing this list, and the manual."""
    assert set(aiocluster.__all__) == PUBLIC


def test_no_public_name_is_listed_twice() -> None:
    """`__all__` is put together from two lists."""
    assert len(aiocluster.__all__) == len(set(aiocluster.__all__))


def test_every_public_name_is_there() -> None:
    """Also those that are imported only when they are first asked for."""
    assert {name: getattr(aiocluster, name).__name__ for name in PUBLIC} == {
        name: name for name in PUBLIC
    }


def test_another_name_is_not_there() -> None:
    """The error is the usual one, so that hasattr and the like work."""
    with pytest.raises(AttributeError, match="module 'aiocluster' has no attribute 'cluster_'"):
        _ = aiocluster.cluster_
