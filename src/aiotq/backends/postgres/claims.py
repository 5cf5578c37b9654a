"""Claims in the database: who runs a task where the broker can't tell, and what followed once it was done (P3).

They are decided here (`decisions.decide_claim`), in transactions that lock the rows of the messages in one order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from ...results.decisions import ClaimState, Room, decide_claim
from ...results.ledger import Caution, Claim, Claimed, Closing
from ...results.records import Record
from ...wire.message import Envelope
from .connection import PostgresClient, packed
from .fleet import writing_row
from .items import Effects, packed_envelopes, readable_envelopes, text_of
from .lane import Work
from .pushing import push
from .wire import Wire

#: How long a claim is remembered after it was done or ended: a broker that was down for a day may still redeliver.
CLAIM_KEPT: Final = 86_400.0

_NOW: Final = "extract(epoch from clock_timestamp())::float8"
#: A row without a holder stands for none.
_MAKE: Final = (
    f"insert into aiotq.claim (key, expires) select k, {_NOW} + $2::float8 from unnest($1::text[]) as k order by k"
    " on conflict do nothing"
).encode()
_READ: Final = (
    f"select key, holder, ends, died, is_done, following, expires <= {_NOW} from aiotq.claim"
    " where key = any ($1::text[]) order by key for update"
).encode()
_TIME: Final = f"select {_NOW}".encode()
_WRITE: Final = (
    b"update aiotq.claim c set holder = $2::text, ends = $3::float8, expires = $3::float8 + $4::float8,"
    b" died = array(select jsonb_array_elements_text(x.died)), is_done = false, following = null"
    b" from jsonb_to_recordset($1::jsonb) as x(k text, died jsonb) where c.key = x.k"
)
RENEW: Final = (
    "with renewed as (update aiotq.claim set"
    f" ends = {_NOW} + $3::float8, expires = {_NOW} + $3::float8 + $4::float8"
    " where key = any (array(select key from aiotq.claim where key = any ($1::text[]) order by key for update))"
    " and holder = $2::text and not is_done returning key),"
    " alive as (update aiotq.claim set died = array_remove(died, $2::text)"
    " where key = any ($1::text[]) and holder <> $2::text and $2::text = any (died))"
    " select key from renewed"
).encode()
RENEW_WITH_ROW: Final = RENEW.replace(b"with ", f"with fleet as ({writing_row(5, 6, 7)}), ".encode(), 1)
_CLOSE: Final = b"select is_lost, is_new, following, kept, watched from aiotq.close($1::jsonb, $2::text, $3::float8)"
FORGET: Final = b"delete from aiotq.claim where is_done and substring(key from '^(.*) [0-9]+$') = any ($1::text[])"


def claiming(
    client: PostgresClient,
    keys: Sequence[tuple[str, int]],
    holder: str,
    lease: float,
    caution: Caution | None,
    dead: Collection[str],
) -> Work[list[Claim]]:
    """Return what lets `holder` run these messages, but for suspects beyond what `caution` has room for."""
    texts = [text_of(key) for key in keys]

    async def claim(wire: Wire) -> list[Claim]:
        room = Room(caution)
        answers: list[Claim] = []
        taken: dict[str, tuple[str, ...]] = {}
        async with wire.transaction():
            await wire.execute(client.named(_MAKE), (texts, CLAIM_KEPT))
            rows = await _rows(wire, client.named(_READ), texts)
            ((now,),) = await _rows(wire, _TIME)
            states = {row[0]: _state_of(row) for row in rows}
            for text in texts:
                answer, died = decide_claim(states[text], holder, now, room.deadly, dead)
                answers.append(room.take(answer))
                if isinstance(answer, Claimed):
                    taken[text] = died
                    states[text] = ClaimState(holder, now + lease, died)
            if taken:
                items = packed([{"k": text, "died": died} for text, died in taken.items()])
                await wire.execute(client.named(_WRITE), (items, holder, now + lease, CLAIM_KEPT))
        return answers

    return claim


async def close_all(
    client: PostgresClient, closings: Sequence[Closing], holder: str
) -> list[tuple[Envelope, ...] | None]:
    """Write what came of claimed runs; return for each what is to be sent, None if its claim is lost."""
    items: list[dict[str, Any]] = []
    all_records: list[Sequence[Record]] = []
    for closing in closings:
        effects = Effects()
        effects.add(0, closing.record, closing.further, closing.joining)
        all_records.append(effects.records)
        item = {"k": text_of(closing.key), "is_done": closing.is_done, "envelopes": packed_envelopes(closing.envelopes)}
        items.append({**item, "effects": given} if (given := effects.given()) else item)
    answers: list[tuple[Envelope, ...] | None] = []
    rows = await client.rows(_CLOSE, packed(items), holder, CLAIM_KEPT)
    for closing, records, (is_lost, is_new, following, kept, watched) in zip(closings, all_records, rows, strict=True):
        answers.append(readable_envelopes(following, f"claim {closing.key}") if not is_lost else None)
        if is_new:
            push(client, records, kept, watched)
    return answers


def _state_of(row: Sequence[Any]) -> ClaimState | None:
    key, holder, ends, died, is_done, packed_following, is_expired = row
    if is_expired:
        return None
    following = readable_envelopes(packed_following, f"claim {key}") if is_done else None
    return ClaimState(holder, ends, tuple(died), following)


async def _rows(wire: Wire, sql: bytes, *values: Any) -> list[Any]:
    return await (await wire.execute(sql, values, binary=True)).fetchall()
