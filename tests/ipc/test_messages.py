from typing import Any

import msgspec
import pytest

from aiocluster.ipc.messages import (
    MAX_BACKLOG,
    PROTOCOL,
    FromWorker,
    FromZygote,
    Listen,
    Message,
    ToWorker,
    ToZygote,
)
from tests.ipc.examples import EXAMPLES, kinds
from tests.support.schemas import fingerprint

TAGS = {
    "Online": 1,
    "Ready": 2,
    "BootFailed": 3,
    "ReportMetrics": 4,
    "DrainRequest": 5,
    "Drained": 6,
    "Subscribe": 7,
    "Unsubscribe": 8,
    "Listen": 9,
    "Serving": 10,
    "Unlisten": 11,
    "RoomAgain": 12,
    "UserMessage": 20,
    "Credit": 21,
    "Unready": 49,
    "Accept": 50,
    "Drain": 40,
    "SnapshotFor": 41,
    "Listening": 42,
    "ListenFailed": 43,
    "Lead": 44,
    "GiveBack": 45,
    "Fork": 60,
    "Watch": 61,
    "Prepared": 80,
    "PrepareFailed": 81,
    "Forked": 82,
    "ForkFailed": 83,
    "Exited": 84,
}


def test_tags_change_on_purpose() -> None:
    """A worker that was forked before an upgrade of the files still talks to its primary."""
    assert {type(message).__name__: message.__struct_config__.tag for message in EXAMPLES} == TAGS


def test_every_message_has_an_example() -> None:
    """A new message is tested for its way over the wire, or this fails."""
    assert {type(message) for message in EXAMPLES} == kinds(Message)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_a_message_is_its_tag_and_its_fields(message: Message) -> None:
    """On the wire there are no names: a message costs little more than its values."""
    fields = msgspec.to_builtins(message)

    assert fields[0] == TAGS[type(message).__name__]
    assert len(fields) == 1 + len(message.__struct_fields__)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        (FromWorker, ToWorker, {"UserMessage", "Credit"}),
        (FromWorker, FromZygote, set()),
        (FromWorker, ToZygote, set()),
        (ToWorker, FromZygote, set()),
        (ToWorker, ToZygote, set()),
        (ToZygote, FromZygote, set()),
    ],
)
def test_only_the_users_traffic_goes_both_ways(one: Any, other: Any, shared: set[str]) -> None:
    """Who may send what is never a matter of opinion."""
    assert {kind.__name__ for kind in kinds(one) & kinds(other)} == shared


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_a_message_with_a_field_too_many_is_refused(message: Message) -> None:
    """Two versions of a message are never taken for each other."""
    fields = [*msgspec.to_builtins(message, builtin_types=(bytes,)), "more"]

    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, type(message), str_keys=False)


def test_a_changed_message_has_a_number_of_its_own() -> None:
    """Where this fails raise PROTOCOL, then write the new pair: an upgrade compares the numbers."""
    spoken = fingerprint(FromWorker, ToWorker, FromZygote, ToZygote)
    assert (PROTOCOL, spoken) == (12, "fa89bec217334b8b")


@pytest.mark.parametrize("backlog", [-1, MAX_BACKLOG + 1])
def test_a_backlog_that_no_socket_takes_is_refused(backlog: int) -> None:
    """It would come to light only when the primary listens."""
    fields = msgspec.to_builtins(Listen(1, [], 0, backlog))

    with pytest.raises(msgspec.ValidationError, match=r"Expected `int`"):
        msgspec.convert(fields, Listen)
