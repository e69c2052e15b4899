"""One example of every message, with no field left at a value that says nothing."""

from typing import Any, get_args

from aiocluster.ipc.messages import (
    Accept,
    BootFailed,
    Bound,
    Credit,
    Drain,
    Drained,
    DrainRequest,
    Endpoint,
    Exited,
    Fork,
    Forked,
    ForkFailed,
    GiveBack,
    Lead,
    Listen,
    ListenFailed,
    Listening,
    Message,
    Online,
    Prepared,
    PrepareFailed,
    Ready,
    ReportMetrics,
    RoomAgain,
    Serving,
    SnapshotFor,
    Subscribe,
    Unlisten,
    Unready,
    Unsubscribe,
    UserMessage,
    Watch,
)
from aiocluster.metrics.instruments import bucket_of
from aiocluster.metrics.snapshot import Report

REPORT = Report(
    latency={bucket_of(10**6): 3, bucket_of(10**9): 1},
    lag_mean=0.25,
    lag_max=1.5,
    cpu_percent=93.0,
    rss_bytes=2**33,
    pss_bytes=2**32,
)

EXAMPLES: list[Message] = [
    Online(),
    Ready(),
    Ready(serves=False),
    BootFailed("ImportError: ¡no!", "Traceback …"),
    ReportMetrics(REPORT),
    DrainRequest("max_requests"),
    DrainRequest("finished"),
    DrainRequest("crash"),
    Drained(["GET /slow", "GET /größer"]),
    Subscribe(3, 0.5),
    Unsubscribe(3),
    Listen(4, [Endpoint(2, "127.0.0.1", 0), Endpoint(10, "fe80::1", 80, 3)], 1, 100),
    Serving(5),
    Unlisten(5),
    RoomAgain(),
    UserMessage({"text": "hi", "blob": b"\x00\xff", 7: [None, True, 1.5]}),
    Credit(2**20),
    Unready(),
    Accept(True, 3),
    Lead(),
    GiveBack(7),
    Drain(30.0, True, False, 1.0),
    Drain(30.0, False, True, 1.0),
    SnapshotFor(3, {"workers": {1: {"pid": 2**22}}, "time": 1.7e9}),
    Listening(4, [Bound(254, Endpoint(2, "127.0.0.1", 40_000))]),
    ListenFailed(4, 98, "Address already in use"),
    Fork(4, 1, "web", 2, 17, [2, 10], {"A": "b"}, [1], 3),
    Watch(4),
    Prepared(False, "a thread"),
    Prepared(True, "", "/srv", None, True),
    PrepareFailed("SystemExit: 3", "Traceback …"),
    Forked(4, 4_194_304),
    ForkFailed(4, "Cannot allocate memory"),
    Exited(4, 139),
]


def kinds(union: Any) -> set[type]:
    """Return the message types that a union such as ToWorker has."""
    return set(get_args(union))
