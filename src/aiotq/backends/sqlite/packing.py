"""Envelopes as blobs, as joins, claims and rows keep what is to be sent."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from ...exceptions import MalformedMessage
from ...wire.message import Envelope, pack_envelope, unpack_envelope

_LENGTH: Final = struct.Struct(">I")


def pack_all(envelopes: Iterable[Envelope]) -> bytes:
    """Return `envelopes` as one blob, each behind its length."""
    packed = [pack_envelope(envelope) for envelope in envelopes]
    return b"".join(part for each in packed for part in (_LENGTH.pack(len(each)), each))


def unpack_all(data: object) -> tuple[Envelope, ...]:
    """Return the envelopes in a blob of `pack_all`.

    Raises:
        MalformedMessage: it is none.
    """
    if not isinstance(data, bytes):
        raise MalformedMessage(f"the row's envelopes are a {type(data).__name__}, not a blob")
    envelopes: list[Envelope] = []
    start = 0
    while start < len(data):
        if start + _LENGTH.size > len(data):
            raise MalformedMessage("an envelope's length is cut off")
        (length,) = _LENGTH.unpack_from(data, start)
        start += _LENGTH.size
        envelopes.append(unpack_envelope(data[start : start + length]))
        start += length
    return tuple(envelopes)
