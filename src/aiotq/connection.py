"""An app's connection in one loop: broker, store, publisher and waiting, built from URLs and entered as one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from typing import Final
from urllib.parse import urlsplit

from ._aio import Service
from ._sqlite import Database, path_from_url
from .clock import Clock
from .commit import Committer
from .commit.memory import MemoryCommitter
from .commit.ordered import OrderedCommitter
from .commit.sqlite import SQLiteCommitter
from .exceptions import InvalidSetting, OperationalError
from .publisher import Publisher
from .results import ResultStore
from .results.handle import Reader
from .results.memory import MemoryRecords, MemoryStore
from .results.sqlite import SQLiteStore
from .results.waiting import Waiting
from .settings import Settings
from .transport import Consumer, Transport
from .transport.memory import MemoryBroker, MemoryTransport
from .transport.sqlite import SQLiteTransport
from .worker.child import is_child

logger = logging.getLogger("aiotq")

DISABLED: Final = "disabled://"
_SCHEMES: Final = ("memory", "sqlite")
#: Seconds that leaving waits for messages under way, beyond their own deadlines.
_DRAIN_TIMEOUT: Final = 10.0


def mask_password(url: str) -> str:
    """Return `url` as it may be shown."""
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":**@") if parts.password else url


class MemoryState:
    """What `memory://` keeps: common to the connections of an app, or of a process by name."""

    def __init__(self, conf: Settings, clock: Clock) -> None:
        self.broker = MemoryBroker(clock=clock, dead_letter_expires=conf.dead_letter_expires)
        self.records = MemoryRecords(clock=clock)


class Connection:
    """What one app has in one loop while it is connected."""

    def __init__(self, conf: Settings, clock: Clock, memory: Callable[[str], MemoryState]) -> None:
        self._conf = conf
        self._clock = clock
        self._memory = memory
        backend = conf.result_backend
        self.keeps_results = backend != DISABLED
        self._broker_url = conf.broker_url
        # Without results the broker's own store still keeps revocations, joins and claims.
        self._backend_url = conf.broker_url if backend is None or not self.keeps_results else backend
        _check_url("broker_url", self._broker_url)
        _check_url("result_backend", self._backend_url)
        self._databases: dict[str, Database] = {}
        self.transport = self._make_transport(self._broker_url)
        self.store = self._make_store(self._backend_url)
        self.publisher = Publisher(
            self.transport, timeout=conf.task_publish_timeout, max_pending=conf.task_publish_pending
        )
        self.waiting = Waiting(self.store)
        self.reader: Reader | None = None
        #: Called with the ids of tasks to be cancelled where they run.
        self.revocation_listeners: set[Callable[[Collection[str]], None]] = set()
        self.store.on_revoked = self._revoked
        self._service: Service[None] = Service(self._main, "aiotq.connection")

    async def open(self) -> None:
        """Connect; on return everything works.

        Raises:
            OperationalError: broker or store can't be reached.
        """
        await self._service.start()

    async def close(self) -> None:
        """Send what is under way and disconnect."""
        await self._service.stop()

    async def ended(self) -> None:
        """Return when it is closed or has failed."""
        await self._service.ended()

    @property
    def is_open(self) -> bool:
        return self._service.is_running

    def committer(self, consumer: Consumer, holder: str, lease: float) -> Committer:
        """Return what commits the finishes of deliveries from `consumer`: atomic if broker and store are one."""
        committer: Committer
        match self.transport, self.store:
            case MemoryTransport() as transport, MemoryStore() as store if self._is_shared:
                committer = MemoryCommitter(transport, store)
            case SQLiteTransport() as transport, SQLiteStore() as store if self._is_shared:
                committer = SQLiteCommitter(transport, store)
            case transport, store:
                committer = OrderedCommitter(transport, store, holder, lease, clock=self._clock)
        committer.consumer = consumer
        return committer

    def _revoked(self, ids: Collection[str]) -> None:
        for listener in tuple(self.revocation_listeners):
            listener(ids)

    @property
    def _is_shared(self) -> bool:
        return self._broker_url == self._backend_url

    async def _main(self, ready: Callable[[None], None], stopping: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            for database in self._databases.values():
                await stack.enter_async_context(database)
            await stack.enter_async_context(self.transport)
            await stack.enter_async_context(self.store)
            async with asyncio.TaskGroup() as group:
                publishing = group.create_task(self.publisher.run(), name="aiotq.publisher")
                waiting = group.create_task(self.waiting.run(), name="aiotq.waiting")
                ready(None)
                await stopping.wait()
                try:
                    async with asyncio.timeout(_DRAIN_TIMEOUT):
                        await self.publisher.drained()
                except TimeoutError:
                    logger.warning("closing with messages unsent: their callers are told")
                publishing.cancel()
                waiting.cancel()

    def _memory_of(self, url: str) -> MemoryState:
        if is_child():
            raise OperationalError(
                f"{url} is in the memory of the worker's process, and a run='process' task can't reach it: "
                "send from a coroutine or a thread, or use a broker with a file or a server"
            )
        return self._memory(url)

    def _make_transport(self, url: str) -> Transport:
        if urlsplit(url).scheme == "memory":
            return MemoryTransport(self._memory_of(url).broker)
        return SQLiteTransport(
            self._database(url), clock=self._clock, dead_letter_retention=self._conf.dead_letter_expires
        )

    def _make_store(self, url: str) -> ResultStore:
        if urlsplit(url).scheme == "memory":
            return MemoryStore(self._memory_of(url).records)
        return SQLiteStore(self._database(url), clock=self._clock)

    def _database(self, url: str) -> Database:
        if url not in self._databases:
            self._databases[url] = Database(path_from_url(url))
        return self._databases[url]


def _check_url(setting: str, url: str) -> None:
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        extra = ", disabled://" if setting == "result_backend" else ""
        raise InvalidSetting(
            setting,
            mask_password(url),
            f"a URL of a kind there is (sqlite:///file.db, sqlite:////absolute/file.db, memory://{extra})",
        )
