"""What one process has of a PostgreSQL: connections for requests, commits, notifications and the heartbeat's thread.

The second is made when it is first needed, and so is the last. All are kept open, for ever, with pauses that grow and
jitter.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Self

import orjson
from anyio import to_thread

from ...control.bus import frame
from ...core.aio import Service
from ...exceptions import OperationalError, Refused
from .address import Address
from .blocking import BlockingClient
from .bus import DUE, PostgresBus
from .lane import Lane
from .listening import Listener
from .migrating import check, migrate
from .upkeep import Upkeep
from .values import Value

logger = logging.getLogger("aiotq.postgres")

#: Seconds that what is to be told has when the client is left.
_LAST_WORDS: Final = 2.0
#: Seconds between looks of whoever waits: notifications make them unnecessary, faults make them useful.
SAFETY_INTERVAL: Final = 2.5
#: The same where no notifications come.
POLL_INTERVAL: Final = 0.25
#: Notifications that wait to be sent at most, and those that are sent at once.
_MOST_NOTICES: Final = 20_000
_NOTICES_AT_ONCE: Final = 200
_TELL: Final = b"select aiotq.tell($1::jsonb, $2::text, $3::text, $4::text[], $5::text[])"

#: How many messages are ready in which queue.
Ready = Mapping[str, int] | None


class PostgresClient:
    """A process's connections to one PostgreSQL; an async context manager.

    `name` is unique: `bus`, which is open as long as the client is, has it as its address. `migrates`: tables that
    are missing are made when it is entered.
    """

    def __init__(self, address: Address, *, migrates: bool = True) -> None:
        self.address = address
        self.name = os.urandom(6).hex()
        self.blocking = BlockingClient(address)
        self.requests = Lane(address, "requests")
        self.interval = SAFETY_INTERVAL
        self._migrates = migrates
        self._commits = Lane(address, "commits")
        self._wants_commits = asyncio.Event()
        self.bus = PostgresBus(address, self.name, self._tell)
        self._listener = Listener(address, self.bus, self.requests)
        self._ready: dict[str, int] = {}
        self._hurry = math.inf
        self._notices: list[tuple[str, str]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_told = asyncio.Event()
        self._has_told.set()
        self._has_news = asyncio.Event()
        self._texts: dict[bytes, bytes] = {}
        self.upkeep = Upkeep(self.row)
        self._service: Service[None] = Service(self._main, "aiotq.postgres")

    async def __aenter__(self) -> Self:
        """Connect, and see that the tables are there.

        Raises:
            NotConnected: it can't be reached; worth trying again.
            OperationalError: it refused us, or its tables are none that we can use.
        """
        await self._service.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._service.stop()

    async def rows(self, sql: bytes, *values: Value) -> list[Any]:
        """Return the rows of one statement; raises as `Lane.rows`."""
        return await self.requests.rows(self.named(sql), *values)

    async def row(self, sql: bytes, *values: Value) -> Any:
        """Return the one row of a statement."""
        (row,) = await self.rows(sql, *values)
        return row

    def expect_commits(self) -> None:
        """Open the connection for commits, if it is not."""
        self._wants_commits.set()

    async def commit(self, sql: bytes, *values: Value) -> Any:
        """Return the one row of a statement that commits a group, on the connection for that."""
        self.expect_commits()
        (row,) = await self._commits.rows(self.named(sql), *values)
        return row

    def named(self, sql: bytes) -> bytes:
        """Return `sql` with its tables and functions as they are called here."""
        text = self._texts.get(sql)
        if text is None:
            text = self._texts[sql] = self.address.named(sql.decode()).encode()
        return text

    @property
    def hears(self) -> bool:
        """Whether notifications come: through a pooler, and while their connection is made again, none do."""
        return self._listener.hears

    def pause(self) -> float:
        """Return the seconds until one should look without having been told."""
        return self.interval if self.hears else min(self.interval, POLL_INTERVAL)

    def wake(self, *ready: Ready) -> None:
        """Have as many idle consumers woken as there are messages for them, soon."""
        for each in ready:
            for queue, count in (each or {}).items():
                self._ready[queue] = self._ready.get(queue, 0) + count
        if self._ready:
            self._has_told.clear()
            self._has_news.set()

    def wake_from_thread(self, ready: Ready) -> None:
        """The same, called in another thread than the loop's."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody is there to be woken
                self._loop.call_soon_threadsafe(self.wake, ready)

    def hurry(self, seconds: float | None) -> None:
        """Have consumers told that something is due before what they wait for, soon; None: nothing is."""
        if seconds is not None:
            self._hurry = min(seconds, self._hurry)
            self._has_told.clear()
            self._has_news.set()

    def notices(
        self, topic: str, told: Iterable[tuple[str, bytes]]
    ) -> tuple[Sequence[str], Sequence[str]] | tuple[None, None]:
        """Return channels and payloads that tell processes something; None if that is nothing, or too much."""
        channels: list[str] = []
        payloads: list[str] = []
        for address, payload in told:
            if (channel := self.address.channel(address)) is None:
                self.bus.dropped += 1
                continue
            parts = self.bus.parts(frame(topic, payload))
            channels += [channel] * len(parts)
            payloads += parts
        return (channels, payloads) if 0 < len(channels) <= _NOTICES_AT_ONCE else (None, None)

    def tell_soon(self, address: str, topic: str, payload: bytes) -> None:
        """Tell a process something, soon, unless too much waits to be told."""
        channel = self.address.channel(address)
        if channel is None or len(self._notices) >= _MOST_NOTICES:
            self.bus.dropped += 1
            return
        self._notices += ((channel, part) for part in self.bus.parts(frame(topic, payload)))
        self._has_told.clear()
        self._has_news.set()

    async def _tell(self, channels: Sequence[str], payloads: Sequence[str]) -> None:
        """Send notifications, in this order."""
        await self.rows(_TELL, None, self.address.channel_base, self.bus.woken, channels, payloads)

    async def _main(self, ready: Callable[[None], None], stopping: asyncio.Event) -> None:
        self._loop = asyncio.get_running_loop()
        wire = await self.requests.open()
        try:
            await (migrate if self._migrates else check)(wire, self.address)
            async with asyncio.TaskGroup() as group:
                keeping = [
                    group.create_task(self.requests.keep(wire), name="aiotq.postgres.requests"),
                    group.create_task(self._keep_commits(), name="aiotq.postgres.commits"),
                ]
                listening = [
                    group.create_task(self._listener.keep(), name="aiotq.postgres.notifications"),
                    group.create_task(self._wake_all(), name="aiotq.postgres.waking"),
                    group.create_task(self.upkeep.keep(), name="aiotq.postgres.upkeep"),
                ]
                await self._listener.opened()
                ready(None)
                await stopping.wait()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_WORDS):
                        await self._has_told.wait()
                for task in listening:
                    task.cancel()
                for lane in (self.requests, self._commits):
                    lane.stop()
                self._wants_commits.set()
                _, late = await asyncio.wait(keeping, timeout=_LAST_WORDS)
                for task in late:
                    task.cancel()
        finally:
            wire.end()
            await to_thread.run_sync(self.blocking.close)

    async def _keep_commits(self) -> None:
        await self._wants_commits.wait()
        await self._commits.keep()

    async def _wake_all(self) -> None:
        """Have idle consumers woken. At most once: whoever is not told looks in a while."""
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            counts, self._ready = self._ready, {}
            seconds, self._hurry = self._hurry, math.inf
            notices, self._notices = self._notices, []
            try:
                for start in range(0, max(len(notices), bool(counts)), _NOTICES_AT_ONCE):
                    some = notices[start : start + _NOTICES_AT_ONCE]
                    ready = packed(counts) if counts and not start else None
                    told = [channel for channel, _ in some], [payload for _, payload in some]
                    await self.rows(_TELL, ready, self.address.channel_base, self.bus.woken, *told)
                if seconds < math.inf:
                    await self.bus.tell_all(DUE, b"%d" % max(round(seconds * 1000), 0))
            except OperationalError as exc:
                logger.debug("nobody was woken, they look in a while: %s", exc)
            if not self._has_news.is_set():
                self._has_told.set()


def packed(given: object) -> str:
    """Return `given` as JSON.

    Raises:
        Refused: it has no form in JSON.
    """
    try:
        return orjson.dumps(given).decode()
    except (TypeError, ValueError) as exc:  # a lone surrogate, a number of over 64 bits
        raise Refused(f"it can't be encoded for PostgreSQL: {exc}", "unencodable") from exc
