"""Results read in a loop that is brief (an async view under WSGI), by the connection of the background loop."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

from ..control.celery_mail import CeleryMail
from ..core.sync import Bridge
from ..core.values import replace
from ..results.ledger import Ledger
from ..results.reader import Reader
from ..results.records import Record, RecordStore
from ..results.waiting import Backlog, Waiting


def reader_at_home(reader: Reader, bridge: Bridge) -> Reader:
    """Return `reader`, of the background loop, as another loop can use it."""

    async def ask(queues: Collection[str]) -> str | None:
        return await reader.why_waiting(queues)

    async def why_waiting(queues: Collection[str]) -> str | None:
        return await bridge.at_home(ask, queues)

    return replace(
        reader,
        records=cast(RecordStore, _AtHome(reader.records, bridge)),
        ledger=cast(Ledger, _AtHome(reader.ledger, bridge)),
        waiting=cast(Waiting, _WaitingAtHome(reader.waiting, bridge)),
        why_waiting=why_waiting,
        celery=None if reader.celery is None else cast(CeleryMail, _AtHome(reader.celery, bridge)),
    )


class _AtHome:
    """Something of the background loop, whose coroutines run there; its other attributes are its own."""

    def __init__(self, own: Any, bridge: Bridge) -> None:
        self._own = own
        self._bridge = bridge

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._own, name)
        return partial(self._bridge.at_home, found) if inspect.iscoroutinefunction(found) else found


class _WaitingAtHome:
    """Waits in the background loop."""

    def __init__(self, own: Waiting, bridge: Bridge) -> None:
        self._own = own
        self._bridge = bridge

    async def terminal(self, task_id: str, *, pushed_here: bool, queue: str | None = None) -> Record:
        """As `Waiting.terminal`."""
        return await self._bridge.at_home(self._own.terminal, task_id, pushed_here=pushed_here, queue=queue)

    @asynccontextmanager
    async def records(
        self, ids: Collection[str], *, elsewhere: Collection[str] = (), size: int = 0
    ) -> AsyncGenerator[Backlog, None]:
        """As `Waiting.records`."""
        own = self._own.records(ids, elsewhere=elsewhere, size=size)
        backlog = await self._bridge.at_home(own.__aenter__)
        try:
            yield cast(Backlog, _AtHome(backlog, self._bridge))
        finally:
            await self._bridge.at_home(own.__aexit__, None, None, None)
