import math
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise, product
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiocluster.errors import MessageError, ProtocolError
from aiocluster.events import Parcel
from aiocluster.ipc.framing import (
    MAX_FRAME_BYTES,
    MAX_OWN_BYTES,
    FrameDecoder,
    decode_user,
    encode,
    encode_user,
    message_from,
)
from aiocluster.ipc.messages import (
    BootFailed,
    Credit,
    Drained,
    Endpoint,
    FromWorker,
    FromZygote,
    Listen,
    Message,
    Online,
    Ready,
    ReportMetrics,
    Subscribe,
    ToWorker,
    ToZygote,
    UserMessage,
)
from aiocluster.metrics.instruments import bucket_of
from aiocluster.metrics.snapshot import Report
from tests.ipc.examples import EXAMPLES, kinds

SENT: list[Message] = [
    Online(),
    UserMessage("x" * 40),
    BootFailed("ValueError: é", "Traceback"),
    UserMessage(None),
    UserMessage({"key": [1, -70_000, 2.5, b"\xff", {"deeper": True}]}),
    Credit(2**25),
    Ready(),
]
STREAM = b"".join(encode(message) for message in SENT)

# A busy machine is no failure.
slow_machine = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# What one read of a socket brings.
READ_BYTES = 64 * 1024


def user(payload: bytes) -> bytes:
    """Return the frame of a user's message with this payload, packed or not."""
    return struct.pack(">BI", 20, len(payload)) + payload


def own(tag: int, body: bytes) -> bytes:
    """Return a frame of ours with this body."""
    return struct.pack(">BI", tag, len(body)) + body


def received(*chunks: bytes, expected: Any = FromWorker) -> list[Message]:
    """Feed the chunks to one decoder and return all messages."""
    decoder = FrameDecoder(expected)
    return [message for chunk in chunks for message, _ in decoder.feed(chunk)]


def in_reads(frame: bytes) -> Iterator[bytes]:
    """Cut a frame as a socket would."""
    for start in range(0, len(frame), READ_BYTES):
        yield frame[start : start + READ_BYTES]


def nested(depth: int, *, core: Any = None) -> Any:
    """Return `core` inside of `depth` lists."""
    for _ in range(depth):
        core = [core]
    return core


def echo(payload: Any) -> Any:
    """Return what the other side gets for a user's message."""
    (message,) = received(encode_user(payload))
    assert isinstance(message, UserMessage)
    return message.payload


# ---- our messages


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_every_message_arrives_as_it_was_sent(message: Message) -> None:
    """The frame of each message makes the same message again, and its size is known."""
    frame = encode(message)

    assert list(FrameDecoder(type(message)).feed(frame)) == [(message, len(frame))]


def test_messages_survive_any_cut() -> None:
    """Wherever the kernel cuts the stream, the same messages come out."""
    for cut in range(len(STREAM) + 1):
        assert received(STREAM[:cut], STREAM[cut:]) == SENT


def test_messages_survive_every_pair_of_cuts() -> None:
    """A length that comes in three parts is still a length."""
    frame = encode(UserMessage("x" * 300)) + encode(Credit(2**25))
    whole = received(frame)

    for first in range(12):
        for second in range(first, len(frame) + 1):
            assert received(frame[:first], frame[first:second], frame[second:]) == whole


def test_messages_survive_byte_by_byte() -> None:
    """Half a frame simply waits."""
    assert received(*(bytes([byte]) for byte in STREAM)) == SENT


@slow_machine
@given(st.lists(st.integers(0, len(STREAM))))
def test_messages_survive_any_chunks(cuts: list[int]) -> None:
    """However many cuts, with empty chunks between them, nothing is lost or told twice."""
    edges = [0, *sorted(cuts), len(STREAM)]

    assert received(*(STREAM[start:end] for start, end in pairwise(edges))) == SENT


@slow_machine
@given(st.lists(st.integers(0, len(STREAM))))
def test_sizes_add_up_to_the_stream(cuts: list[int]) -> None:
    """The window counts bytes by these sizes: one that is off would leak credit."""
    edges = [0, *sorted(cuts), len(STREAM)]
    decoder = FrameDecoder(FromWorker)

    sizes = [size for start, end in pairwise(edges) for _, size in decoder.feed(STREAM[start:end])]

    assert sizes == [len(encode(message)) for message in SENT]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("expected", [FromWorker, ToWorker])
def test_a_message_for_the_other_side_is_refused(message: Message, expected: Any) -> None:
    """Who may send what holds on the wire too."""
    if type(message) in kinds(expected):
        assert received(encode(message), expected=expected) == [message]
    else:
        with pytest.raises(ProtocolError, match="not a message for this side"):
            received(encode(message), expected=expected)


@pytest.mark.parametrize("expected", [FromZygote, ToZygote])
@pytest.mark.parametrize("message", [Online(), Credit(1)])
def test_what_belongs_into_a_channel_is_no_message_for_the_zygote(
    message: Message, expected: Any
) -> None:
    """The two wires are not taken for each other."""
    with pytest.raises(ProtocolError):
        received(encode(message), expected=expected)


# ---- what is no message


def test_garbage_is_never_a_message() -> None:
    """Whatever byte comes first: it is refused, or the rest of its frame is waited for."""
    for first, filler in product(range(256), [0x00, 0x41, 0xC0, 0xC1, 0xD9, 0xFF]):
        garbage = bytes([first]) + bytes([filler]) * 40
        try:
            messages = received(garbage)
        except ProtocolError:
            continue
        assert messages == [], garbage


@slow_machine
@given(st.binary(max_size=200))
def test_only_a_protocol_error_comes_of_garbage(garbage: bytes) -> None:
    """Nothing that the other side sends can raise anything else here."""
    bodies = (b"\x92\x04" + garbage, b"\x93\x03" + garbage)
    frames = (garbage, user(garbage), *(own(body[1], body) for body in bodies))
    for frame in frames:
        try:
            messages = received(frame)
        except ProtocolError:
            continue
        assert {type(message) for message in messages} <= kinds(FromWorker)


def test_what_came_before_the_garbage_is_heard() -> None:
    """A worker's last words count, even if it goes mad after them."""
    heard: list[Message] = []

    with pytest.raises(ProtocolError):
        heard.extend(message for message, _ in FrameDecoder(FromWorker).feed(STREAM + b"\xc1"))

    assert heard == SENT


@pytest.mark.parametrize("tag", range(256))
def test_a_tag_that_is_none_is_refused_at_its_first_byte(tag: int) -> None:
    """Nobody waits for the rest of what can be no message."""
    if tag in {
        message.__struct_config__.tag for message in EXAMPLES if type(message) in kinds(FromWorker)
    }:
        assert received(bytes([tag])) == []
    else:
        with pytest.raises(ProtocolError, match="is no tag"):
            received(bytes([tag]))


@pytest.mark.parametrize(
    ("tag", "length"),
    [(20, 2**32 - 1), (20, MAX_FRAME_BYTES - 4), (20, 0), (1, MAX_OWN_BYTES + 1), (1, 0)],
)
def test_a_length_that_no_message_has_is_refused_at_once(tag: int, length: int) -> None:
    """Nobody can make us make room for it; wherever the head is cut."""
    head = struct.pack(">BI", tag, length)
    for cut in range(len(head)):
        with pytest.raises(ProtocolError):
            received(head[:cut], head[cut:])


def test_a_message_in_the_frame_of_another_is_refused() -> None:
    """A user's message is not taken for one of ours, which no window holds."""
    for tag, body in ((1, b"\x92\x14\x05"), (12, b"\x91\x01"), (1, b"\x91\x0c")):
        with pytest.raises(ProtocolError, match=f"with tag {tag}"):
            received(own(tag, body))


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\xdd\xff\xff\xff\xff", id="array32"),
        pytest.param(b"\xdf\xff\xff\xff\xff", id="map32"),
        pytest.param(b"\xc9\xff\xff\xff\xff\x05", id="ext32"),
        pytest.param(b"\x01\x02", id="two"),
        pytest.param(b"\x92\x01", id="half"),
    ],
)
def test_a_payload_that_is_no_value_is_refused(payload: bytes) -> None:
    """It has as many items as it says, and nothing behind them."""
    with pytest.raises(ProtocolError, match="not a message"):
        received(user(payload))


@pytest.mark.parametrize("level", [b"\x91", b"\x81\x01"], ids=["lists", "dicts"])
@pytest.mark.parametrize("depth", [1025, 100_000])
def test_endless_nesting_is_refused(level: bytes, depth: int) -> None:
    """No depth of theirs can overflow our stack."""
    payload = level * depth + b"\xc0"
    for frame in (user(payload), own(4, b"\x92\x04" + payload)):
        with pytest.raises(ProtocolError):
            received(frame)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -1.0, 1e300])
@pytest.mark.parametrize("field", ["lag_mean", "lag_max", "cpu_percent"])
def test_a_figure_that_nothing_can_have_is_refused(field: str, number: float) -> None:
    """It would spoil every sum that it is in."""
    with pytest.raises(ProtocolError):
        received(encode(ReportMetrics(msgspec.structs.replace(Report(), **{field: number}))))


@pytest.mark.parametrize(
    "message",
    [
        ReportMetrics(Report(rss_bytes=2**64 - 1)),
        ReportMetrics(Report(pss_bytes=-1)),
        ReportMetrics(Report(latency={bucket_of(10**6): 2**64 - 1})),
        Subscribe(1, math.inf),
        Subscribe(1, math.nan),
        Subscribe(2**64 - 1, 1.0),
        Credit(2**64 - 1),
        Credit(2**26 + 1),
        Credit(-1),
        Listen(1, [Endpoint(2, "127.0.0.1", 65536)], 0, 1),
        Listen(1, [Endpoint(2, "127.0.0.1", -1)], 0, 1),
        Listen(1, [Endpoint(2, "127.0.0.1", 80)] * 255, 0, 1),
        Listen(1, [Endpoint(2, "127.0.0.1", 80, 2**40)], 0, 1),
        Drained([""] * 1001),
    ],
    ids=repr,
)
def test_a_number_out_of_range_is_refused(message: Message) -> None:
    """Nobody behind the decoder has to ask whether the kernel, or a sum, can take it."""
    with pytest.raises(ProtocolError):
        received(encode(message))


def test_a_packed_message_is_not_looked_at_on_its_way() -> None:
    """What nobody reads costs no more than its bytes, however much it would become."""
    frame = user(b"\xdd" + struct.pack(">I", 10**6) + b"\x90" * 10**6)
    decoder = FrameDecoder(FromWorker, packed=True)
    ((message, size),) = [taken for read in in_reads(frame) for taken in decoder.feed(read)]
    assert isinstance(message, UserMessage)
    assert isinstance(message.payload, Parcel)

    assert size == len(frame)
    assert message.payload.read() == [[]] * 10**6
    assert message.payload.read() is message.payload.read()


def test_nonsense_in_a_packed_message_is_told_when_it_is_read() -> None:
    """Each time to who reads it, and once to who has sent it on."""
    ((message, _),) = FrameDecoder(FromWorker, packed=True).feed(user(b"\xc1"))
    assert isinstance(message, UserMessage)
    told: list[ProtocolError] = []
    message.payload.on_nonsense = told.append
    for _ in range(2):
        with pytest.raises(ProtocolError, match="not a message"):
            message.payload.read()

    assert len(told) == 1


def test_a_deep_message_for_the_other_side_is_refused_in_few_words() -> None:
    """The error shows what came without climbing down all of it."""
    with pytest.raises(ProtocolError) as caught:
        received(own(4, b"\x92\x04" + b"\x91" * 1000 + b"\xc0"))
    assert len(str(caught.value)) < 1000


def test_invalid_utf_8_is_refused() -> None:
    """A text is a text."""
    with pytest.raises(ProtocolError, match="utf-8"):
        received(user(b"\xa2\xc3\x28"))


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\x81\x90\x01", id="a list as key"),
        pytest.param(b"\x81\x80\x01", id="a dict as key"),
        pytest.param(b"\xc7\x0c\xff" + b"\x00" * 4 + b"\x7f" * 8, id="a date after all dates"),
        pytest.param(b"\xd7\xff" + b"\xff" * 8, id="too many nanoseconds"),
        pytest.param(b"\xc7\x03\xff\x00\x00\x00", id="a date of three bytes"),
    ],
)
def test_what_python_has_no_value_for_is_refused(payload: bytes) -> None:
    """Valid msgpack that cannot become an object is the sender's fault, not our crash."""
    with pytest.raises(ProtocolError, match="not a message"):
        received(user(payload))


@pytest.mark.parametrize(
    "fields",
    [None, 1, "text", b"", {}, [], [None], ["20"], [0], [255], [-1], [1, 2], [20], [20, 1, 2]],
    ids=repr,
)
def test_fields_that_are_no_message_are_refused(fields: Any) -> None:
    """Only an array of a known tag and its very fields is a message."""
    with pytest.raises(ProtocolError, match="not a message for this side"):
        message_from(fields, FromWorker)


@pytest.mark.parametrize(
    "fields", [[7, 1, "often"], [7, "1", 0.5], [7, 1.5, 0.5], [3, b"no", "text"], [6, [1]]]
)
def test_a_field_of_the_wrong_type_is_refused(fields: list[Any]) -> None:
    """Nobody behind the decoder has to ask what type a field has."""
    with pytest.raises(ProtocolError):
        message_from(fields, FromWorker)


def test_a_whole_number_may_stand_for_a_float() -> None:
    """A second is a second, however it was written."""
    assert message_from([7, 1, 2], FromWorker) == Subscribe(1, 2.0)


# ---- sizes


def test_the_largest_message_fits_exactly() -> None:
    """What may be sent also arrives, to the byte."""
    overhead = len(encode_user(b"x" * 2**16)) - 2**16
    largest = b"x" * (MAX_FRAME_BYTES - overhead)
    frame = encode_user(largest)

    assert len(frame) == MAX_FRAME_BYTES
    assert received(encode(Online()), *in_reads(frame)) == [Online(), UserMessage(largest)]


def test_a_byte_more_cannot_be_sent() -> None:
    """The sender learns it, with both sizes; the other side is not bothered."""
    overhead = len(encode_user(b"x" * 2**16)) - 2**16

    with pytest.raises(MessageError, match=rf"{MAX_FRAME_BYTES + 1} bytes is too large"):
        encode_user(b"x" * (MAX_FRAME_BYTES - overhead + 1))


def test_many_frames_may_be_more_than_one_frame_may_be() -> None:
    """The limit is for a frame, not for what a channel carries in its life."""
    decoder = FrameDecoder(FromWorker)
    read = encode_user(b"x" * 100_000) * 2
    reads = 2 * MAX_FRAME_BYTES // len(read)

    assert sum(len(list(decoder.feed(read))) for _ in range(reads)) == 2 * reads


# ---- what a user may send

keys = st.one_of(st.integers(-(2**63), 2**64 - 1), st.text())
instants = st.datetimes(
    datetime(2, 1, 1),
    datetime(9998, 12, 31),
    timezones=st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone),
)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False),
        st.text(),
        st.binary(),
        instants,
    ),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(keys, inner)),
)


@slow_machine
@given(values)
def test_what_may_be_sent_arrives_as_it_was(value: Any) -> None:
    """Nested or not, what the one side sends is what the other side gets."""
    assert echo(value) == value


@slow_machine
@given(values)
def test_types_arrive_as_they_were(value: Any) -> None:
    """Equal is not enough: True is not 1, and 1 is not 1.0."""
    assert repr(_in_utc(echo(value))) == repr(_in_utc(value))


def _in_utc(value: Any) -> Any:
    match value:
        case datetime():
            return value.astimezone(UTC).replace(fold=0)
        case list():
            return [_in_utc(item) for item in value]
        case dict():
            return {key: _in_utc(item) for key, item in value.items()}
    return value


def test_nan_and_the_infinities_arrive() -> None:
    """Every float is a float."""
    nan, *infinities = echo([math.nan, math.inf, -math.inf])

    assert math.isnan(nan)
    assert infinities == [math.inf, -math.inf]


def test_a_tuple_arrives_as_a_list() -> None:
    """There is one kind of sequence on the wire, and this is the one surprise."""
    assert echo({"at": (1, (2, 3))}) == {"at": [1, [2, 3]]}


def test_a_time_arrives_as_the_same_instant_in_utc() -> None:
    """Zones have names and rules that do not travel; instants do."""
    sent = datetime(2026, 3, 1, 12, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2)))

    assert echo(sent) == sent
    assert echo(sent).tzinfo == UTC


def test_nesting_may_go_deep() -> None:
    """500 levels are no problem, on either side."""
    assert echo(nested(500)) == nested(500)


CIRCULAR_LIST: list[Any] = [1]
CIRCULAR_LIST.append(CIRCULAR_LIST)
CIRCULAR_DICT: dict[str, Any] = {}
CIRCULAR_DICT["self"] = [CIRCULAR_DICT]


class Unknown:
    def __repr__(self) -> str:
        return "Unknown()"


@pytest.mark.parametrize(
    ("payload", "path", "reason"),
    [
        (Unknown(), "message", "Unknown() is a Unknown"),
        ({1}, "message", "{1} is a set"),
        ({"a": [0, 1, 2, {1}]}, "message['a'][3]", "is a set"),
        ([{"a": ("b", {7: Unknown()})}], "message[0]['a'][1][7]", "is a Unknown"),
        ({"good": 1, "bad": 1j}, "message['bad']", "1j is a complex"),
        ({frozenset([1]): "x"}, "message key frozenset({1})", "is a frozenset"),
        ("\ud800", "message", "is not valid Unicode"),
        (["ok", "x\udfff"], "message[1]", "is not valid Unicode"),
        ({"\ud800": 1}, "message key '\\ud800'", "is not valid Unicode"),
        (2**64, "message", "18446744073709551616 does not fit in 64 bits"),
        ([2**64 - 1, 2**64], "message[1]", "does not fit in 64 bits"),
        ({"low": -(2**63) - 1}, "message['low']", "does not fit in 64 bits"),
        (
            {"at": datetime(2026, 1, 1)},
            "message['at']",
            "datetime (with a time zone)",
        ),
        ([date(2026, 1, 1)], "message[0]", "is a date"),
        (CIRCULAR_LIST, "message[1][1]", "circular"),
        (CIRCULAR_DICT, "message['self'][0]['self'][0]", "circular"),
        (nested(2000), "message[0][0]", "nests deeper than"),
    ],
)
def test_what_cannot_be_sent_is_named_with_its_place(payload: Any, path: str, reason: str) -> None:
    """Whoever sends a large thing learns which part of it is wrong, and why."""
    with pytest.raises(MessageError) as caught:
        encode_user(payload)

    text = str(caught.value)
    assert text.startswith(path)
    assert reason in text
    assert len(text) < 500


def test_a_refused_message_leaves_nothing_behind() -> None:
    """The next message is not mixed with the half of the one that was refused."""
    with pytest.raises(MessageError):
        encode_user(["the first half", {1}])

    assert echo("next") == "next"


@given(st.lists(st.integers(1, 400), max_size=4), st.data())
def test_another_decoder_goes_on_with_a_half_frame(sizes: list[int], data: st.DataObject) -> None:
    """Wherever the stream is cut, and however it was cut before: each message comes once."""
    stream = b"".join(encode_user([size, "x" * size]) for size in sizes)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    at = data.draw(st.integers(0, len(stream)))
    before, after = FrameDecoder(ToWorker), FrameDecoder(ToWorker)
    heard = []
    for start, end in pairwise([0, *(cut for cut in cuts if cut < at), at]):
        heard += [message for message, _ in before.feed(stream[start:end])]
    assert [*after.feed(before.half)] == []
    heard += [message for message, _ in after.feed(stream[at:])]

    assert heard == [UserMessage([size, "x" * size]) for size in sizes]
    assert after.half == b""


def test_a_users_message_can_be_kept_as_its_frame() -> None:
    """And read again."""
    payload = {"a": [1, 2.5, None, b"x", datetime(2026, 1, 1, tzinfo=UTC)]}
    assert decode_user(encode_user(payload)) == payload


@pytest.mark.parametrize("spoil", [lambda f: b"", lambda f: f[:-1], lambda f: f + f])
def test_what_is_not_one_frame_is_no_message(spoil: Callable[[bytes], bytes]) -> None:
    """A kept message that was cut says so, as the docstring promises."""
    with pytest.raises(ProtocolError, match="are not one message"):
        decode_user(spoil(encode_user([1, 2])))
