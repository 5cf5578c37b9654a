"""AMQP 0-9-1 as bytes: the frames of the hot path by hand, all others by pamqp."""

from __future__ import annotations

import importlib
import struct
from typing import Any, Final

from ...core.values import value
from ...exceptions import MalformedMessage, MissingLibrary
from .properties import packed

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
HEARTBEAT: Final = 8
END: Final = b"\xce"
PROTOCOL: Final = b"AMQP\x00\x00\x09\x01"
HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"

FRAME: Final = struct.Struct(">BHI")
_METHOD: Final = struct.Struct(">BHIHH")
_ACK: Final = struct.Struct(">BHIHHQBc")
_CONTENT: Final = struct.Struct(">BHIHHQ")
_SHORT: Final = struct.Struct(">H")
_TAG: Final = struct.Struct(">QB")
_BASIC: Final = 60
#: (class, method) of what is read by hand.
DELIVER: Final = (_BASIC, 60)
RETURN: Final = (_BASIC, 50)
GET_OK: Final = (_BASIC, 71)
ACK: Final = (_BASIC, 80)
NACK: Final = (_BASIC, 120)
_PUBLISH: Final = 40
_NOT_A_FLAG: Final = 1


def pamqp(module: str) -> Any:
    """Return a module of pamqp.

    Raises:
        MissingLibrary: it is not installed.
    """
    try:
        return importlib.import_module(f"pamqp.{module}")
    except ImportError as exc:
        raise MissingLibrary(
            f"an amqp:// URL needs pamqp, and there is no {exc.name}: pip install 'aiotq[amqp]'"
        ) from exc


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
        _CONTENT.pack(HEADER, channel, 12 + len(post.properties), _BASIC, 0, len(body)),
        post.properties,
        END,
    ]
    room = frame_max - 8
    for start in range(0, len(body), room):
        part = body[start : start + room] if len(body) > room else body
        parts += (FRAME.pack(BODY, channel, len(part)), part, END)
    return b"".join(parts)


def ack_frame(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    """Return basic.ack."""
    return _ACK.pack(METHOD, channel, 13, _BASIC, 80, tag, multiple, END)


def nack_frame(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    """Return basic.nack of what is to be queued again; the tag 0 with `multiple`: all of it."""
    return _ACK.pack(METHOD, channel, 13, _BASIC, 120, tag, 2 | multiple, END)


def method_of(payload: bytes) -> tuple[int, int]:
    return _SHORT.unpack_from(payload)[0], _SHORT.unpack_from(payload, 2)[0]


def tag_of(payload: bytes) -> tuple[int, int]:
    """Return the delivery tag and the bits of basic.ack or basic.nack."""
    tag, bits = _TAG.unpack_from(payload, 4)
    return tag, bits


def deliver_of(payload: bytes) -> tuple[str, int, bool, str, str]:
    """Return consumer, tag, redelivered, exchange and routing key of basic.deliver."""
    consumer, at = _short_string(payload, 4)
    tag, bits = _TAG.unpack_from(payload, at)
    exchange, at = _short_string(payload, at + 9)
    key, _ = _short_string(payload, at)
    return consumer, tag, bool(bits & 1), exchange, key


def get_ok_of(payload: bytes) -> tuple[int, bool, str, str]:
    """Return tag, redelivered, exchange and routing key of basic.get-ok."""
    tag, bits = _TAG.unpack_from(payload, 4)
    exchange, at = _short_string(payload, 13)
    key, _ = _short_string(payload, at)
    return tag, bool(bits & 1), exchange, key


def return_of(payload: bytes) -> tuple[int, str, str, str]:
    """Return code, text, exchange and routing key of basic.return."""
    code: int = _SHORT.unpack_from(payload, 4)[0]
    text, at = _short_string(payload, 6)
    exchange, at = _short_string(payload, at)
    key, _ = _short_string(payload, at)
    return code, text, exchange, key


def _short_string(payload: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + payload[at]
    return payload[at + 1 : end].decode("utf-8", "replace"), end


def properties_of(encoded: bytes) -> dict[str, Any]:
    """Return the properties that are set, by their names in pamqp.

    Raises:
        MalformedMessage: they are no properties.
    """
    properties = pamqp("commands").Basic.Properties()
    try:
        flags, at = 0, 0
        for word in range(2):
            (some,) = _SHORT.unpack_from(encoded, at)
            flags |= some << (16 * word)
            at += 2
            if not some & _NOT_A_FLAG:
                break
        properties.unmarshal(flags, encoded[at:])
    except (ValueError, struct.error, OverflowError, KeyError, IndexError, TypeError) as exc:
        raise MalformedMessage(f"its properties can't be read: {exc}") from exc
    return {name: given for name, given in properties if given is not None and name != "cluster_id"}


def pack_properties(**properties: Any) -> bytes:
    """Return properties as they travel; those that are None are not set.

    Raises:
        TypeError, ValueError: one of them can't be sent.
    """
    return packed(properties, _encode_other)


def _encode_other(given: Any) -> bytes:
    encoded: bytes = pamqp("encode").encode_table_value(given)
    return encoded
