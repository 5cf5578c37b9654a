"""Servers: the memory backend's own tables behind a network, as brokers and stores of several kinds have them."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import AsyncGenerator, Callable, Collection, Hashable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiotq.backends.base import Backend, BackendContext
from aiotq.backends.memory.broker import MemoryBroker, MemoryConsumer
from aiotq.backends.memory.bus import MemoryBus, MemoryHub
from aiotq.backends.memory.commit import MemoryCommitter
from aiotq.backends.memory.ledger import MemoryLedger
from aiotq.backends.memory.queues import Holder, MemoryQueues
from aiotq.backends.memory.records import MemoryRecords
from aiotq.backends.memory.state import MemoryState
from aiotq.backends.numbered import NumberedWrites
from aiotq.commit import Committer, Finish
from aiotq.commit.committer import COMMITTED, LEASE_LOST, Committed, LostLease
from aiotq.exceptions import ConnectionLost, Refused
from aiotq.results.ledger import Claim, Closing, JoinChanges
from aiotq.results.ledger_table import LedgerTable, Write
from aiotq.results.records import Record
from aiotq.transport.broker import FAIR, Consumer, Delivery, HandBack, QueueOrder, Settlement
from aiotq.wire.message import Envelope

from .history import POISON, History, Key
from .network import Network, at_once
from .world import Process, World, process_here

_URLS: Final = {
    "one": ("sim-one://", None, None),
    "two": ("sim-broker://", "sim-store://", None),
    "plain": ("sim-plain://", "sim-store://", None),
    "three": ("sim-plain://", "sim-records://", "sim-store://"),
}
_POISON: Final = POISON.encode()


class ServerClock:
    """The time of servers, which never jumps."""

    def __init__(self, world: World) -> None:
        self._world = world

    def time(self) -> float:
        return self._world.now + 1_700_000_000.0

    def monotonic(self) -> float:
        return self._world.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Servers:
    """What the servers of one world keep."""

    def __init__(self, kind: str, world: World, network: Network, history: History) -> None:
        self.kind, self.world, self.network, self.history = kind, world, network, history
        clock = ServerClock(world)
        self.fences = kind in {"one", "two"}
        self.hub = LossyHub(world, network)
        self.queues = FencingQueues(clock, history) if self.fences else PlainQueues(clock=clock)
        self.store = _state(clock, self.hub, history)
        self.records = _state(clock, self.hub, history) if kind == "three" else self.store
        self._lines: dict[str, tuple[int, Sequence[int] | None]] = {}
        history.holds = self.holds

    @property
    def settings(self) -> dict[str, Any]:
        broker, results, ledger = _URLS[self.kind]
        return {"broker_url": broker, "result_backend": results, "ledger": ledger}

    def holds(self, process: Process, key: Key) -> bool:
        """Whether `process` has, at this moment, the right to run the message `key`."""
        if self.kind == "one":
            return any(
                entry.message.key == key
                and entry.ends > self.world.now
                and entry.holder is not None
                and entry.holder.name.partition("#")[0] == process.name
                for entry in self.queues._held.values()
            )
        claim = self.store.ledger._claims.get(key)
        if claim is None or claim.state.following is not None:
            return False
        return claim.state.holder.partition("#")[0] == process.name and claim.state.ends > self.store.clock.time()

    def numbered(self, line: str, number: int, do: Callable[[], Sequence[int]]) -> Sequence[int]:
        """Carry out a numbered write, unless its number is used up."""
        if number <= self._lines.get(line, (0, None))[0]:
            raise ConnectionLost("too late: nobody hears this")
        answers = do()
        self._lines[line] = (number, answers)
        return answers

    def settle_line(self, line: str, number: int) -> Sequence[int] | None:
        """Return the answers of a numbered write if it was done; else it never will be."""
        last, answers = self._lines.get(line, (0, None))
        if last >= number:
            return answers if last == number else None
        self._lines[line] = (number, None)
        return None

    def left(self) -> list[str]:
        """Return what the broker still holds."""
        return [
            f"{each.name}: {each.ready} ready, {each.leased} leased, {each.delayed} delayed"
            for each in self.queues.stats(None)
            if each.ready or each.leased or each.delayed
        ]


def _state(clock: ServerClock, hub: MemoryHub, history: History) -> MemoryState:
    state = MemoryState(clock=clock)
    state.hub = hub
    state.ledger = WatchedTable(clock, state._expiring, history)
    return state


class WatchedTable(LedgerTable):
    """A ledger that tells the history what it decides."""

    def __init__(self, clock: ServerClock, expiring: Any, history: History) -> None:
        super().__init__(clock, expiring)
        self._history = history

    def write_joins(self, joining: JoinChanges, record: Record | None) -> tuple[Envelope, ...]:
        following = super().write_joins(joining, record)
        if following:
            self._history.end_join([each.message.key for each in following])
        return following

    def _claim(self, key: Key, holder: str, lease: float, deadly: int | None, dead: Collection[str]) -> Claim:
        before = self._claims.get(key)
        if before is not None and before.state.following is None and before.state.ends <= self.clock.time():
            self._history.lapsed[key] = self._history.world.now
        return super()._claim(key, holder, lease, deadly, dead)

    def close(self, closing: Closing, holder: str, write: Write) -> tuple[Envelope, ...] | None:
        claim = self._claims.get(closing.key)
        had_lease = claim is not None and claim.state.holder == holder
        was_done = claim is not None and claim.state.following is not None
        following = super().close(closing, holder, write)
        if following is not None and not was_done and closing.is_done and not closing.key[0].startswith("instead:"):
            self._history.settle(closing.key, holder.partition("#")[0], had_lease=had_lease)
        return following


class LossyHub(MemoryHub):
    """Pushes that come late, in any order, or not at all."""

    def __init__(self, world: World, network: Network) -> None:
        super().__init__()
        self._world, self._network = world, network

    def tell(self, address: str, topic: str, payload: object, size: int = 0) -> None:
        if not self._network.loses_push():
            self._world.after(self._world.random.random() * 0.01, lambda: MemoryHub.tell(self, address, topic, payload))

    def tell_all(self, topic: str, payload: object, size: int = 0) -> None:
        for address in list(self._listeners):
            self.tell(address, topic, payload)


class _Forgetful(dict[Any, Any]):
    """Of a broker that does not know messages by their ids."""

    def __contains__(self, key: object) -> bool:
        return False

    def __delitem__(self, key: object) -> None:
        self.pop(key, None)


class FencingQueues(MemoryQueues):
    """A broker with leases, which tells the history whose have ended."""

    def __init__(self, clock: ServerClock, history: History) -> None:
        super().__init__(clock=clock)
        self._history = history

    def reclaim(self, dead: Collection[str] = ()) -> int:
        now = self.clock.monotonic()
        for entry in self._held.values():
            if entry.ends <= now:
                self._history.lapsed[entry.message.key] = now
        return super().reclaim(dead)


class PlainQueues(MemoryQueues):
    """A broker as RabbitMQ is one."""

    def __init__(self, *, clock: ServerClock) -> None:
        super().__init__(clock=clock)
        self._known = _Forgetful()


def _networked(peer: str, *names: str, blocking: Collection[str] = ()) -> Callable[[type[Any]], type[Any]]:
    """Have the methods `names` of a class be carried out at `peer`."""

    def changed(kind: type[Any]) -> type[Any]:
        for name in (*names, *blocking):
            setattr(kind, name, _asking(peer, name, getattr(kind, name), is_blocking=name in blocking))
        return kind

    return changed


def _asking(peer: str, name: str, method: Callable[..., Any], *, is_blocking: bool) -> Callable[..., Any]:
    if is_blocking:

        @functools.wraps(method)
        def ask_in_thread(self: Any, *args: Any, **kwargs: Any) -> Any:
            return self.servers.network.ask_in_thread(peer, name, lambda: method(self, *args, **kwargs))

        return ask_in_thread

    @functools.wraps(method)
    async def ask(self: Any, *args: Any, **kwargs: Any) -> Any:
        def act() -> Any:
            _check_poison(args)
            return at_once(method(self, *args, **kwargs))

        return await self.servers.network.ask(peer, name, act)

    return ask


def _check_poison(args: Sequence[Any]) -> None:
    for batch in args:
        for each in batch if isinstance(batch, (list, tuple)) else ():
            record = each.record if isinstance(each, (Finish, Closing)) else each
            if isinstance(record, Record) and _POISON in record.body:
                raise Refused("the store never takes this")
            envelopes = each.envelopes if isinstance(each, (Finish, Closing)) else (each,)
            if any(isinstance(one, Envelope) and _is_poisoned(one) for one in envelopes):
                raise Refused("the server never takes this")


def _is_poisoned(envelope: Envelope) -> bool:
    """Whether a message is refused: what a poisoned call sends after its first run, and never the call."""
    return _POISON in envelope.message.body and envelope.message.attempt > 0


class SimConsumer(MemoryConsumer):
    """A consumer of a broker that fences. A read whose reply is lost holds its messages until the next."""

    def __init__(self, servers: Servers, name: str, queues: Sequence[str], lease: float, order: QueueOrder) -> None:
        super().__init__(servers.queues, name, queues, lease, order)
        self.servers = servers
        self._unheard: list[Delivery] = []

    async def receive(self, limit: int, *, suspect: bool, wait: float) -> Sequence[Delivery]:
        network = self.servers.network
        await network.ask("broker", "read", self._give_back)
        taken = await super().receive(limit, suspect=suspect, wait=wait)
        if not taken:
            return taken
        self._unheard += taken
        try:
            await network.ask("broker", f"reads {[each.message.key for each in taken]}", lambda: None)
        except ConnectionLost:
            raise
        except BaseException:  # cancelled: the contract wants them back at once
            self._give_back()
            raise
        self._unheard.clear()
        return taken

    def _give_back(self) -> None:
        for delivery in self._unheard:
            self._broker.settle(delivery, HandBack())
        self._unheard.clear()

    def renew(self, held: Collection[Delivery]) -> Collection[Delivery]:
        renew = super().renew
        return self.servers.network.ask_in_thread("broker", f"renew {len(held)}", lambda: renew(held))

    async def reclaim(self, dead: Collection[str] = ()) -> int:
        reclaim = super().reclaim
        return await self.servers.network.ask("broker", "reclaim", lambda: at_once(reclaim(dead)))


class PlainConsumer(MemoryConsumer):
    """A consumer of a broker that gives back what it delivered when a connection ends, and has no leases."""

    def __init__(self, servers: Servers, name: str, queues: Sequence[str], lease: float, order: QueueOrder) -> None:
        super().__init__(servers.queues, name, queues, math.inf, order)
        self.servers = servers
        self._name, self._lease = name, lease
        process = process_here()
        servers.network.on_cut.setdefault(process, []).append(self._cut)
        process.on_death.append(lambda: servers.world.after(0.2, self._cut))

    def _cut(self) -> None:
        holder, self._holder = self._holder, Holder(self._name, math.inf)
        self._broker.leave(holder)

    def renew(self, held: Collection[Delivery]) -> Collection[Delivery]:
        """Nothing is lost with a connection; what the worker forgot is handed back."""
        now, leases = self.servers.world.now, {delivery.lease for delivery in held}
        for lease, entry in list(self._broker._held.items()):
            if entry.holder is self._holder and lease in leases:
                entry.ends = now
            elif entry.holder is self._holder and entry.ends == math.inf:
                entry.ends = now  # it may have been read a moment ago
            elif entry.holder is self._holder and now - entry.ends > self._lease:
                self.servers.world.note(f"forgotten: {entry.message.key}")
                del self._broker._held[lease]
                entry.holder = None
                self._broker._give_back(entry)
        return ()

    async def reclaim(self, dead: Collection[str] = ()) -> int:
        return 0


@_networked("broker", "settle", "make_due_now")
class SimBroker(MemoryBroker):
    """A broker that fences, and knows messages by their ids."""

    def __init__(self, servers: Servers) -> None:
        super().__init__(servers.queues)
        self.servers = servers

        async def settle(line: str, number: int, _: Sequence[Envelope]) -> Sequence[int] | None:
            return await servers.network.ask("broker", "send?", lambda: servers.settle_line(line, number))

        self._line: NumberedWrites[Envelope] = NumberedWrites(settle, lambda envelope: envelope.message.key)

    async def send(self, batch: Sequence[Envelope]) -> None:
        await self._line.write(batch, self._send)

    async def _send(self, line: str, number: int, batch: Sequence[Envelope]) -> Sequence[int]:
        def add() -> Sequence[int]:
            _check_poison((list(batch),))
            self.queues.add(batch)
            return [1] * len(batch)

        keys = [each.message.key for each in batch]
        return await self.servers.network.ask(
            "broker", f"send {keys}", lambda: self.servers.numbered(line, number, add)
        )

    @asynccontextmanager
    async def consumer(
        self, name: str, queues: Sequence[str], *, lease: float, order: QueueOrder = FAIR
    ) -> AsyncGenerator[Consumer]:
        await self.servers.network.ask("broker", "consume", lambda: None)
        consumer = SimConsumer(self.servers, name, queues, lease, order)
        try:
            yield consumer
        finally:
            consumer.leave()


@_networked("broker", "settle")
class PlainBroker(MemoryBroker):
    """A broker that neither fences nor knows messages by their ids, and may deliver a message twice."""

    counts_deaths = False
    can_make_due_now = False

    def __init__(self, servers: Servers) -> None:
        super().__init__(servers.queues)
        self.servers = servers

    async def send(self, batch: Sequence[Envelope]) -> None:
        network = self.servers.network

        def add() -> None:
            _check_poison((list(batch),))
            self.queues.add(batch)
            if network.doubles():
                self.servers.world.after(0.5, lambda: self.queues.add(batch[:1]))

        await network.ask("broker", f"send {[each.message.key for each in batch]}", add)

    async def make_due_now(self, keys: Sequence[tuple[str, int]]) -> Sequence[bool]:
        return [False] * len(keys)

    @asynccontextmanager
    async def consumer(
        self, name: str, queues: Sequence[str], *, lease: float, order: QueueOrder = FAIR
    ) -> AsyncGenerator[Consumer]:
        await self.servers.network.ask("broker", "consume", lambda: None)
        consumer = PlainConsumer(self.servers, name, queues, lease, order)
        try:
            yield consumer
        finally:
            consumer.leave()


@_networked("store", "get", "put", "forget", "watch", "unwatch")
class SimRecords(MemoryRecords):
    """Records behind the network."""

    servers: Servers


@_networked(
    *("store", "claim", "_close", "forget", "_open_joins", "joined", "overdue", "book", "revoked"),
    *("acquire_permits", "hand_over_permits", "change_schedules", "schedules", "keys", "schedules_revision", "time"),
    *("end_presence", "paused_queues", "has_revocations"),
    blocking=("renew_claims", "renew_permits", "renew_presence"),
)
class SimLedger(MemoryLedger):
    """A ledger behind the network."""

    servers: Servers


class SimCommitter(MemoryCommitter):
    """The commit of a server that has all."""

    def __init__(self, servers: Servers, broker: SimBroker) -> None:
        super().__init__(broker, servers.store)
        self.servers = servers

        async def settle(line: str, number: int, _: Sequence[Finish]) -> Sequence[int] | None:
            return await servers.network.ask("broker", "commit?", lambda: servers.settle_line(line, number))

        self._line: NumberedWrites[Finish] = NumberedWrites(settle, id)

    async def _commit(self, group: Sequence[Finish]) -> Sequence[Committed | LostLease]:
        answers = await self._line.write(group, self._send)
        return [COMMITTED if each else LEASE_LOST for each in answers]

    async def _send(self, line: str, number: int, group: Sequence[Finish]) -> Sequence[int]:
        def do() -> Sequence[int]:
            _check_poison((list(group),))
            return [self._write_one(finish) for finish in group]

        keys = [each.delivery.message.key if each.delivery is not None else None for each in group]
        return await self.servers.network.ask(
            "broker", f"commit {keys}", lambda: self.servers.numbered(line, number, do)
        )

    def _write_one(self, finish: Finish) -> int:
        delivery, history = finish.delivery, self.servers.history
        entry = None if delivery is None else self._queues._held.get(delivery.lease)
        by = entry.holder.name.partition("#")[0] if entry is not None and entry.holder is not None else "nobody"
        is_written = self._write(finish) is COMMITTED
        if is_written and delivery is not None and not _comes_back(finish.settlement):
            history.settle(delivery.message.key, by, had_lease=entry is not None)
        return is_written


def _comes_back(settlement: Settlement) -> bool:
    return isinstance(settlement, HandBack)


class SimBackend(Backend):
    """What a process has of the servers; `servers` is set for each world."""

    servers: Servers

    def __init__(self, url: str, context: BackendContext) -> None:
        servers = self.servers
        self._is_one = url.startswith("sim-one")
        if not url.startswith("sim-plain") or servers.kind == "plain":
            self.bus = MemoryBus(servers.hub)
            self.bus._address = f"{process_here().name}-{url.partition(':')[0]}"
        if self._is_one or url.startswith("sim-broker"):
            self.broker = SimBroker(servers)
        elif url.startswith("sim-plain"):
            self.broker = PlainBroker(servers)
        if self._is_one or url.startswith(("sim-store", "sim-records")):
            bus = self.bus
            assert isinstance(bus, MemoryBus)
            state = servers.records if url.startswith("sim-records") else servers.store
            records = SimRecords(state, bus)
            records.servers = servers
            if not (servers.kind == "three" and url.startswith("sim-store")):
                self.records = records
            if not url.startswith("sim-records"):
                ledger = SimLedger(state, bus, records)
                ledger.servers = servers
                self.ledger = ledger

    @classmethod
    def key(cls, url: str) -> Hashable:
        return url

    def committer(self) -> Committer | None:
        broker = self.broker
        return SimCommitter(self.servers, broker) if self._is_one and isinstance(broker, SimBroker) else None


def unsettled(servers: Servers, ids: Iterable[str]) -> list[str]:
    """Return the calls among `ids` that have no outcome."""
    return [each for each in ids if (found := servers.records.get(each)) is None or not _is_over(found)]


def _is_over(record: Record) -> bool:
    return record.state in {"SUCCESS", "FAILURE", "REVOKED", "REJECTED", "IGNORED"}
