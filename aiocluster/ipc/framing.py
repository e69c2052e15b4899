"""Messages to bytes and back. No socket: tests give it any bytes, cut anywhere.

A frame is one msgpack array: a tag, then the message's fields. msgpack says itself how
long it is, so a frame needs no length before it, and half a frame simply waits.
"""

import reprlib
from collections.abc import Iterator
from typing import Any

import msgpack
import msgspec

from aiocluster.errors import MessageError, ProtocolError
from aiocluster.ipc.messages import Message, UserMessage

# What a user may send in one message. Larger things belong into a file or a store;
# and a bad length from a broken peer must not make us buffer without end.
MAX_FRAME_BYTES = 16 * 1024 * 1024

# The most one read of a socket brings; an unpacker may hold a whole frame and one read.
READ_BYTES = 256 * 1024

# How deep the search for what cannot be sent goes: nothing real nests so deep.
_MAX_DEPTH = 500

# UserMessage is the hot one: its frame is packed and recognised without a detour.
_USER_TAG = 20

# What unpacking raises for bytes that are no msgpack, and for msgpack that Python has no
# value for: a list as a key (TypeError), a date after the year 9999 (OverflowError).
NOT_MSGPACK = (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException)

# What can always be read once it is packed.
_SIMPLE = (str, bytes, int, float, bool, type(None))

_packer = msgpack.Packer(use_bin_type=True, datetime=True)


def encode(message: Message) -> bytes:
    """Return the frame of one message of ours."""
    frame: bytes = _packer.pack(msgspec.to_builtins(message, builtin_types=(bytes,)))
    return frame


def encode_user(payload: Any) -> bytes:
    """Return the frame of a user's message; MessageError names what cannot be sent."""
    try:
        frame: bytes = _packer.pack((_USER_TAG, payload))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MessageError(_explain(payload, error)) from None
    if not isinstance(payload, _SIMPLE):
        _check_readable(frame, payload)
    if len(frame) > MAX_FRAME_BYTES:
        raise MessageError(
            f"a message of {len(frame)} bytes is too large: at most {MAX_FRAME_BYTES} bytes"
        )
    return frame


def decode_user(frame: bytes) -> Any:
    """Return the payload of a user's message, whole; ProtocolError when it is none."""
    ((message, _),) = FrameDecoder(UserMessage).feed(frame)
    assert isinstance(message, UserMessage)
    return message.payload


def _check_readable(frame: bytes, payload: Any) -> None:
    """Refuse here what packs but could not be unpacked there, such as a tuple as a key."""
    try:
        msgpack.unpackb(frame, strict_map_key=False, timestamp=3)
    except NOT_MSGPACK as error:
        raise MessageError(_explain(payload, error)) from None


class FrameDecoder:
    """Collects bytes until they make messages of the kinds this side may receive."""

    def __init__(self, expected: Any) -> None:
        self._expected = expected
        self._fed = 0
        self._decoded = 0
        self._half: list[bytes] = []
        self._unpacker = msgpack.Unpacker(
            raw=False,
            timestamp=3,
            strict_map_key=False,
            read_size=READ_BYTES,
            max_buffer_size=MAX_FRAME_BYTES + READ_BYTES,
        )

    def feed(self, data: bytes) -> Iterator[tuple[Message, int]]:
        """Yield each message that `data` completes, with its size in bytes.

        Raises ProtocolError at the first thing that is no message this side may receive;
        the decoder is of no use after that.
        """
        unpacker = self._unpacker
        try:
            unpacker.feed(data)
            self._fed += len(data)
            for fields in unpacker:
                end = unpacker.tell()
                yield self._message(fields), end - self._decoded
                self._decoded = end
        except NOT_MSGPACK as error:
            raise ProtocolError(f"not a frame: {str(error) or type(error).__name__}") from None
        # The unpacker itself limits one string, but not a list of many.
        if self._fed - self._decoded > MAX_FRAME_BYTES:
            raise ProtocolError(f"not a frame: more than {MAX_FRAME_BYTES} bytes")
        if self._half or self._fed != self._decoded:
            self._keep(data)

    @property
    def half(self) -> bytes:
        """The start of a message whose end has not come; another decoder can go on with it."""
        return b"".join(self._half)

    def _keep(self, data: bytes) -> None:
        # The unpacker has a copy, half eaten already, and does not give it back.
        left = self._fed - self._decoded
        if left > len(data):
            self._half.append(data)
        else:
            self._half = [data[-left:]] if left else []

    def _message(self, fields: Any) -> Message:
        # The hot kind needs no checking, since its payload may be anything.
        if type(fields) is list and len(fields) == 2 and fields[0] == _USER_TAG:
            return UserMessage(fields[1])
        return message_from(fields, self._expected)


def message_from(fields: Any, expected: Any) -> Message:
    """Return the message these fields make; ProtocolError when it is none of `expected`."""
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
    """Return its repr, shortened; a value that has none is known by its type."""
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
