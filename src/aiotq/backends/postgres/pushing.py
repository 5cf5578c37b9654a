"""Records pushed to whom they are for, after they were committed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from ...results.packing import pack_pushed
from ...results.records import RESULTS, Record
from ...states import READY_STATES
from .connection import PostgresClient

#: Bytes of a push, which is several notifications when it is large: what is larger is read.
_LIMIT: Final = 32_768


def push(
    client: PostgresClient,
    records: Sequence[Record],
    kept: Collection[str] | None,
    watched: Iterable[Sequence[str]] | None,
) -> None:
    """Have `records` pushed, soon; not those whose ids are `kept`: another one stands and stays.

    `watched` has ids, each with the address of a process that watches it.
    """
    for address, payload in pushes(records, kept, watched):
        client.tell_soon(address, RESULTS, payload)


def pushes(
    records: Sequence[Record], kept: Collection[str] | None = None, watched: Iterable[Sequence[str]] | None = None
) -> Iterator[tuple[str, bytes]]:
    """Yield addresses of processes, each with what is pushed there, as `push` does."""
    by_address: dict[str, list[Record]] = {}
    over = set(kept or ())
    watchers: dict[str, list[str]] = {}
    for task_id, address in watched or ():
        watchers.setdefault(task_id, []).append(address)
    for record in records:
        if record.id in over:
            continue
        if record.state in READY_STATES:
            over.add(record.id)
        for address in {record.reply_to, *watchers.get(record.id, ())}:
            if address:
                by_address.setdefault(address, []).append(record)
    for address, theirs in by_address.items():
        for payload in pack_pushed(theirs, _LIMIT):
            yield address, payload
