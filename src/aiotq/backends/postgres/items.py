"""How messages, settlements, records and joins look to the functions in the database, and what those return."""

from __future__ import annotations

import logging
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ...exceptions import MalformedMessage
from ...results.index import pack_finished
from ...results.ledger import NO_JOIN_CHANGES, Join, JoinChanges, ScheduleChange, kept_record
from ...results.records import Record
from ...states import READY_STATES
from ...transport.broker import (
    HIGHEST_PRIORITY,
    LOWEST_PRIORITY,
    Acknowledge,
    DeadLetter,
    Delivery,
    GiveUp,
    HandBack,
    Settlement,
)
from ...wire.message import Envelope, pack, unpack
from ...wire.shares import share_of

logger = logging.getLogger("aiotq.postgres")

Item = dict[str, Any]

#: Where a held message stands: rank, id, holder, number of the read.
Place = tuple[int, int, int, int]
_NOWHERE: Final[Place] = (0, 0, 0, 0)


def text_of(key: tuple[str, int]) -> str:
    """Return a message's key as one text."""
    return f"{key[0]} {key[1]}"


def key_of(text: str) -> tuple[str, int]:
    """Return what `text_of` was given."""
    task_id, _, attempt = text.rpartition(" ")
    return task_id, int(attempt)


def lease_of(place: Place) -> str:
    """Return what a delivery has as its lease."""
    return "/".join(map(str, place))


def place_of(delivery: Delivery) -> Place:
    """Return where a delivery stands; nowhere if it is not of this kind of broker."""
    try:
        rank, number, holder, lease = map(int, str(delivery.lease).split("/"))
    except ValueError:
        return _NOWHERE
    return rank, number, holder, lease


def packed_body(body: bytes) -> str:
    return b64encode(body).decode()


def packed_envelopes(envelopes: Iterable[Envelope], number: int | None = None) -> list[Item]:
    """Return envelopes as items; `number` is that of the finish they belong to.

    Raises:
        Refused: one can't be encoded.
    """
    items: list[Item] = []
    for envelope in envelopes:
        item: Item = {
            "q": envelope.queue,
            "p": min(max(envelope.priority, LOWEST_PRIORITY), HIGHEST_PRIORITY),
            "k": text_of(envelope.message.key),
            "b": packed_body(pack(envelope.message)),
        }
        if envelope.due is not None:
            item["d"] = envelope.due
        if number is not None:
            item["n"] = number
        if envelope.message.headers is not None and (share := share_of(envelope.message)) is not None:
            item["s"], item["c"] = share
        items.append(item)
    return items


def envelopes_of(items: Iterable[Mapping[str, Any]] | None) -> tuple[Envelope, ...]:
    """Return the envelopes in items.

    Raises:
        MalformedMessage: one is none.
    """
    return tuple(Envelope(unpack(b64decode(each["b"])), each["q"], each["p"], each.get("d")) for each in items or ())


def readable_envelopes(items: Iterable[Mapping[str, Any]] | None, what: str) -> tuple[Envelope, ...]:
    """The same; what can't be read is left out, with a line in the log: failing would fail `what` for ever."""
    try:
        return envelopes_of(items)
    except (MalformedMessage, KeyError, TypeError, ValueError) as exc:
        logger.warning("%s: its next messages can't be read: %s", what, exc)
        return ()


def packed_settlement(number: int, delivery: Delivery, settlement: Settlement) -> Item:
    rank, id_, holder, lease = place_of(delivery)
    item: Item = {"n": number, "q": delivery.queue, "r": rank, "i": id_, "h": holder, "l": lease}
    match settlement:
        case Acknowledge():
            item["a"] = "a"
        case HandBack(delay):
            item |= {"a": "h", "d": max(delay, 0.0)}
        case GiveUp(reason, detail):
            # What is for people is to be kept, whatever stands in it: PostgreSQL's text has no NUL.
            item |= {"a": "g", "w": reason.replace("\0", "\ufffd"), "x": detail.replace("\0", "\ufffd")}
    return item


def packed_letter(letter: DeadLetter) -> Item:
    """Return a dead letter of another broker as an item."""
    return {
        "id": letter.message.id if letter.message is not None else None,
        "q": letter.queue,
        "p": letter.priority,
        "w": letter.reason.replace("\0", "\ufffd"),
        "x": letter.detail.replace("\0", "\ufffd"),
        "at": letter.died_at,
        "deaths": letter.deaths,
        "b": packed_body(letter.raw),
    }


def in_order(items: Iterable[Item]) -> tuple[list[Item], list[int]]:
    """Return settlements in the order in which everybody locks messages, and the numbers of those that come twice.

    A delivery that is settled twice in one batch is settled once.
    """
    once: dict[tuple[Any, ...], Item] = {}
    twice = [item["n"] for item in items if once.setdefault((item["q"], item["r"], item["i"]), item) is not item]
    return [once[place] for place in sorted(once)], twice


def packed_record(record: Record, number: int, order: int) -> Item:
    """Return a record as an item; `order` is its place among those of the same group."""
    item: Item = {
        "n": number,
        "o": order,
        "id": record.id,
        "s": record.state,
        "t": record.state in READY_STATES,
        "c": record.content_type,
        "e": record.expires,
        "r": record.reply_to,
        "b": packed_body(record.body),
    }
    if record.entry is not None:
        finished, bounds = record.entry.finished, record.entry.bounds
        item["i"] = {
            "most": bounds.most,
            "kept": bounds.seconds,
            "b": packed_body(pack_finished(finished)),
        }
    return item


def packed_joins(joins: Iterable[Join], number: int) -> list[Item]:
    return [
        {
            "n": number,
            "j": join.id,
            "size": join.size,
            "readers": len(join.then),
            "patience": join.patience,
            "until": join.until,
            "about": join.about,
            "following": packed_envelopes(join.then),
        }
        for join in joins
    ]


class Effects:
    """What finishes do to joins and records, gathered for one call."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._numbers: list[int] = []
        self._items: dict[str, list[Any]] = {}
        self._joins: set[str] = set()

    def add(self, number: int, record: Record | None, further: Sequence[Record], joining: JoinChanges) -> None:
        """Add what finish `number` does."""
        records = (record, *further) if record is not None else further
        self.records += records
        self._numbers += [number] * len(records)
        if joining is not NO_JOIN_CHANGES:
            self._add_joining(number, record, joining)

    def given(self) -> dict[str, list[Any]]:
        """Return all of it, without what there is none of."""
        records = [
            packed_record(record, number, order)
            for order, (record, number) in enumerate(zip(self.records, self._numbers, strict=True))
        ]
        listed = [True] if any("i" in each for each in records) else []
        parts = {**self._items, "joins": sorted(self._joins), "records": records, "listed": listed}
        return {name: items for name, items in parts.items() if items}

    def written(self, lost: Sequence[int]) -> Sequence[Record]:
        """Return the records of those finishes that are not among the lost ones."""
        if not lost:
            return self.records
        numbered = zip(self.records, self._numbers, strict=True)
        return [record for record, number in numbered if number not in lost]

    def _add_joining(self, number: int, record: Record | None, joining: JoinChanges) -> None:
        def note(name: str, items: list[Item]) -> None:
            self._items.setdefault(name, []).extend(items)
            self._joins.update(item["j"] for item in items)

        note("opened", packed_joins(joining.opened, number))
        note("grown", [{"n": number, "j": growth.join_id, "c": growth.count} for growth in joining.grown])
        for arrival in joining.arrivals:
            kept = packed_record(kept_record(arrival, record), number, 0)
            note("arrivals", [{**kept, "j": arrival.join_id, "m": arrival.member, "f": arrival.failed}])
        note("extended", [{"n": number, "j": each.join_id, "u": each.until} for each in joining.extended])
        if joining.keys:
            changes = [packed_change(change, number) for change in sorted(joining.keys, key=lambda each: each.name)]
            self._items.setdefault("keys", []).extend(changes)
        note("released", [{"n": number, "j": join_id} for join_id in joining.released])


def packed_change(change: ScheduleChange, number: int) -> Item:
    return {
        "n": number,
        "scope": change.scope,
        "name": change.name,
        "seen": change.seen,
        "mark": change.mark,
        "body": packed_body(change.body),
        "unsent": packed_envelopes(change.unsent),
        "tells": change.tells,
        **({} if change.lasts is None else {"lasts": change.lasts}),
    }
