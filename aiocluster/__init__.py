"""A cluster of asyncio workers behind one address: `aiocluster.run(make_app, workers="auto")`.

Start reading at cluster.py. Imports point down, and the folder says which process runs a line:
ui/, program/, cluster.py         the command line; run(); what a program can ask of its cluster
children/, launch/                how zygotes and workers begin; how interpreters are started
primary/, zygote/, worker/        the three kinds of processes
ipc/                              how they talk: messages, channel, handoff, scoreboard
policies/, metrics/, config/      which worker is next; what is measured; the settings
events.py, errors.py              what a subscriber gets; every exception
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from aiocluster import beginning as beginning  # which notes the folder: before anybody leaves it
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

if TYPE_CHECKING:
    from aiocluster.cluster import Cluster as Cluster
    from aiocluster.config.autoscale import Autoscale as Autoscale
    from aiocluster.config.roles import Role as Role
    from aiocluster.events import Event as Event
    from aiocluster.events import EventsMissed as EventsMissed
    from aiocluster.events import ReloadBegan as ReloadBegan
    from aiocluster.events import Reloaded as Reloaded
    from aiocluster.events import ReloadFailed as ReloadFailed
    from aiocluster.events import RoleDegraded as RoleDegraded
    from aiocluster.events import RoleRecovered as RoleRecovered
    from aiocluster.events import Scaled as Scaled
    from aiocluster.events import StopBegan as StopBegan
    from aiocluster.events import Upgraded as Upgraded
    from aiocluster.events import UpgradeFailed as UpgradeFailed
    from aiocluster.events import WorkerAtFdLimit as WorkerAtFdLimit
    from aiocluster.events import WorkerBelowFdLimit as WorkerBelowFdLimit
    from aiocluster.events import WorkerBlocked as WorkerBlocked
    from aiocluster.events import WorkerDisconnected as WorkerDisconnected
    from aiocluster.events import WorkerEvent as WorkerEvent
    from aiocluster.events import WorkerExited as WorkerExited
    from aiocluster.events import WorkerForked as WorkerForked
    from aiocluster.events import WorkerListening as WorkerListening
    from aiocluster.events import WorkerMessage as WorkerMessage
    from aiocluster.events import WorkerOnline as WorkerOnline
    from aiocluster.metrics.snapshot import Snapshot as Snapshot
    from aiocluster.policies.base import Candidate as Candidate
    from aiocluster.policies.base import Policy as Policy
    from aiocluster.policies.sticky import sticky as sticky
    from aiocluster.policies.weighted import weighted as weighted
    from aiocluster.primary.workers.handle import WorkerHandle as WorkerHandle
    from aiocluster.program.run import run as run
    from aiocluster.worker.api.context import WorkerContext as WorkerContext
    from aiocluster.worker.api.context import current_worker as current_worker
    from aiocluster.worker.api.context import is_primary as is_primary
    from aiocluster.worker.api.context import is_worker as is_worker
    from aiocluster.worker.api.site import TCPSite as TCPSite

# Imported when first asked for: `aiocluster --help`, and a module that only asks
# `current_worker()`, need not load the whole server.
_LAZY = {
    "Autoscale": "config.autoscale",
    "Candidate": "policies.base",
    "Cluster": "cluster",
    "Event": "events",
    "EventsMissed": "events",
    "Policy": "policies.base",
    "ReloadBegan": "events",
    "ReloadFailed": "events",
    "Reloaded": "events",
    "Role": "config.roles",
    "RoleDegraded": "events",
    "RoleRecovered": "events",
    "Scaled": "events",
    "Snapshot": "metrics.snapshot",
    "StopBegan": "events",
    "TCPSite": "worker.api.site",
    "WorkerBlocked": "events",
    "UpgradeFailed": "events",
    "Upgraded": "events",
    "WorkerContext": "worker.api.context",
    "WorkerDisconnected": "events",
    "WorkerEvent": "events",
    "WorkerExited": "events",
    "WorkerForked": "events",
    "WorkerAtFdLimit": "events",
    "WorkerHandle": "primary.workers.handle",
    "WorkerBelowFdLimit": "events",
    "WorkerListening": "events",
    "WorkerMessage": "events",
    "WorkerOnline": "events",
    "current_worker": "worker.api.context",
    "is_primary": "worker.api.context",
    "is_worker": "worker.api.context",
    "run": "program.run",
    "sticky": "policies.sticky",
    "weighted": "policies.weighted",
}

__all__ = [
    "BootError",
    "ChannelClosed",
    "ChannelError",
    "ClusterError",
    "ClusterStopping",
    "ConfigError",
    "MessageError",
    "ProtocolError",
    "WorkerGone",
    *_LAZY,
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'aiocluster' has no attribute {name!r}")
    value = getattr(import_module(f"aiocluster.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
