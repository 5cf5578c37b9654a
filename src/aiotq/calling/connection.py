"""An app's connection in one loop: broker, store, publisher and waiting, built from URLs and entered as one."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable, Collection, Hashable
from contextlib import AsyncExitStack
from typing import Any, Final

from ..backends.base import Backend, BackendContext, Memory, backend_class, mask_password
from ..commit import Committer
from ..core.aio import Service
from ..core.clock import Clock
from ..core.settings import Settings
from ..exceptions import InvalidSetting
from ..results.handle import Reader
from ..results.waiting import Waiting
from ..transport import Consumer
from ..wire.message import new_id
from .publisher import Publisher, persistence_of

logger = logging.getLogger("aiotq")

DISABLED: Final = "disabled://"
#: Results as messages through the broker, which must be one that can do that.
RPC: Final = "rpc://"
_WITH_RPC: Final = ("amqp://", "amqps://")
#: Seconds that leaving waits for messages under way, beyond their own deadlines.
_DRAIN_TIMEOUT: Final = 10.0


class Connection:
    """What one app has in one loop while it is connected."""

    def __init__(self, conf: Settings, clock: Clock, memory: Memory) -> None:
        self._clock = clock
        backend = conf.result_backend
        self.keeps_results = backend != DISABLED
        if backend == RPC and not conf.broker_url.startswith(_WITH_RPC):
            raise InvalidSetting("result_backend", RPC, "a store's URL: only an amqp:// broker carries results")
        # Without results the broker's own store still keeps revocations, joins and claims.
        backend_url = conf.broker_url if backend in {None, RPC, DISABLED} else str(backend)
        context = BackendContext(conf, clock, memory)
        broker_key, broker = _place("broker_url", conf.broker_url)
        backend_key, store = _place("result_backend", backend_url)
        self._broker_backend = broker(conf.broker_url, context)
        self._store_backend = self._broker_backend if backend_key == broker_key else store(backend_url, context)
        self.broker = self._broker_backend.broker
        self.store = self._store_backend.store
        self.publisher = Publisher(
            self.broker,
            timeout=conf.task_publish_timeout,
            max_pending=conf.task_publish_pending,
            persistence=persistence_of(conf.task_publish_retry, conf.task_publish_retry_policy),
            committer=self._committer(f"publisher-{new_id()}", conf.worker_lease),
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
        committer = self._committer(holder, lease)
        committer.consumer = consumer
        return committer

    def _committer(self, holder: str, lease: float) -> Committer:
        own = self._broker_backend.committer() if self._broker_backend is self._store_backend else None
        if own is not None:
            return own
        # Most apps have one place, and need not load this.
        ordered: Any = importlib.import_module("..commit.ordered", __package__)
        committer: Committer = ordered.OrderedCommitter(self.broker, self.store, holder, lease, clock=self._clock)
        return committer

    def _revoked(self, ids: Collection[str]) -> None:
        for listener in tuple(self.revocation_listeners):
            listener(ids)

    async def _main(self, ready: Callable[[None], None], stopping: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            for place in dict.fromkeys((self._broker_backend, self._store_backend)):
                await stack.enter_async_context(place)
            await stack.enter_async_context(self.broker)
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


def _place(setting: str, url: str) -> tuple[Hashable, type[Backend]]:
    """Return what names the place at `url`, and its class."""
    found = backend_class(url)
    if found is None:
        extra = ", disabled://" if setting == "result_backend" else ""
        raise InvalidSetting(
            setting,
            mask_password(url),
            "a URL of a kind there is (sqlite:///file.db, sqlite:////absolute/file.db, redis://host:6379/0, "
            f"amqp://host/vhost, and others in the documentation, memory://{extra})",
        )
    try:
        return found.key(url), found
    except ValueError as exc:
        raise InvalidSetting(setting, mask_password(url), f"a URL that can be used: {exc}") from exc
