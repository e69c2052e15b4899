"""What a program leaves: written down, and read again."""

from typing import Any

import msgspec
import pytest

from aiocluster.config.run_app import RunAppCall
from aiocluster.errors import BootError
from aiocluster.ipc.handover import (
    RECORD,
    BackendState,
    ChannelState,
    ConnectionState,
    FailuresState,
    GenerationsState,
    GenerationState,
    HandoverState,
    ListenerState,
    RoleState,
    ServerState,
    SlotState,
    SubscriptionState,
    SupervisionState,
    WorkerState,
    ZygoteState,
    from_bytes,
    to_bytes,
)
from aiocluster.ipc.messages import BootFailed, Bound, Endpoint
from aiocluster.metrics.aggregator import AggregatorState
from aiocluster.metrics.role_aggregators import RoleAggregatorsState
from aiocluster.metrics.snapshot import Counters, Dispatch, Report
from tests.support.schemas import fingerprint

WORKER = WorkerState(
    worker_id=7,
    slot=0,
    role="web",
    generation=2,
    restarts=3,
    env={"A": "ä"},
    row=5,
    pid=70,
    pidfd=20,
    stacks=24,
    backend=BackendState(sender=21, receiver=22, sent=9, untaken=[(8, 0.5), (9, 0.75)]),
    channel=ChannelState(fd=23, half=b"\x92\x14", window=100, owed=5),
    phase="draining",
    started_at=1.5e9,
    born=10.0,
    ready_at=11.5,
    was_ready=True,
    serves=True,
    boot_failure=BootFailed("cause", "trace"),
    has_drained=True,
    cut=["GET /"],
    killed=False,
    reason="reload",
    sent_signal=15,
    stack="in spin",
    deadline=(99.5, "reload"),
    shared=[0, 2],
)

ROLE = RoleState(
    bind=["127.0.0.1:0"],
    workers="auto",
    call=RunAppCall({"backlog": 7}, "host 0.0.0.0, port 8080, backlog 7"),
    listeners=[
        ListenerState(fd=10, is_shared=False, asked="127.0.0.1:0"),
        ListenerState(fd=11, is_shared=True, asked=""),
    ],
    generations=GenerationsState(
        begun=3,
        current=2,
        past_zygotes=[1],
        living=[
            GenerationState(
                number=2,
                is_retired=False,
                zygote=ZygoteState(pid=60, fd=13),
                zygote_pids=[60],
            ),
            GenerationState(number=1, is_retired=True, zygote=None, zygote_pids=[50]),
        ],
    ),
    crew=SupervisionState(
        workers=[WORKER, msgspec.structs.replace(WORKER, channel=None, deadline=None)],
        slots=[SlotState(number=0, env={}, generation=2, restarts=3, current=7, not_before=0.0)],
        due=[(7, "max_age")],
        unread=[(7, b"\x92\x14\x01")],
        failures=FailuresState(count=1.5, last=9.0, is_degraded=False),
        reload_wanted=True,
    ),
    waiting=[
        ConnectionState(
            fd=30,
            listener=0,
            affinity=b"",
            slot=3,
            client=("192.0.2.1", 5),
            is_held=False,
            awaits_proxy=False,
        ),
        ConnectionState(
            fd=31,
            listener=1,
            affinity=b"\x7f",
            slot=-1,
            client=None,
            is_held=True,
            awaits_proxy=True,
        ),
    ],
    dispatch=Dispatch(fallbacks={"timeout": 3}, shed=1),
    servers=[
        ServerState(
            endpoints=[Endpoint(2, "127.0.0.1", 0)],
            nth=1,
            backlog=100,
            bound=[Bound(254, Endpoint(2, "127.0.0.1", 4711))],
            fds=[35],
            workers={7: [254]},
        )
    ],
    free_numbers=[253, 252],
)

LEDGER = AggregatorState(
    started_at=1.0,
    retired=Counters(requests_begun=5),
    restarts=2,
    restarts_of_slot={"web 0": 2},
    reports={7: Report(latency={400: 3}, rss_bytes=5)},
)

ESTATE = HandoverState(
    scoreboard=12,
    next_worker_id=8,
    aggregators=RoleAggregatorsState(of_all=LEDGER, of_roles={"web": LEDGER}),
    subscriptions=[SubscriptionState(worker_id=7, subscription_id=1, interval=0.5)],
    roles={"web": ROLE},
)


def role_without_workers(**changes: Any) -> RoleState:
    """Return a role that has nobody, and no slot; `changes` are fields of it."""
    crew = msgspec.structs.replace(
        ROLE.crew, workers=[], slots=[], due=[], unread=[], reload_wanted=False
    )
    nothing: dict[str, Any] = {"crew": crew, "waiting": [], "servers": [], "free_numbers": []}
    return msgspec.structs.replace(ROLE, **(nothing | changes))


def test_all_of_it_comes_back() -> None:
    """Every field, of every part."""
    assert from_bytes(to_bytes(ESTATE)) == ESTATE


def test_every_descriptor_is_named_once_a_use() -> None:
    """One that is forgotten would be closed by the exec."""
    both = [20, 21, 22, 23, 24, 20, 21, 22, 24]  # the second worker has no channel
    assert sorted(ESTATE.descriptors()) == sorted([10, 11, 12, 13, 30, 31, 35, *both])


def test_nothing_of_any_role_is_forgotten() -> None:
    """Workers and descriptors of all of them; the scoreboard is there once."""
    other = role_without_workers(
        listeners=[ListenerState(fd=40, is_shared=False, asked=":9000")],
        generations=msgspec.structs.replace(ROLE.generations, living=[]),
    )
    crew = msgspec.structs.replace(
        other.crew, workers=[msgspec.structs.replace(WORKER, worker_id=9, role="jobs")]
    )
    both = {"web": ROLE, "jobs": msgspec.structs.replace(other, crew=crew)}
    handover_state = msgspec.structs.replace(ESTATE, roles=both)

    assert from_bytes(to_bytes(handover_state)) == handover_state
    assert [(one.worker_id, one.role) for one in handover_state.workers] == [
        (7, "web"),
        (7, "web"),
        (9, "jobs"),
    ]
    assert sorted(handover_state.descriptors()) == sorted(
        [*ESTATE.descriptors(), 40, *range(20, 25)]
    )


def test_another_version_is_refused() -> None:
    """Before anything of it is looked at."""
    other = msgspec.msgpack.encode((RECORD + 1, {"quite": "different"}))
    with pytest.raises(BootError, match=f"version {RECORD + 1}; this program reads {RECORD}"):
        from_bytes(other)


@pytest.mark.parametrize("data", [b"", b"\xc1", msgspec.msgpack.encode((RECORD, {"bind": 5}))])
def test_what_is_none_is_refused(data: bytes) -> None:
    """With what is wrong."""
    with pytest.raises(BootError, match="not a handover state: "):
        from_bytes(data)


def test_a_changed_record_has_a_number_of_its_own() -> None:
    """Where this fails raise RECORD, then write the new pair: an upgrade compares the numbers."""
    assert (RECORD, fingerprint(HandoverState)) == (8, "e2301379894383b1")
