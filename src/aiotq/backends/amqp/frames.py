"""AMQP 0-9-1 as bytes: the frames of the hot path, and those of which the tap takes notice. All others are aiormq's."""

from __future__ import annotations

import struct
from typing import Final

from ...core.values import value

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
HEARTBEAT: Final = 8
END: Final = 0xCE
HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"

FRAME: Final = struct.Struct(">BHI")
#: What a frame takes beside its payload.
OVERHEAD: Final = FRAME.size + 1
#: The size of a content's body, which stands behind four other bytes of its header; properties follow.
BODY_SIZE: Final = struct.Struct(">Q")
PROPERTIES: Final = 12
_METHOD: Final = struct.Struct(">BHIHH")
_ACK: Final = struct.Struct(">BHIHHQBc")
_CONTENT: Final = struct.Struct(">BHIHHQ")
_CLOSE_OK: Final = struct.Struct(">BHIHHc")
_WHICH: Final = struct.Struct(">I")
_SHORT: Final = struct.Struct(">H")
_TAG: Final = struct.Struct(">QB")
_END: Final = bytes((END,))
_CONNECTION: Final = 10
_CLOSE_OK_OF: Final = 51
_BASIC: Final = 60
_PUBLISH: Final = 40
_GET: Final = 70
_ACKED: Final = 80
_NACKED: Final = 120


def _named(of: int, method: int) -> int:
    return of << 16 | method


#: Class and method of what is read here.
CONNECTION_CLOSE: Final = _named(_CONNECTION, 50)
BLOCKED: Final = _named(_CONNECTION, 60)
UNBLOCKED: Final = _named(_CONNECTION, 61)
CHANNEL_CLOSE: Final = _named(20, 40)
CHANNEL_CLOSE_OK: Final = _named(20, 41)
CANCEL: Final = _named(_BASIC, 30)
RETURN: Final = _named(_BASIC, 50)
DELIVER: Final = _named(_BASIC, 60)
GET_OK: Final = _named(_BASIC, 71)
GET_EMPTY: Final = _named(_BASIC, 72)
ACK: Final = _named(_BASIC, _ACKED)
NACK: Final = _named(_BASIC, _NACKED)

CLOSE_OK_FRAME: Final = _CLOSE_OK.pack(METHOD, 0, 4, _CONNECTION, _CLOSE_OK_OF, _END)


@value
class Post:
    """One message to publish, mandatory. `properties` and `body` as they travel."""

    exchange: str
    routing_key: str
    properties: bytes
    body: bytes


@value(eq=False)
class Delivered:
    """One message as it came: what the broker says of it, its properties as they travel, its body."""

    consumer: str  #: the consumer's tag; empty for what was asked for with basic.get
    tag: int
    is_redelivered: bool
    exchange: str
    routing_key: str
    properties: bytes
    body: bytes


def header_size(properties: bytes) -> int:
    """Return the size of the frame in which these properties travel."""
    return OVERHEAD + PROPERTIES + len(properties)


def publish_frames(channel: int, post: Post, frame_max: int) -> bytes:
    """Return basic.publish, mandatory, with its content."""
    exchange, key = post.exchange.encode(), post.routing_key.encode()
    size = 4 + 2 + 1 + len(exchange) + 1 + len(key) + 1
    body = post.body
    parts = [
        _METHOD.pack(METHOD, channel, size, _BASIC, _PUBLISH),
        b"\x00\x00",
        bytes((len(exchange),)),
        exchange,
        bytes((len(key),)),
        key,
        b"\x01\xce",  # the bit is `mandatory`
        _CONTENT.pack(HEADER, channel, PROPERTIES + len(post.properties), _BASIC, 0, len(body)),
        post.properties,
        _END,
    ]
    room = frame_max - OVERHEAD
    for start in range(0, len(body), room):
        part = body[start : start + room] if len(body) > room else body
        parts += (FRAME.pack(BODY, channel, len(part)), part, _END)
    return b"".join(parts)


def get_frame(channel: int, queue: str) -> bytes:
    """Return basic.get of what will be acknowledged."""
    name = queue.encode()
    head = _METHOD.pack(METHOD, channel, 4 + 2 + 1 + len(name) + 1, _BASIC, _GET)
    return b"".join((head, b"\x00\x00", bytes((len(name),)), name, b"\x00\xce"))


def ack_frame(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    """Return basic.ack."""
    return _ACK.pack(METHOD, channel, 13, _BASIC, _ACKED, tag, multiple, _END)


def nack_frame(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    """Return basic.nack of what is to be queued again; the tag 0 with `multiple`: all of it."""
    return _ACK.pack(METHOD, channel, 13, _BASIC, _NACKED, tag, 2 | multiple, _END)


# What is read stands in `frames`, the payload of a method from `at` on: nothing is copied that is not kept.


def method_of(frames: bytes, at: int) -> int:
    which: int = _WHICH.unpack_from(frames, at)[0]
    return which


def tag_of(frames: bytes, at: int) -> tuple[int, int]:
    """Return the delivery tag and the bits of basic.ack or basic.nack."""
    tag, bits = _TAG.unpack_from(frames, at + 4)
    return tag, bits


def deliver_of(frames: bytes, at: int) -> tuple[str, int, bool, str, str]:
    """Return consumer, tag, redelivered, exchange and routing key of basic.deliver."""
    consumer, at = _short_string(frames, at + 4)
    tag, bits = _TAG.unpack_from(frames, at)
    exchange, at = _short_string(frames, at + 9)
    key, _ = _short_string(frames, at)
    return consumer, tag, bool(bits & 1), exchange, key


def get_ok_of(frames: bytes, at: int) -> tuple[str, int, bool, str, str]:
    """Return no consumer, tag, redelivered, exchange and routing key of basic.get-ok."""
    tag, bits = _TAG.unpack_from(frames, at + 4)
    exchange, at = _short_string(frames, at + 13)
    key, _ = _short_string(frames, at)
    return "", tag, bool(bits & 1), exchange, key


def return_of(frames: bytes, at: int) -> tuple[str, str, str]:
    """Return text, exchange and routing key of basic.return."""
    text, at = _short_string(frames, at + 6)
    exchange, at = _short_string(frames, at)
    key, _ = _short_string(frames, at)
    return text, exchange, key


def text_of(frames: bytes, at: int) -> str:
    """Return the consumer of basic.cancel, or the reason of connection.blocked."""
    return _short_string(frames, at + 4)[0]


def close_of(frames: bytes, at: int) -> tuple[int, str]:
    """Return code and text of connection.close or channel.close."""
    code: int = _SHORT.unpack_from(frames, at + 4)[0]
    return code, _short_string(frames, at + 6)[0]


def _short_string(frames: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + frames[at]
    return frames[at + 1 : end].decode("utf-8", "replace"), end
