"""Messages to bytes and back, without a socket: tests pass any bytes, cut anywhere.

A frame is a head and a body. The head has the tag of the message and the length of the body. The
body is one msgpack array of the tag and the message's fields, or any one msgpack value of the
user. So the first bytes show whether it is a frame, and a user's value need not be unpacked.
"""

import reprlib
import struct
from collections.abc import Iterator
from functools import cache, reduce
from operator import or_
from typing import Any, get_args

import msgpack
import msgspec

from aiocluster.errors import MessageError, ProtocolError
from aiocluster.events import Parcel
from aiocluster.ipc.messages import Message, SnapshotFor, UserMessage

# The longest frame of a user's message. Larger data belongs into a file or a store; and a bad
# length from a broken peer must not make the decoder buffer without end.
MAX_FRAME_BYTES = 16 * 1024 * 1024

# The longest body of our own messages: the longest has a traceback, which is cut far below this.
MAX_OWN_BYTES = 256 * 1024

# The tag, and the length of the body.
_HEAD = struct.Struct(">BI")
_HEAD_BYTES = _HEAD.size
_unpack_head = _HEAD.unpack_from

# The depth to which a value that cannot be sent is searched for: no real message nests so deep.
_MAX_DEPTH = 500

_USER_TAG = 20

# The tags of messages that may be as long as a user's: a snapshot has figures of every worker.
_LONG_TAGS = (_USER_TAG, SnapshotFor.__struct_config__.tag)

# The errors of unpacking bytes that are no msgpack, or msgpack for which Python has no value:
# a list as a key (TypeError), a date after the year 9999 (OverflowError).
NOT_MSGPACK = (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException)

# The types of values that can always be unpacked once they are packed.
_SIMPLE = (str, bytes, int, float, bool, type(None))

_packer = msgpack.Packer(use_bin_type=True, datetime=True)
_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """Return the frame of a message."""
    if isinstance(message, UserMessage):
        return encode_user(message.payload)
    body = _encoder.encode(message)
    return _HEAD.pack(message.__struct_config__.tag, len(body)) + body


def encode_user(payload: Any) -> bytes:
    """Return the frame of a user's message; MessageError names the value that cannot be sent."""
    try:
        body: bytes = _packer.pack(payload)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MessageError(_explain(payload, error)) from None
    if not isinstance(payload, _SIMPLE):
        _check_readable(body, payload)
    frame = _HEAD.pack(_USER_TAG, len(body)) + body
    if len(frame) > MAX_FRAME_BYTES:
        raise MessageError(
            f"a message of {len(frame)} bytes is too large: at most {MAX_FRAME_BYTES} bytes"
        )
    return frame


def decode_user(frame: bytes) -> Any:
    """Return the payload of a user's message; ProtocolError if `frame` is not a whole one."""
    match list(FrameDecoder(UserMessage).feed(frame)):
        case [(UserMessage() as message, _)]:
            return message.payload
    raise ProtocolError(f"{len(frame)} bytes are not one message of a user")


def _check_readable(body: bytes, payload: Any) -> None:
    """Refuse a payload that packs but could not be unpacked, such as one with a tuple as a key."""
    try:
        msgpack.unpackb(body, strict_map_key=False, timestamp=3)
    except NOT_MSGPACK as error:
        raise MessageError(_explain(payload, error)) from None


def _unpack(parts: list[bytes]) -> Any:
    try:
        return msgpack.unpackb(b"".join(parts), strict_map_key=False, timestamp=3)
    except NOT_MSGPACK as error:
        text = str(error) or type(error).__name__
        raise ProtocolError(f"not a message: {text}") from None


class FrameDecoder:
    """A decoder that collects bytes until they make messages of the kinds this side may receive.

    With `packed` the payload of a user's message is a Parcel.
    """

    def __init__(self, expected: Any, *, packed: bool = False) -> None:
        self._packed = packed
        self._tags, self._own = _decoder_of(expected)
        self._data = b""  # the bytes from `_at` on are still to be read
        self._at = 0
        self._head = b""  # the head of a message with an incomplete body
        self._parts: list[bytes] = []  # of that body
        self._missing = 0  # bytes of that body

    def add(self, data: bytes) -> None:
        """Add received bytes."""
        self._data = self._data[self._at :] + data if self.waiting else data
        self._at = 0

    @property
    def waiting(self) -> int:
        """The number of bytes that `take` has not read yet, or of which too few have come."""
        return len(self._data) - self._at

    def take(self) -> tuple[Message, int] | None:
        """Return the next message and its size in bytes; None if its end has not come.

        Raises ProtocolError at the first byte that belongs to no message which this side may
        receive; the decoder cannot be used after that.
        """
        if not self._head:
            if (whole := self._take_whole()) is not None:
                return whole
            if not self._begin():
                return None
        part = self._data[self._at : self._at + self._missing]
        self._at += len(part)
        self._missing -= len(part)
        self._parts.append(part)
        if self._missing:
            return None
        parts, self._parts = self._parts, []
        tag, length = _HEAD.unpack(self._head)
        self._head = b""
        return self._message(tag, parts), _HEAD_BYTES + length

    def feed(self, data: bytes) -> Iterator[tuple[Message, int]]:
        """Yield each message that `data` completes. See `take`."""
        self.add(data)
        while (taken := self.take()) is not None:
            yield taken

    @property
    def half(self) -> bytes:
        """All bytes of which no message was made yet; another decoder can go on with them."""
        return b"".join((self._head, *self._parts, self._data[self._at :]))

    def _take_whole(self) -> tuple[Message, int] | None:
        """Return the next message if it is complete and short, as most messages are."""
        data, body = self._data, self._at + _HEAD_BYTES
        if body >= len(data):
            return None
        tag, length = _unpack_head(data, self._at)
        end = body + length
        if tag not in self._tags or not 0 < length <= MAX_OWN_BYTES or end > len(data):
            return None
        self._at = end
        return self._message(tag, [data[body:end]]), _HEAD_BYTES + length

    def _begin(self) -> bool:
        """Read the head of a message; return True if it is complete."""
        head = self._data[self._at : self._at + _HEAD_BYTES]
        if not head:
            return False
        if (tag := head[0]) not in self._tags:
            raise ProtocolError(f"not a message for this side: {tag} is no tag")
        if len(head) < _HEAD_BYTES:
            return False
        _, length = _HEAD.unpack(head)
        most = MAX_FRAME_BYTES - _HEAD_BYTES if tag in _LONG_TAGS else MAX_OWN_BYTES
        if not 0 < length <= most:
            raise ProtocolError(f"not a message: {length} bytes with tag {tag}, at most {most}")
        self._head, self._missing = head, length
        self._at += _HEAD_BYTES
        return True

    def _message(self, tag: int, parts: list[bytes]) -> Message:
        if tag == _USER_TAG:
            return UserMessage(Parcel(parts, _unpack) if self._packed else _unpack(parts))
        body = b"".join(parts)
        try:
            message: Message = self._own.decode(body)
        except msgspec.DecodeError as error:
            raise ProtocolError(
                f"not a message for this side: {error}: {reprlib.repr(body)}"
            ) from None
        if message.__struct_config__.tag != tag:
            raise ProtocolError(f"not a message for this side: {message!r:.80} with tag {tag}")
        return message


@cache
def _decoder_of(expected: Any) -> tuple[frozenset[int], msgspec.msgpack.Decoder[Any]]:
    """Return the tags of these messages, and a decoder for our own among them."""
    kinds = get_args(expected) or (expected,)
    own = [kind for kind in kinds if kind is not UserMessage]
    tags = frozenset(kind.__struct_config__.tag for kind in kinds)
    return tags, msgspec.msgpack.Decoder(reduce(or_, own, UserMessage))


def message_from(fields: Any, expected: Any) -> Message:
    """Return the message that these fields make; ProtocolError if it is none of `expected`."""
    try:
        message: Message = msgspec.convert(fields, expected, str_keys=False)
    except msgspec.ValidationError as error:
        raise ProtocolError(
            f"not a message for this side: {error}: {reprlib.repr(fields)}"
        ) from None
    return message


def _explain(payload: Any, error: Exception) -> str:
    try:
        path, value = _offender(payload, "message", 0)
    except RecursionError:
        path, value = "message", _TOO_DEEP
    if path is None:
        return f"this message cannot be sent: {error}"
    if value is _TOO_DEEP:
        return f"{path[:80]}… nests deeper than {_MAX_DEPTH}: is it circular?"
    if isinstance(value, int):
        return f"{path} cannot be sent: the integer {_shown(value)} does not fit in 64 bits"
    if isinstance(value, str):
        return f"{path} cannot be sent: the text {_shown(value)} is not valid Unicode"
    return (
        f"{path} cannot be sent: {_shown(value)} is a {type(value).__name__}; a message is made"
        " of None, bool, int, float, str, bytes, list, tuple, dict and datetime (with a time zone)"
    )


_TOO_DEEP = object()


def _offender(value: Any, path: str, depth: int) -> tuple[str | None, Any]:
    """Return the path to the first part of `value` that msgpack refuses, and that part."""
    if depth > _MAX_DEPTH:
        return path, _TOO_DEEP
    if isinstance(value, dict):
        bad = next((key for key in value if isinstance(key, tuple)), None)
        if bad is not None:
            return f"{path} key {_shown(bad)}", bad
    for part_path, part in _parts(value, path):
        found = _offender(part, part_path, depth + 1)
        if found[0] is not None:
            return found
    return (
        (None, None) if isinstance(value, dict | list | tuple) or _packs(value) else (path, value)
    )


def _parts(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"{path} key {_shown(key)}", key
            yield f"{path}[{_shown(key)}]", item
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield f"{path}[{index}]", item


def _shown(value: Any) -> str:
    """Return the shortened repr of a value, or its type if its repr fails."""
    try:
        return f"{value!r:.80}"
    except Exception:
        return f"<{type(value).__name__}>"


def _packs(value: Any) -> bool:
    try:
        packed = msgpack.packb(value, use_bin_type=True, datetime=True)
        msgpack.unpackb(packed, strict_map_key=False, timestamp=3)
    except NOT_MSGPACK:
        return False
    return True
