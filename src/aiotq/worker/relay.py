"""Sends what `app.outbox` left in a database: each parcel once, however many workers do it and whatever is killed.

A parcel is sent in the same step in which a row with its name comes into the ledger. Whoever finds that row knows that
it was sent. The row goes when the database has forgotten the parcel.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final

import orjson

from ..backends.sql.outbox import OutboxTable, Taken
from ..calling.connection import Connection
from ..calling.core import AppCore
from ..calling.outbox import Parcel, unpack_parcel
from ..commit import Committed, Committer, Finish
from ..core.logs import WarnOnce
from ..exceptions import MalformedMessage, OperationalError
from ..results import ScheduleChange
from ..transport.refusals import apart

logger = logging.getLogger("aiotq.worker")

#: Parcels in one step.
_MOST: Final = 100
#: Seconds between looks: after something was sent, and at last when nothing comes.
_SHORTEST: Final = 0.05
_LONGEST: Final = 1.0
#: Seconds between looks for rows of the ledger that nobody removed, and how old these are.
_TIDIED: Final = 3600.0
_LEFT: Final = 86_400.0


class Relay:
    """Sends from the outbox of `core`'s app while a worker runs."""

    def __init__(self, core: AppCore, connection: Connection, holder: str) -> None:
        self._core = core
        self._connection = connection
        self._committer: Committer = connection.sender(holder, core.conf.worker_lease)
        self._scope = f"outbox:{core.main or ''}"
        self._tidied = -_TIDIED

    async def run(self) -> None:
        """Send what comes, until cancelled."""
        conf = self._core.conf
        complaint = WarnOnce(logger, "sending from the outbox failed")
        pause = _SHORTEST
        while True:
            try:
                async with OutboxTable(str(conf.outbox), migrates=conf.postgres_migrate) as table:
                    while True:
                        sent = await self._step(table)
                        complaint.withdraw()
                        await self._tidy(table)
                        pause = _SHORTEST if sent else min(2 * pause, _LONGEST)
                        if sent < _MOST:
                            await asyncio.sleep(pause)
            except OperationalError as exc:
                complaint.make(exc)
            except Exception:
                logger.exception("sending from the outbox failed, trying again")
            await asyncio.sleep(_LONGEST)

    async def _step(self, table: OutboxTable) -> int:
        """Send up to `_MOST` parcels; return how many there were."""
        async with table.taking(_MOST) as taken:
            if not taken.parcels:
                return 0
            done = await self._sent(taken)
            if done:
                await taken.delete(done)
        removed = [ScheduleChange(self._scope, name, name, "") for name in done]
        await self._connection.ledger.change_schedules(removed)
        return len(taken.parcels)

    async def _sent(self, taken: Taken) -> list[str]:
        """Send parcels; return the names of those that are sent, now or before."""
        ledger = self._connection.ledger
        before = {row.name: row for row in await ledger.schedules(self._scope, list(taken.parcels))}
        done = [name for name, row in before.items() if not row.unsent]
        parcels = await self._parcels(taken, {name: each for name, each in taken.parcels.items() if name not in done})
        fresh = [parcel for name, parcel in parcels.items() if name not in before]
        await ledger.open_joins([join for parcel in fresh for join in parcel.joins])
        if records := [record for parcel in fresh for record in parcel.records]:
            await self._connection.records.put(records)
        finishes = [self._finish(name, parcel) for name, parcel in parcels.items()]
        for name, answer in zip(parcels, await apart(finishes, self._committer.commit), strict=True):
            if isinstance(answer, Committed):
                done.append(name)
            elif isinstance(answer, Exception):
                await self._refuse(taken, name, answer)
        return done

    async def _parcels(self, taken: Taken, texts: Mapping[str, str]) -> dict[str, Parcel]:
        parcels: dict[str, Parcel] = {}
        for name, text in texts.items():
            try:
                parcels[name] = unpack_parcel(text)
            except MalformedMessage as exc:
                await self._refuse(taken, name, exc)
        return parcels

    async def _refuse(self, taken: Taken, name: str, why: Exception) -> None:
        logger.error("parcel %s in the outbox can't be sent, and stays there: %s", name, why)
        await taken.refuse(name, str(why))

    def _finish(self, name: str, parcel: Parcel) -> Finish:
        body = orjson.dumps(self._core.clock.time())
        return Finish(None, envelopes=parcel.envelopes, schedule=ScheduleChange(self._scope, name, "", name, body))

    async def _tidy(self, table: OutboxTable) -> None:
        """Remove rows of the ledger whose parcels are gone: whoever sent them was killed just then."""
        now = asyncio.get_running_loop().time()
        if now - self._tidied < _TIDIED:
            return
        self._tidied = now
        ledger, oldest = self._connection.ledger, self._core.clock.time() - _LEFT
        old: Sequence[str] = [
            row.name for row in await ledger.schedules(self._scope) if orjson.loads(row.body) < oldest
        ]
        kept = await table.those_of(old[:_MOST])
        gone = [ScheduleChange(self._scope, name, name, "") for name in old[:_MOST] if name not in kept]
        await ledger.change_schedules(gone)
