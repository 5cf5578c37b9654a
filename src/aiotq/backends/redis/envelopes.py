"""How envelopes look to scripts: {queue, priority, due, id, message, and its share if it has one}."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from ...wire.message import Envelope
from ...wire.message import pack as pack_message
from ...wire.message import unpack as unpack_message
from ...wire.shares import Share, share_of
from .script import unpack

PackedEnvelope = tuple[str, int, float | bool, str, bytes] | tuple[str, int, float | bool, str, bytes, Share]

_LOWEST: Final = 0
_HIGHEST: Final = 9


def packed_key(key: tuple[str, int]) -> str:
    """Return the id and attempt of a message, which make two messages the same one, as one string."""
    task_id, attempt = key
    return f"{task_id}\t{attempt}" if attempt else task_id


def unpacked_key(packed: bytes) -> tuple[str, int]:
    """Return what `packed_key` packed."""
    task_id, _, attempt = packed.decode().partition("\t")
    return task_id, int(attempt or 0)


def packed_envelopes(envelopes: Iterable[Envelope]) -> list[PackedEnvelope]:
    """Return envelopes as scripts read, keep and return them; due is false, or seconds since the epoch."""
    return [_packed(envelope) for envelope in envelopes]


def _packed(envelope: Envelope) -> PackedEnvelope:
    packed = (
        envelope.queue,
        min(max(envelope.priority, _LOWEST), _HIGHEST),
        envelope.due if envelope.due is not None else False,
        packed_key(envelope.message.key),
        pack_message(envelope.message),
    )
    share = share_of(envelope.message)
    return packed if share is None else (*packed, share)


def _has_share(envelope: Envelope) -> bool:
    return envelope.message.headers is not None and share_of(envelope.message) is not None


def in_columns(
    envelopes: Sequence[Envelope],
) -> tuple[list[tuple[str, str, list[str]]], list[bytes], list[Envelope]]:
    """Return those that go to a stream at once as columns, which cost the server half: what a stream's messages have
    in common is said once. A column is {queue, level, ids}. Then their messages; and the other envelopes."""
    columns: dict[tuple[str, int], tuple[list[str], list[bytes]]] = {}
    seen: set[str] = set()
    others: list[Envelope] = []
    for envelope in envelopes:
        key = packed_key(envelope.message.key)
        if envelope.due is not None or key in seen or _has_share(envelope):
            others.append(envelope)
            continue
        seen.add(key)
        place = envelope.queue, envelope.priority
        column = columns.get(place)
        if column is None:
            column = columns[place] = ([], [])
        column[0].append(key)
        column[1].append(pack_message(envelope.message))
    packed = [(queue, str(min(max(level, _LOWEST), _HIGHEST)), ids) for (queue, level), (ids, _) in columns.items()]
    return packed, [message for _, messages in columns.values() for message in messages], others


def envelopes_of(packed: bytes) -> tuple[Envelope, ...]:
    """Return the envelopes that a script packed."""
    return envelopes_of_list(unpack(packed))


def envelopes_of_list(found: Sequence[Any]) -> tuple[Envelope, ...]:
    """Return the envelopes in what a script packed."""
    return tuple(
        Envelope(unpack_message(blob), queue.decode(), int(priority), due if due is not False else None)
        for queue, priority, due, _, blob, *_share in found
    )
