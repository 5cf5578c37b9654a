"""An app's connection in one loop: broker, bus, records, ledger and what uses them, made from URLs, entered as one."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections.abc import Callable, Collection, Coroutine, Hashable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..backends.base import Backend, BackendContext, Memory, Statement, backend_class, mask_password
from ..commit import Committer, Finish
from ..control.bus import Bus
from ..core.aio import Service
from ..core.clock import Clock, SharedClock
from ..core.settings import Settings
from ..core.values import value
from ..exceptions import CallError, InvalidSetting, NotConnected, OperationalError
from ..results import NO_JOIN_CHANGES, Ledger, RecordStore
from ..results.reader import Reader
from ..results.waiting import Waiting
from ..transport import Broker, Consumer
from ..wire.message import new_id
from .given_ids import GivenIds
from .publisher import Publisher
from .retry_policy import persistence_of
from .unclaimed import why_unclaimed

if TYPE_CHECKING:
    from ..control.event_sender import EventSender

logger = logging.getLogger("aiotq")

DISABLED: Final = "disabled://"
#: Results as messages through the broker, which must be one that can do that.
RPC: Final = "rpc://"
_WITH_RPC: Final = ("amqp://", "amqps://")
#: Seconds that leaving waits for messages under way, beyond their own deadlines.
_DRAIN_TIMEOUT: Final = 10.0
#: Seconds between looks at the server's clock.
_CLOCKS_COMPARED: Final = 60.0


class Connection:
    """An app's broker, records, ledger and publisher in one loop, while it is connected."""

    def __init__(self, conf: Settings, clock: Clock, shared_clock: SharedClock, memory: Memory) -> None:
        self._clock = clock
        self._shared_clock = shared_clock
        backend = conf.result_backend
        self.keeps_results = backend != DISABLED
        if backend == RPC and not conf.broker_url.startswith(_WITH_RPC):
            raise InvalidSetting("result_backend", RPC, "a store's URL: only an amqp:// broker carries results")
        # Without results the broker's own ledger still keeps revocations, joins and claims.
        backend_url = conf.broker_url if backend in {None, RPC, DISABLED} else str(backend)
        context = BackendContext(conf, clock, memory)
        broker_key, broker = _backend("broker_url", conf.broker_url)
        results_key, results = _backend("result_backend", backend_url)
        self._broker_backend = broker(conf.broker_url, context)
        made: dict[Hashable, Backend] = {broker_key: self._broker_backend}
        self._results_backend = made.get(results_key) or results(backend_url, context)
        made[results_key] = self._results_backend
        self._ledger_backend: Backend | None = None
        if conf.ledger is not None:
            ledger_key, ledger = _backend("ledger", conf.ledger)
            made[ledger_key] = self._ledger_backend = made.get(ledger_key) or ledger(conf.ledger, context)
        self._backends = tuple(made.values())
        self._parts = parts_of(self._broker_backend, self._results_backend, conf, clock, ledger=self._ledger_backend)
        self.broker, self.records, self.ledger = self._parts.broker, self._parts.records, self._parts.ledger
        self.bus = self._parts.bus
        self.celery = self._broker_backend.celery
        self.publisher = Publisher(
            self.broker,
            timeout=conf.task_publish_timeout,
            max_pending=conf.task_publish_pending,
            persistence=persistence_of(conf.task_publish_retry, conf.task_publish_retry_policy),
            committer=self._committer(f"publisher-{new_id()}", conf.worker_lease),
        )
        self.given_ids = GivenIds(self.records)
        self.waiting = Waiting(self.records, partial(why_unclaimed, self.broker, even_if_some_run=False))
        self.events: EventSender | None = None  #: tells of what is sent through it; set before it is opened
        self.reader: Reader | None = None
        #: Called with the ids of tasks to be cancelled where they run.
        self.revocation_listeners: set[Callable[[Collection[str]], None]] = set()
        self.ledger.on_revoked = self._revoked
        self._group: asyncio.TaskGroup | None = None
        self._beside: list[asyncio.Task[None]] = []
        self._service: Service[None] = Service(self._main, "aiotq.connection")

    async def open(self) -> None:
        """Connect; on return everything works.

        Raises:
            OperationalError: broker or results backend can't be reached.
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

    @property
    def reply_to(self) -> str | None:
        """The address that the results of calls which are made through it are pushed to."""
        return self.records.address if self.keeps_results else None

    async def warnings(self) -> Sequence[str]:
        """Return what is wrong with the settings of the servers, each with what to do behind a semicolon.

        Raises:
            OperationalError: one does not say how they are.
        """
        return [each for backend in self._backends for each in await backend.warnings()]

    @property
    def _is_one(self) -> bool:
        """Whether messages, results and the ledger are in one place, which commits all in one step."""
        return len(self._backends) == 1

    @property
    def can_enlist(self) -> bool:
        """Whether transactions of users' can end tasks, and send workflows."""
        return self._broker_backend.has_statements and self._is_one

    async def statement(self, finish: Finish) -> Statement:
        """Return SQL that writes `finish` in a transaction of the user's.

        Raises:
            CallError: it can't be written so.
            OperationalError: the database can't be reached.
        """
        has_more = finish.record is not None or finish.further or finish.joining is not NO_JOIN_CHANGES
        if has_more and not self._is_one:
            raise CallError(
                "a transaction can't send a workflow, or end a task, while results are kept elsewhere than messages: "
                "leave result_backend and ledger away"
            )
        statement = await self._broker_backend.statement(finish)
        if statement is None:
            raise CallError(
                "a transaction can send calls only where messages are in the same database (broker_url "
                "postgresql://…): elsewhere send after the commit"
            )
        return statement

    def committer(self, consumer: Consumer, holder: str, lease: float) -> Committer:
        """Return what commits the finishes of deliveries from `consumer`: atomic if all is in one backend."""
        committer = self._committer(holder, lease)
        committer.consumer = consumer
        return committer

    def sender(self, holder: str, lease: float) -> Committer:
        """Return what commits finishes without deliveries: occurrences of periodic tasks."""
        return self._committer(holder, lease)

    def _committer(self, holder: str, lease: float) -> Committer:
        own = self._broker_backend.committer() if self._is_one else None
        if own is not None:
            return own
        from ..commit.ordered import OrderedCommitter  # noqa: PLC0415

        return OrderedCommitter(self.broker, self.ledger, self.records, holder, lease, clock=self._clock)

    def beside(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run `work` until it ends, or this is closed; what it raises is logged."""
        if self._group is None:
            work.close()
            raise NotConnected(f"{name}: the app is disconnected")
        task = self._group.create_task(_logged(work, name), name=name, context=contextvars.Context())
        self._beside = [*(each for each in self._beside if not each.done()), task]
        return task

    def _revoked(self, ids: Collection[str]) -> None:
        for listener in tuple(self.revocation_listeners):
            listener(ids)

    async def _main(self, ready: Callable[[None], None], stopping: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            for backend in self._backends:
                await stack.enter_async_context(backend)
            for part in self._parts.in_order():
                await stack.enter_async_context(part)
            await self._compare_clocks()
            async with asyncio.TaskGroup() as group:
                self._group = group
                comparing = group.create_task(self._keep_comparing_clocks(), name="aiotq.clocks")
                publishing = group.create_task(self.publisher.run(), name="aiotq.publisher")
                waiting = group.create_task(self.waiting.run(), name="aiotq.waiting")
                telling = group.create_task(self.events.run(), name="aiotq.events.sent") if self.events else None
                ready(None)
                await stopping.wait()
                try:
                    async with asyncio.timeout(_DRAIN_TIMEOUT):
                        await self.publisher.drained()
                except TimeoutError:
                    logger.warning("closing with unsent messages: their callers get an error")
                if self.events is not None:
                    await self.events.send_last()
                self._group = None
                for each in (publishing, waiting, comparing, telling, *self._beside):
                    if each is not None:
                        each.cancel()

    async def _keep_comparing_clocks(self) -> None:
        while True:
            await asyncio.sleep(_CLOCKS_COMPARED * random.uniform(0.9, 1.1))
            await self._compare_clocks()

    async def _compare_clocks(self) -> None:
        """Look by how much the clock of the server is off ours."""
        try:
            await self._shared_clock.compare(self.ledger.time)
        except OperationalError as exc:  # what was found before holds
            logger.debug("the server's clock can't be read: %s", exc)


async def _logged(work: Coroutine[Any, Any, None], name: str) -> None:
    """Do `work`; should it fail, what goes on beside it does not."""
    try:
        await work
    except Exception:
        logger.exception("%s failed", name)


@value
class Parts:
    """The parts of a backend that keep each contract for an app."""

    broker: Broker
    records: RecordStore
    ledger: Ledger
    bus: Bus
    further_buses: tuple[Bus, ...] = ()  #: on which records, or what the ledger tells, come

    def in_order(self) -> Iterator[AbstractAsyncContextManager[object]]:
        """Yield each part behind those that it needs."""
        yield self.broker
        yield self.bus
        yield from self.further_buses
        yield self.records
        yield self.ledger


def parts_of(
    broker_backend: Backend, results_backend: Backend, conf: Settings, clock: Clock, *, ledger: Backend | None = None
) -> Parts:
    """Return what keeps which contract, of the backends of messages, of results, and of the ledger if it has its own.

    What the backend of results can't keep, that of messages does: who has only records there shares the ledger and the
    bus of the broker. Results without a place of their own stand beside the ledger, if the broker keeps none. Where
    nobody has a ledger, or a bus, it is this process's own; without a bus that others hear,
    results are looked for again and again.

    Raises:
        InvalidSetting: a URL stands where its backend can't be used.
    """
    broker, records = broker_backend.broker, results_backend.records
    if records is None and results_backend is broker_backend and ledger is not None:
        records = ledger.records
    if broker is None:
        raise InvalidSetting(
            "broker_url", mask_password(conf.broker_url), "a broker's URL: this one keeps results only"
        )
    if records is None:
        backend = mask_password(conf.result_backend or conf.broker_url)
        raise InvalidSetting(
            "result_backend", backend, "the URL of something that keeps results: this is a broker only"
        )
    if ledger is not None and ledger.ledger is None:
        raise InvalidSetting(
            "ledger", mask_password(str(conf.ledger)), "the URL of something that decides for all workers: this can't"
        )
    others = (results_backend.bus, None if ledger is None else ledger.bus)
    shared = results_backend.bus or broker_backend.bus or others[1]
    bus = shared if shared is not None else _local_bus()
    kept = ledger.ledger if ledger is not None else results_backend.ledger or broker_backend.ledger
    if kept is None:
        from ..results.in_process import LocalLedger  # noqa: PLC0415

        kept = LocalLedger(bus, clock=clock)
    if not records.is_pushing:
        from ..results.pushed import PushedRecords  # noqa: PLC0415

        records = PushedRecords(records, bus, is_local=shared is None)
    further = tuple(each for each in dict.fromkeys(others) if each is not None and each is not bus)
    return Parts(broker, records, kept, bus, further)


def _local_bus() -> Bus:
    from ..backends.in_process import local_bus  # noqa: PLC0415

    return local_bus()


def _backend(setting: str, url: str) -> tuple[Hashable, type[Backend]]:
    """Return what names the backend at `url`, and its class."""
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
