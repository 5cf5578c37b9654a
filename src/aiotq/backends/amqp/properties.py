"""The properties of a message as bytes, written for each one that is sent and read from each one that comes.

By hand: of what a drained message costs, a library's reading of its headers was two thirds (see
`docs/decisions/0042-aio-pika-with-a-tap.md`). What is written is such that every client reads it alike: integers of 32
or 64 bits and floats of 64, since py-amqp before 5.4, which is Celery's, takes an integer of 16 bits for a string.

Source: RabbitMQ, "AMQP 0-9-1 errata" (field types); AMQP 0-9-1, 4.2.5.5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, cast

from ...exceptions import MalformedMessage

_FLAGS: Final = struct.Struct(">H")
_SIZE: Final = struct.Struct(">I")
_size_of: Final = _SIZE.unpack_from
_S: Final = ord("S")
_STRING: Final = struct.Struct(">cI")
_INT: Final = struct.Struct(">ci")
_LONG: Final = struct.Struct(">cq")
_MOMENT: Final = struct.Struct(">Q")
_MOMENT_VALUE: Final = struct.Struct(">cQ")
_DECIMAL: Final = struct.Struct(">Bi")
_DOUBLE: Final = struct.Struct(">cd")
_MAX_SHORT: Final = 255
_MAX_EXPONENT: Final = 255
_TRUE: Final = b"t\x01"
_FALSE: Final = b"t\x00"
_NONE: Final = b"V"
#: Names of headers, and what stands in many messages, whose bytes are kept.
_KEPT: Final = 1024
#: Tables and lists within each other; far more than anybody sends, far less than Python's stack holds.
_DEEPEST: Final = 64
#: A number of seconds that is larger is one of milliseconds: the year 2106.
_LAST_SECOND: Final = 0xFFFFFFFF
#: The bit of a word of flags that says: another one follows.
_FOLLOWED: Final = 1


# Writing


def pack_properties(**properties: Any) -> bytes:
    """Return the flags and values of properties by their names in pamqp; those that are None are not set.

    Raises:
        TypeError, ValueError: one of them can't be sent.
    """
    flags = 0
    parts: list[bytes] = [b""]
    for name, flag, write in _WRITTEN:
        value = properties.get(name)
        if value is not None:
            flags |= flag
            parts.append(write(value))
    parts[0] = _FLAGS.pack(flags)
    return b"".join(parts)


def _short(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > _MAX_SHORT:
        raise ValueError(f"{text[:40]!r}… is longer than {_MAX_SHORT} bytes")
    return bytes((len(encoded),)) + encoded


_often = lru_cache(_KEPT)(_short)


def _octet(number: int) -> bytes:
    return bytes((number,))


def _timestamp(when: datetime) -> bytes:
    return _MOMENT.pack(int(when.timestamp()))


def _table(table: Mapping[str, Any]) -> bytes:
    parts: list[bytes] = []
    for name, value in table.items():
        if type(value) is str:
            text = value.encode()
            parts += (_often(name), _STRING.pack(b"S", len(text)), text)
        else:
            parts += (_often(name), _value(value))
    body = b"".join(parts)
    return _SIZE.pack(len(body)) + body


def _integer(number: int) -> bytes:
    if -(2**31) <= number < 2**31:
        return _INT.pack(b"I", number)
    if -(2**63) <= number < 2**63:
        return _LONG.pack(b"l", number)
    raise ValueError(f"an integer of {number.bit_length()} bits can't be sent in a header")


def _value(value: Any) -> bytes:
    kind: type[Any] = type(cast(object, value))
    if kind is str:
        text: bytes = value.encode()
        return _STRING.pack(b"S", len(text)) + text
    if kind is int:
        return _integer(value)
    if kind is bool:
        return _TRUE if value else _FALSE
    if value is None:
        return _NONE
    if kind is float:
        return _DOUBLE.pack(b"d", value)
    if kind is dict:
        return b"F" + _table(value)
    if kind is list:
        body = b"".join([_value(each) for each in value])
        return _STRING.pack(b"A", len(body)) + body
    if kind in (bytes, bytearray):
        return _STRING.pack(b"x", len(value)) + bytes(value)
    return _rare(value)


def _rare(value: object) -> bytes:
    """Return what only others put into headers, and what is sent on."""
    if isinstance(value, datetime):
        return _MOMENT_VALUE.pack(b"T", int(value.timestamp()))
    if isinstance(value, Decimal) and isinstance(exponent := value.as_tuple().exponent, int):
        places = max(-exponent, 0)
        number = int(value.scaleb(places))
        if places <= _MAX_EXPONENT and -(2**31) <= number < 2**31:
            return b"D" + _DECIMAL.pack(places, number)
    raise TypeError(f"{type(value).__name__} can't be sent in a header")


#: Name, flag, how it is written, in the order in which they travel.
_WRITTEN: Final[tuple[tuple[str, int, Callable[[Any], bytes]], ...]] = (
    ("content_type", 1 << 15, _often),
    ("content_encoding", 1 << 14, _often),
    ("headers", 1 << 13, _table),
    ("delivery_mode", 1 << 12, _octet),
    ("priority", 1 << 11, _octet),
    ("correlation_id", 1 << 10, _short),
    ("reply_to", 1 << 9, _often),
    ("expiration", 1 << 8, _short),
    ("message_id", 1 << 7, _short),
    ("timestamp", 1 << 6, _timestamp),
    ("message_type", 1 << 5, _short),
    ("user_id", 1 << 4, _short),
    ("app_id", 1 << 3, _short),
)


# Reading


def properties_of(encoded: bytes) -> dict[str, Any]:
    """Return the properties that are set, by their names in pamqp.

    Raises:
        MalformedMessage: they are no properties.
    """
    try:
        at = 2
        (flags,) = more = _FLAGS.unpack_from(encoded)
        while more[0] & _FOLLOWED:  # no property has a flag there
            more = _FLAGS.unpack_from(encoded, at)
            at += 2
        found: dict[str, Any] = {}
        for name, read in _set_in(flags):
            found[name], at = read(encoded, at)
    except (ValueError, struct.error, OverflowError, KeyError, IndexError, OSError) as exc:
        raise MalformedMessage(f"its properties can't be read: {exc!r}") from exc
    found.pop("cluster_id", None)
    return found


@lru_cache(_KEPT)
def _set_in(flags: int) -> tuple[tuple[str, Callable[[bytes, int], tuple[Any, int]]], ...]:
    return tuple((name, read) for name, flag, read in _READ if flags & flag)


@lru_cache(_KEPT)
def _known(encoded: bytes) -> str:
    return encoded.decode()


def _until(encoded: bytes, end: int) -> int:
    """Return `end`, which is within what came."""
    if end > len(encoded):
        raise ValueError("they are cut off")
    return end


def _short_of(encoded: bytes, at: int) -> tuple[str, int]:
    end = _until(encoded, at + 1 + encoded[at])
    return encoded[at + 1 : end].decode(), end


def _often_of(encoded: bytes, at: int) -> tuple[str, int]:
    end = _until(encoded, at + 1 + encoded[at])
    return _known(encoded[at + 1 : end]), end


def _octet_of(encoded: bytes, at: int) -> tuple[int, int]:
    return encoded[at], at + 1


def _headers_of(encoded: bytes, at: int) -> tuple[dict[str, Any], int]:
    return _table_of(encoded, at, _DEEPEST)


def _table_of(encoded: bytes, at: int, depth: int) -> tuple[dict[str, Any], int]:
    end = _until(encoded, at + 4 + _size_of(encoded, at)[0])
    if not depth:
        raise ValueError(f"there are more than {_DEEPEST} tables within each other")
    at += 4
    table: dict[str, Any] = {}
    while at < end:
        after = at + 1 + encoded[at]
        name = _known(encoded[at + 1 : after])
        kind = encoded[after]
        if kind == _S:  # nearly all of them
            start = after + 5
            at = start + _size_of(encoded, after + 1)[0]
            text = encoded[start:at]
            try:
                table[name] = text.decode()
            except UnicodeDecodeError:
                table[name] = text
        else:
            table[name], at = _OF_KIND[kind](encoded, after + 1, depth - 1)
    if at != end:
        raise ValueError("a table ends within a value")
    return table, end


def _list_of(encoded: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    end = _until(encoded, at + 4 + _size_of(encoded, at)[0])
    if not depth:
        raise ValueError(f"there are more than {_DEEPEST} lists within each other")
    at += 4
    found: list[Any] = []
    while at < end:
        value, at = _OF_KIND[encoded[at]](encoded, at + 1, depth - 1)
        found.append(value)
    if at != end:
        raise ValueError("a list ends within a value")
    return found, end


def _string_of(encoded: bytes, at: int, _: int) -> tuple[str | bytes, int]:
    end = _until(encoded, at + 4 + _size_of(encoded, at)[0])
    text = encoded[at + 4 : end]
    try:
        return text.decode(), end
    except UnicodeDecodeError:
        return text, end


def _bytes_of(encoded: bytes, at: int, _: int) -> tuple[bytes, int]:
    end = _until(encoded, at + 4 + _size_of(encoded, at)[0])
    return encoded[at + 4 : end], end


def _bool_of(encoded: bytes, at: int, _: int) -> tuple[bool, int]:
    return encoded[at] != 0, at + 1


def _none_of(_: bytes, at: int, __: int) -> tuple[None, int]:
    return None, at


def _decimal_of(encoded: bytes, at: int, _: int) -> tuple[Decimal, int]:
    places, number = _DECIMAL.unpack_from(encoded, at)
    return Decimal(number) * Decimal(10) ** -places, at + 5


def _moment_of(encoded: bytes, at: int) -> tuple[datetime, int]:
    seconds: float = _MOMENT.unpack_from(encoded, at)[0]
    if seconds > _LAST_SECOND:
        seconds /= 1000
    return datetime.fromtimestamp(seconds, UTC), at + 8


def _moment_value_of(encoded: bytes, at: int, _: int) -> tuple[datetime, int]:
    return _moment_of(encoded, at)


def _number(form: str) -> Callable[[bytes, int, int], tuple[Any, int]]:
    unpack_from, size = struct.Struct(form).unpack_from, struct.calcsize(form)

    def read(encoded: bytes, at: int, _: int) -> tuple[Any, int]:
        return unpack_from(encoded, at)[0], at + size

    return read


#: The type of a value, and how it is read.
_OF_LETTER: Final[dict[str, Callable[[bytes, int, int], tuple[Any, int]]]] = {
    "S": _string_of,
    "I": _number(">i"),
    "l": _number(">q"),
    "t": _bool_of,
    "V": _none_of,
    "\0": _none_of,
    "d": _number(">d"),
    "F": _table_of,
    "A": _list_of,
    "x": _bytes_of,
    "T": _moment_value_of,
    "D": _decimal_of,
    "b": _number(">b"),
    "B": _number(">B"),
    "s": _number(">h"),
    "u": _number(">H"),
    "i": _number(">I"),
    "L": _number(">q"),
    "f": _number(">f"),
}
_OF_KIND: Final = {ord(letter): read for letter, read in _OF_LETTER.items()}

#: Name, flag, how it is read, in the order in which they travel.
_READ: Final[tuple[tuple[str, int, Callable[[bytes, int], tuple[Any, int]]], ...]] = (
    ("content_type", 1 << 15, _often_of),
    ("content_encoding", 1 << 14, _often_of),
    ("headers", 1 << 13, _headers_of),
    ("delivery_mode", 1 << 12, _octet_of),
    ("priority", 1 << 11, _octet_of),
    ("correlation_id", 1 << 10, _short_of),
    ("reply_to", 1 << 9, _often_of),
    ("expiration", 1 << 8, _short_of),
    ("message_id", 1 << 7, _short_of),
    ("timestamp", 1 << 6, _moment_of),
    ("message_type", 1 << 5, _short_of),
    ("user_id", 1 << 4, _short_of),
    ("app_id", 1 << 3, _short_of),
    ("cluster_id", 1 << 2, _short_of),
)
