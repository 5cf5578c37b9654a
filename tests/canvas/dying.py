"""A worker reduced to the way of a delivery, which dies at an await that is chosen: nothing of it goes on then."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, cast

from aiotq import AioTQ
from aiotq.backends.memory.broker import MemoryBroker
from aiotq.backends.memory.commit import MemoryCommitter
from aiotq.backends.memory.ledger import MemoryLedger
from aiotq.calling.connection import Connection
from aiotq.commit import Committer
from aiotq.commit.ordered import OrderedCommitter
from aiotq.core.inside import core_of
from aiotq.results import Ledger, RecordStore
from aiotq.transport import Broker
from aiotq.worker.execution import Execution
from aiotq.worker.observers import Observer, Observers
from aiotq.worker.run import Run, Slots

from .tasks import Story

T = TypeVar("T")

LEASE: Final = 10.0
#: Deliveries that are read, run and committed together.
AT_ONCE: Final = 3


class Life:
    """Counts the awaits at which a worker could be found dead; at its `last` it dies."""

    def __init__(self, last: int | None = None) -> None:
        self._last = last
        self.awaits = 0
        self.died = asyncio.Event()

    async def goes_on(self) -> None:
        self.awaits += 1
        if self.awaits == self._last:
            self.died.set()
        if self.died.is_set():
            await asyncio.get_running_loop().create_future()  # for ever

    def watched(self, call: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        async def watched(*args: Any, **kwargs: Any) -> T:
            await self.goes_on()
            answer = await call(*args, **kwargs)
            await self.goes_on()
            return answer

        return watched


class Watched:
    """Something whose coroutines in `names` are awaits at which a worker may die."""

    records: Any

    def __init__(self, life: Life, it: Any, *names: str) -> None:
        self._it = it
        self._watched = {name: life.watched(getattr(it, name)) for name in names}

    def __getattr__(self, name: str) -> Any:
        return self._watched.get(name) or getattr(self._it, name)


class Mortal:
    """A worker of `app` that receives, runs and commits, one batch after the other, until there is nothing to do."""

    def __init__(self, app: AioTQ, connection: Connection, name: str, story: Story, life: Life) -> None:
        self._life = life
        self._story = story
        self._connection = connection
        self._consumer = connection.broker.consumer(name, ["default"], lease=LEASE)
        self._name = name
        self._committer = self._made_committer(app)
        core = cast(Any, Watched(life, core_of(app), "joined"))
        self._execution = Execution(
            core,
            worker=name,
            pool=cast(Any, "no process tasks here"),
            observers=Observers(Observer(), Observer()),
            acknowledge=cast(Any, None),
        )
        self._coordinator = core_of(app).coordinator(name, has_joins=True)
        #: What it has called since its last commit.
        self.uncommitted: Counter[tuple[str, str]] = Counter()

    def _made_committer(self, app: AioTQ) -> Any:
        transport, ledger = self._connection.broker, self._connection.ledger
        committer: Committer = self._connection.committer(cast(Any, None), self._name, LEASE)
        if isinstance(committer, MemoryCommitter):
            assert isinstance(transport, MemoryBroker)
            assert isinstance(ledger, MemoryLedger)
            return Watched(self._life, committer, "commit", "admit")
        broker = cast(Broker, Watched(self._life, transport, "send", "settle"))
        records = cast(RecordStore, Watched(self._life, self._connection.records, "put"))
        watched = Watched(self._life, ledger, "claim", "close", "open_joins", "revoked")
        watched.records = records
        return OrderedCommitter(broker, cast(Ledger, watched), records, self._name, LEASE, clock=core_of(app).clock)

    async def work(self) -> None:
        """Do all there is to do now; what comes of a batch is committed before the next is read."""
        consumer = await self._consumer.__aenter__()  # never left: who dies does not say so
        slots = Slots(AT_ONCE)
        while True:
            await self._life.goes_on()
            read = await consumer.receive(AT_ONCE, suspect=True, wait=0)
            if not read:
                return
            before = Counter(self._story.calls)
            finishes: list[Any] = []
            for delivery in (await self._committer.admit(read)).run:
                run = Run(delivery, "loop", slots, lambda _: None)
                await self._life.goes_on()
                outcome = await self._execution.run(run)
                self.uncommitted = self._story.calls - before
                finishes.append(self._coordinator.follow(cast(Any, outcome)))
                run.end()
            await self._committer.commit(finishes)
            self.uncommitted = Counter()
