"""What the contract suites ask of an implementation, beyond what `aiotq.testing.contracts` has for record stores.

To hold a new broker to the contracts, add a harness here and its name in `conftest.py`; the tests stay as
they are. A harness is entered once a test. Everything connected through it is left, newest first, when the
test ends.
"""

from __future__ import annotations

import abc
import asyncio
import os
import socket
import sqlite3
import time
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import aio_pika
from aio_pika.abc import AbstractConnection

from aiotq.backends.amqp.address import parse as parse_amqp
from aiotq.backends.amqp.broker import DEAD_LETTER_RETENTION, AmqpBroker
from aiotq.backends.amqp.bus import EXCHANGE, AmqpBus
from aiotq.backends.amqp.connection import AmqpClient, KeptChannel
from aiotq.backends.amqp.consumer import AmqpConsumer
from aiotq.backends.amqp.frames import Post
from aiotq.backends.amqp.properties import pack_properties
from aiotq.backends.amqp.topology import Topology
from aiotq.backends.memcached.address import parse as parse_memcached
from aiotq.backends.memcached.connection import MemcachedClient
from aiotq.backends.memcached.records import MemcachedRecords
from aiotq.backends.memory.broker import MemoryBroker
from aiotq.backends.memory.bus import MemoryBus, MemoryHub
from aiotq.backends.memory.commit import MemoryCommitter
from aiotq.backends.memory.ledger import MemoryLedger
from aiotq.backends.memory.queues import MemoryQueues
from aiotq.backends.memory.state import MemoryState
from aiotq.backends.postgres.address import Address as PostgresAddress
from aiotq.backends.postgres.address import parse as parse_postgres
from aiotq.backends.postgres.broker import PostgresBroker
from aiotq.backends.postgres.commit import PostgresCommitter
from aiotq.backends.postgres.connection import PostgresClient
from aiotq.backends.postgres.ledger import PostgresLedger
from aiotq.backends.postgres.records import PostgresRecords
from aiotq.backends.redis.address import Address, parse
from aiotq.backends.redis.broker import RedisBroker
from aiotq.backends.redis.commit import RedisCommitter
from aiotq.backends.redis.connection import RedisClient
from aiotq.backends.redis.ledger import RedisLedger
from aiotq.backends.redis.records import RedisRecords
from aiotq.backends.sql.address import parse as parse_sql
from aiotq.backends.sql.connection import SqlClient
from aiotq.backends.sql.records import SqlRecords
from aiotq.backends.sql.tables import RESULTS as SQL_RESULTS
from aiotq.backends.sqlite.broker import SQLiteBroker
from aiotq.backends.sqlite.commit import SQLiteCommitter
from aiotq.backends.sqlite.connection import Database
from aiotq.backends.sqlite.ledger import SQLiteLedger
from aiotq.backends.sqlite.records import SQLiteRecords
from aiotq.backends.sqs.address import parse as parse_sqs
from aiotq.backends.sqs.broker import SqsBroker
from aiotq.backends.sqs.connection import SqsClient
from aiotq.commit import Committer
from aiotq.commit.ordered import OrderedCommitter
from aiotq.control.bus import Bus
from aiotq.core.clock import SYSTEM_CLOCK, Clock
from aiotq.exceptions import ConnectionLost
from aiotq.results import Ledger, Record, RecordStore
from aiotq.states import READY_STATES
from aiotq.testing.contracts import harness as library
from aiotq.testing.contracts.broker_harness import (
    BrokerHarness,
    RawBrokerHarness,
)
from aiotq.testing.contracts.harness import PATIENCE, JumpingClock, Kept, KeptHarness, Pushes, StoreHarness, in_memory
from aiotq.transport import FAIR, Broker, Consumer, Delivery, QueueOrder

from .. import django_here
from ..servers import Server, shared, shared_postgres, shared_rabbit
from ..sqs_server import shared_sqs
from ..store_servers import shared_memcached
from ..waiting import wait_until

T = TypeVar("T")


class Harness(library.Harness):
    """One with a directory of its own."""

    #: Seconds. Where a broker keeps real time this is what a test waits for a death to be noticed.
    lease = 0.4

    def __init__(self, directory: Path, clock: JumpingClock | None = None) -> None:
        super().__init__(clock)
        self.directory = directory


class TransportHarness(Harness, BrokerHarness):
    """One fresh broker, with a directory of its own."""


class RawTransportHarness(TransportHarness, RawBrokerHarness):
    """A broker that keeps bytes, in which junk can stand."""


class BusHarness(Harness, abc.ABC):
    """One fresh place of processes that tell each other things."""

    #: Whether a hearer that does not read is known to its sender, who counts what it missed; else the hearer counts.
    sender_counts = False

    @abc.abstractmethod
    def connected(self) -> AbstractAsyncContextManager[Bus]:
        """Enter a bus of its own, as another process would have."""

    async def connect(self) -> Bus:
        """Return a bus that is heard as long as the test."""
        return await self.stack.enter_async_context(self.connected())

    @abc.abstractmethod
    async def left_behind(self) -> Collection[str]:
        """Return what there is of buses: keys, files, queues, listeners."""

    async def cut(self, bus: Bus) -> bool:
        """Cut the connection of `bus`, which is made anew; return False where there is none."""
        return False

    async def send_raw(self, bus: Bus, data: bytes) -> bool:
        """Send bytes to `bus` as a stranger would; return False where nobody can."""
        return False


class CommitHarness(Harness):
    """A fresh broker and a fresh store. The commit is `ordered` unless `make_committer` is overridden."""

    is_ordered = True

    def __init__(self, broker: TransportHarness, results: KeptHarness) -> None:
        super().__init__(broker.directory, broker.clock)
        self.broker = broker
        self.results = results

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self.stack.enter_async_context(self.results)
        await self.stack.enter_async_context(self.broker)
        return self

    async def connect(self) -> tuple[Broker, Kept]:
        """Return what one process has; a pair that shares a connection overrides this."""
        transport = await self.broker.connect()
        kept, _ = await self.results.connect()
        return transport, kept

    def make_committer(self, transport: Broker, kept: Kept, holder: str) -> Committer:
        clock = self.clock or SYSTEM_CLOCK
        return OrderedCommitter(transport, kept.ledger, kept.records, holder, self.broker.lease, clock=clock)

    async def worker(self, name: str = "worker", *queues: str, wrap: Wrap | None = None) -> Worker:
        """Return a worker's rooms, never left while the test runs: not using it any more is dying."""
        transport, kept = await self.connect()
        consumer = await self.broker.consumer(transport, name, *queues)
        seen_transport, seen_kept = wrap(transport, kept) if wrap is not None else (transport, kept)
        committer = self.make_committer(seen_transport, seen_kept, name)
        committer.consumer = consumer
        return Worker(transport, kept, Pushes(kept), consumer, committer, self.broker)


#: Puts something between the committer and what it writes to.
Wrap = Callable[[Broker, Kept], tuple[Broker, Kept]]


@dataclass
class Worker:
    """What one worker process has."""

    transport: Broker
    kept: Kept
    pushes: Pushes
    consumer: Consumer
    committer: Committer
    broker: TransportHarness

    @property
    def records(self) -> RecordStore:
        return self.kept.records

    @property
    def ledger(self) -> Ledger:
        return self.kept.ledger

    async def admitted(self, limit: int = 10, *, suspect: bool = True, wait: float = 0.0) -> list[Delivery]:
        """Receive and admit; what is returned may run."""
        received = await self.consumer.receive(limit, suspect=suspect, wait=wait)
        return list((await self.committer.admit(received)).run)


class MemoryTransportHarness(TransportHarness):
    def __init__(self, directory: Path, clock: JumpingClock | None = None) -> None:
        super().__init__(directory, clock)
        self._broker = MemoryQueues(clock=clock or SYSTEM_CLOCK)

    def connected(self) -> AbstractAsyncContextManager[Broker]:
        return MemoryBroker(self._broker)


class MemoryKeptHarness(KeptHarness):
    def __init__(self, clock: JumpingClock | None = None) -> None:
        super().__init__(clock)
        self.state = MemoryState(clock=clock or SYSTEM_CLOCK)

    def connected(self) -> AbstractAsyncContextManager[Kept]:
        return in_memory(self.state)


class PlainRecords(RecordStore):
    """A store that is no more than it must be."""

    def __init__(self, kept: dict[str, Record], clock: Clock) -> None:
        super().__init__()
        self._kept = kept
        self._clock = clock

    async def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        found = [self._kept.get(each) for each in ids]
        return [each if each is not None and each.expires > self._clock.time() else None for each in found]

    async def put(self, records: Sequence[Record]) -> None:
        for record in records:
            (before,) = await self.get([record.id])
            if before is None or before.state not in READY_STATES:
                self._kept[record.id] = record

    async def forget(self, ids: Sequence[str]) -> None:
        for each in ids:
            self._kept.pop(each, None)


def plain_stores(clock: JumpingClock | None = None) -> StoreHarness:
    """Return a harness of stores that are no more than they must be."""
    kept: dict[str, Record] = {}
    return StoreHarness(lambda its_clock: PlainRecords(kept, its_clock), clock=clock)


class DjangoKeptHarness(StoreHarness):
    """Records in the database of a Django project, in a thread of theirs."""

    def __init__(self) -> None:
        super().__init__(self._records)

    @staticmethod
    def _records(clock: Clock) -> RecordStore:
        from aiotq.contrib.django.records import DjangoRecords  # noqa: PLC0415  # needs a configured project

        return DjangoRecords(clock=clock)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(django_here.empty)
        return await super().__aenter__()


def memcached_stores() -> StoreHarness:
    """Return a harness of stores in the test process's memcached, apart from others by their prefix."""
    address = parse_memcached(f"{shared_memcached().url}?prefix={os.urandom(6).hex()}:")
    return StoreHarness(lambda clock: MemcachedRecords(MemcachedClient(address), clock=clock))


class SqlKeptHarness(StoreHarness):
    """Records in a database; what other tests left in it is deleted."""

    def __init__(self, url: str) -> None:
        super().__init__(lambda clock: SqlRecords(SqlClient(self._url), clock=clock))
        self._url = parse_sql(url)

    async def __aenter__(self) -> Self:
        async with SqlClient(self._url) as client, client.transaction() as connection:
            await connection.execute(SQL_RESULTS.delete())
        return await super().__aenter__()


class MemoryCommitHarness(CommitHarness):
    is_ordered = False

    def __init__(self, directory: Path) -> None:
        clock = JumpingClock()
        super().__init__(MemoryTransportHarness(directory, clock), MemoryKeptHarness(clock))

    def make_committer(self, transport: Broker, kept: Kept, holder: str) -> Committer:
        assert isinstance(transport, MemoryBroker)
        assert isinstance(kept.ledger, MemoryLedger)
        return MemoryCommitter(transport, kept.ledger.state)


@asynccontextmanager
async def woken_only(path: Path) -> AsyncGenerator[Database]:
    """Enter a database whose safety net is too slow for any test: what waits must be woken."""
    async with Database(path) as database:
        database.interval = 10 * PATIENCE
        yield database


class SQLiteTransportHarness(RawTransportHarness):
    @property
    def path(self) -> Path:
        return self.directory / "aiotq.db"

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Broker]:
        async with woken_only(self.path) as database, SQLiteBroker(database) as transport:
            yield transport

    async def insert_raw(self, queue: str, raw: bytes) -> None:
        with closing(sqlite3.connect(self.path, timeout=PATIENCE)) as connection, connection:
            connection.execute(
                "INSERT INTO messages (queue, id, data) VALUES (?, ?, ?)",
                (queue, f"junk-{time.time_ns()}", raw),
            )


class SQLiteKeptHarness(KeptHarness):
    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Kept]:
        async with woken_only(self.directory / "aiotq.db") as database, sqlite(database) as kept:
            yield kept


@asynccontextmanager
async def sqlite(database: Database) -> AsyncGenerator[Kept]:
    """Enter what one process has of a file."""
    records = SQLiteRecords(database)
    async with records, SQLiteLedger(database, records) as ledger:
        yield Kept(records, ledger, database.bus)


class SQLiteCommitHarness(CommitHarness):
    is_ordered = False

    def __init__(self, directory: Path) -> None:
        super().__init__(SQLiteTransportHarness(directory), SQLiteKeptHarness(directory))

    async def connect(self) -> tuple[Broker, Kept]:
        database = await self.stack.enter_async_context(woken_only(self.directory / "aiotq.db"))
        transport = await self.stack.enter_async_context(SQLiteBroker(database))
        return transport, await self.stack.enter_async_context(sqlite(database))

    def make_committer(self, transport: Broker, kept: Kept, holder: str) -> Committer:
        assert isinstance(transport, SQLiteBroker)
        assert isinstance(kept.ledger, SQLiteLedger)
        return SQLiteCommitter(transport, kept.ledger)


def fresh_address(server: Server) -> Address:
    """Return an address at which nothing is kept yet."""
    url = server.url
    return parse(f"{url}{'&' if '?' in url else '?'}prefix=test-{os.urandom(6).hex()}")


class RedisTransportHarness(RawTransportHarness):
    """On the test process's server of a `kind`, apart from others by its prefix."""

    def __init__(self, directory: Path, kind: str = "redis") -> None:
        super().__init__(directory)
        self.server = shared(kind)
        self.address = fresh_address(self.server)

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Broker]:
        async with RedisClient(self.address) as client, RedisBroker(client) as transport:
            yield transport

    async def consumer(
        self, transport: Broker, name: str = "worker", *queues: str, order: QueueOrder = FAIR
    ) -> Consumer:
        consumer = await super().consumer(transport, name, *queues, order=order)
        if self.address.kind != "single":  # the first heartbeat finds the server, which takes a part of a lease
            await asyncio.to_thread(consumer.renew, [])
        return consumer

    async def insert_raw(self, queue: str, raw: bytes) -> None:
        with self.server.client() as client:
            client.xadd(f"{self.address.base}:q:{queue}:4", {"m": raw})


class AmqpTransportHarness(RawTransportHarness):
    """On the test process's RabbitMQ, in a virtual host of its own, with queues of a `kind`.

    `is_ordinary`: over connections of aio-pika's that have no tap.
    """

    is_fencing = False
    hands_back_later = True  # a quorum queue does, under load

    def __init__(self, directory: Path, kind: str = "quorum", *, is_ordinary: bool = False) -> None:
        super().__init__(directory)
        self.kind = kind
        self.is_ordinary = is_ordinary
        self.url = shared_rabbit().vhost()
        self.mortals: list[Mortal] = []
        #: Whether consumers let go at once of what they did not read, as they do after a moment.
        self.lets_go = False
        self._has_ladder = False
        self._made = 0

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[AmqpBroker]:
        async with AmqpClient(parse_amqp(self.url), "test", self.ordinary if self.is_ordinary else None) as client:
            if self.lets_go and not self._has_ladder:  # what is parked for a lease should not take longer to get there
                self._has_ladder = True
                await Topology(client, self.kind, DEAD_LETTER_RETENTION).ladder([round(self.lease * 1000)])
            yield AmqpBroker(client, kind=self.kind, names=("q", "other"))

    async def ordinary(self) -> AbstractConnection:
        self._made += 1
        return await aio_pika.connect(self.url, client_properties={"connection_name": self.last_made})

    @property
    def last_made(self) -> str:
        """The name of the ordinary connection that was made last."""
        return f"ordinary-{self._made}."

    async def consumer(
        self, transport: Broker, name: str = "worker", *queues: str, order: QueueOrder = FAIR
    ) -> Consumer:
        consumer = await super().consumer(transport, f"{name}-{len(self.mortals)}.", *queues, order=order)
        assert isinstance(consumer, AmqpConsumer)
        mortal = Mortal(self, consumer, self.last_made if self.is_ordinary else consumer.client.title)
        self.mortals.append(mortal)
        return mortal

    async def standing(self, transport: Broker) -> dict[str, int]:
        """Ask the server: what a consumer has before it is read is held by nobody, and ready to no one else."""
        for mortal in self.mortals:
            await mortal.synchronized()
        counts = shared_rabbit().messages(self.url.rpartition("/")[2])
        dead = counts.pop("aiotq.dead", 0)
        delayed = sum(count for name, count in counts.items() if name.startswith("aiotq.delay."))
        leased = sum(mortal.holds for mortal in self.mortals)
        return {"ready": sum(counts.values()) - delayed - leased, "leased": leased, "delayed": delayed, "dead": dead}

    def connections(self) -> str:
        """The server's connections, as Erlang shows what they say of themselves."""
        said = "rabbit_networking:connection_info_all([client_properties])"
        return shared_rabbit().eval(f'lists:flatten(io_lib:format("~p", [{said}]))')

    async def insert_raw(self, queue: str, raw: bytes) -> None:
        async with AmqpClient(parse_amqp(self.url), "junk") as client:
            channel = await KeptChannel(client, confirms=True).channel()
            await channel.publish([Post("", queue, pack_properties(message_id="1"), raw)])


class Mortal(Consumer):
    """A consumer that dies as its process would, its connection cut, when it was not used for a lease."""

    def __init__(self, broker: AmqpTransportHarness, consumer: AmqpConsumer, connection: str) -> None:
        self._broker = broker
        self._connection = connection  #: its name
        self._consumer = consumer
        self._used_at = time.monotonic()

    async def receive(self, limit: int, *, suspect: bool, wait: float) -> Sequence[Delivery]:
        received = await self._consumer.receive(limit, suspect=suspect, wait=wait)
        if self._broker.lets_go:
            await self._consumer.pause()
            await self.synchronized()
        self._used_at = time.monotonic()
        return received

    def renew(self, held: Collection[Delivery]) -> Collection[Delivery]:
        self._used_at = time.monotonic()
        return self._consumer.renew(held)

    async def read_from(self, queues: Sequence[str]) -> None:
        await self._consumer.read_from(queues)

    async def reclaim(self, dead: Collection[str] = ()) -> int:
        found = 0
        for mortal in self._broker.mortals:
            if time.monotonic() - mortal._used_at >= self._broker.lease:
                found += await mortal.die()
        return found

    @property
    def holds(self) -> int:
        """How many messages are held."""
        return sum(held.channel.is_open and not held.parked for held in self._consumer.held.values())

    async def synchronized(self) -> None:
        """Return when the queue has seen all that was settled."""
        channel = self._consumer.channel
        if channel is not None and channel.is_open:
            with suppress(ConnectionLost):
                await channel.count("q")

    async def die(self) -> int:
        """Cut the connection; return how many messages were held, which somebody else gets now."""
        found = self.holds
        if found:
            name = self._connection
            await wait_until(lambda: name in self._broker.connections(), "the server knows the connection")
            self._consumer.client.abort("its process was killed")
            await wait_until(lambda: name not in self._broker.connections(), "the server sees that it is gone")
        return found


class SqsTransportHarness(RawTransportHarness):
    """On the test process's SQS, with queues of its own, four for each name."""

    is_fencing = False
    has_classes = True
    #: Seconds that a message is held before it comes again, where consumers die when a test says so.
    HELD_FOR = 30.0

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.url = shared_sqs().url("priorities=true")
        self.brokers: list[SqsBroker] = []

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[SqsBroker]:
        async with SqsClient(parse_sqs(self.url)) as client:
            self.brokers.append(SqsBroker(client, names=("q", "other")))
            yield self.brokers[-1]

    async def consumer(
        self, transport: Broker, name: str = "worker", *queues: str, order: QueueOrder = FAIR
    ) -> Consumer:
        return await self.stack.enter_async_context(
            transport.consumer(name, queues or ("q",), lease=self.HELD_FOR, order=order)
        )

    async def reclaimed(self, consumer: Consumer, count: int) -> None:
        """End the visibility of all that is held, as nobody would have renewed it."""
        held = [(broker, entry) for broker in self.brokers for entry in broker.held.values() if entry.until > 0]
        assert len(held) == count
        for broker, entry in held:
            entry.until = 0.0
            assert not await broker.letting.go([], [(entry, 0)])

    async def insert_raw(self, queue: str, raw: bytes) -> None:
        async with SqsClient(parse_sqs(self.url)) as client:
            url = await client.url_of(parse_sqs(self.url).prefix + queue)
            text = '{"base64": true}\n' + b64encode(raw).decode()
            assert not await client.send(url, [{"MessageBody": text}])


class RedisKeptHarness(KeptHarness):
    def __init__(self, kind: str = "redis") -> None:
        super().__init__()
        self.address = fresh_address(shared(kind))

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Kept]:
        async with RedisClient(self.address) as client, redis(client) as kept:
            yield kept


@asynccontextmanager
async def redis(client: RedisClient) -> AsyncGenerator[Kept]:
    """Enter what one process has of a Redis."""
    records = RedisRecords(client)
    async with records, RedisLedger(client, records) as ledger:
        yield Kept(records, ledger, client.bus)


class RedisCommitHarness(CommitHarness):
    is_ordered = False

    def __init__(self, directory: Path, kind: str = "redis") -> None:
        broker = RedisTransportHarness(directory, kind)
        super().__init__(broker, RedisKeptHarness(kind))
        self._address = broker.address

    async def connect(self) -> tuple[Broker, Kept]:
        stack = self.broker.stack  # beside the consumers, which are left before their connection
        client = await stack.enter_async_context(RedisClient(self._address))
        transport = await stack.enter_async_context(RedisBroker(client))
        return transport, await stack.enter_async_context(redis(client))

    def make_committer(self, transport: Broker, kept: Kept, holder: str) -> Committer:
        assert isinstance(transport, RedisBroker)
        assert isinstance(kept.ledger, RedisLedger)
        return RedisCommitter(transport, kept.ledger)


@asynccontextmanager
async def told_only(address: PostgresAddress) -> AsyncGenerator[PostgresClient]:
    """Enter a client whose safety net is too slow for any test: what waits must be told."""
    async with PostgresClient(address) as client:
        client.interval = 10 * PATIENCE
        yield client


class PostgresTransportHarness(RawTransportHarness):
    """On the test process's PostgreSQL, apart from others by its schema."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.server = shared_postgres()
        self.address = parse_postgres(self.server.schema())

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Broker]:
        async with told_only(self.address) as client, PostgresBroker(client) as transport:
            yield transport

    async def insert_raw(self, queue: str, raw: bytes) -> None:
        insert = "insert into aiotq.message (queue, rank, key, body, priority, since) values (%s, 6, %s, %s, 4, 0)"
        self.server.ask(self.address.named(insert), queue, f"junk-{time.time_ns()} 0", raw)


class PostgresKeptHarness(KeptHarness):
    def __init__(self) -> None:
        super().__init__()
        self.address = parse_postgres(shared_postgres().schema())

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Kept]:
        async with told_only(self.address) as client, postgres(client) as kept:
            yield kept


@asynccontextmanager
async def postgres(client: PostgresClient) -> AsyncGenerator[Kept]:
    """Enter what one process has of a PostgreSQL."""
    records = PostgresRecords(client)
    async with records, PostgresLedger(client, records) as ledger:
        yield Kept(records, ledger, client.bus)


class PostgresCommitHarness(CommitHarness):
    is_ordered = False

    def __init__(self, directory: Path) -> None:
        broker = PostgresTransportHarness(directory)
        super().__init__(broker, PostgresKeptHarness())
        self._address = broker.address

    async def connect(self) -> tuple[Broker, Kept]:
        stack = self.broker.stack  # beside the consumers, which are left before their connection
        client = await stack.enter_async_context(told_only(self._address))
        transport = await stack.enter_async_context(PostgresBroker(client))
        return transport, await stack.enter_async_context(postgres(client))

    def make_committer(self, transport: Broker, kept: Kept, holder: str) -> Committer:
        assert isinstance(transport, PostgresBroker)
        assert isinstance(kept.ledger, PostgresLedger)
        return PostgresCommitter(transport, kept.ledger)


class PostgresBusHarness(BusHarness):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._server = shared_postgres()
        self._name = f"test-{os.urandom(6).hex()}"
        self.address = parse_postgres(f"{self._server.schema()}&application_name={self._name}")
        self._clients: dict[str, PostgresClient] = {}

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Bus]:
        async with PostgresClient(self.address) as client:
            self._clients[client.bus.address] = client
            yield client.bus

    async def left_behind(self) -> Collection[str]:
        rows = self._server.ask("select pid from pg_stat_activity where application_name = %s", self._name)
        return [str(pid) for (pid,) in rows]

    async def cut(self, bus: Bus) -> bool:
        wire = self._clients[bus.address]._listener.wire
        assert wire is not None
        self._server.ask("select pg_terminate_backend(%s)", wire.info.backend_pid)
        return True

    async def send_raw(self, bus: Bus, data: bytes) -> bool:
        channel = self.address.channel(bus.address)
        text = f"stranger-{os.urandom(4).hex()}" if len(data) % 2 else f"..{b64encode(data).decode()}"
        self._server.ask("select pg_notify(%s, %s)", channel, text)
        return True


class MemoryBusHarness(BusHarness):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._hub = MemoryHub()

    def connected(self) -> AbstractAsyncContextManager[Bus]:
        return MemoryBus(self._hub)

    async def left_behind(self) -> Collection[str]:
        return ["listener"] * len(self._hub)


class SQLiteBusHarness(BusHarness):
    sender_counts = True

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Bus]:
        async with woken_only(self.directory / "aiotq.db") as database:
            self._sockets = await self._listeners(database)
            yield database.bus

    @staticmethod
    async def _listeners(database: Database) -> dict[str, str]:
        return dict(await database.read(lambda file: file.execute("SELECT address, path FROM listeners").fetchall()))

    async def left_behind(self) -> Collection[str]:
        async with Database(self.directory / "aiotq.db") as database:
            listeners = await self._listeners(database)
            listeners.pop(database.address)
        return [*listeners, *(path for path in self._sockets.values() if os.path.exists(path))]

    async def send_raw(self, bus: Bus, data: bytes) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(data, self._sockets[bus.address])
        return True


class RedisBusHarness(BusHarness):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._server = shared("redis")
        self.address = fresh_address(self._server)
        self._clients: dict[str, RedisClient] = {}

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Bus]:
        async with RedisClient(self.address) as client:
            self._clients[client.bus.address] = client
            yield client.bus

    async def left_behind(self) -> Collection[str]:
        with self._server.client() as client:
            return [*client.keys(f"{self.address.base}*"), *client.pubsub_channels(f"{self.address.base}*")]

    async def cut(self, bus: Bus) -> bool:
        pushes = self._clients[bus.address]._pushes.wire
        assert pushes is not None
        pushes.abort("cut by a test")
        return True

    async def send_raw(self, bus: Bus, data: bytes) -> bool:
        with self._server.client() as client:
            client.publish(f"{self.address.base}:to:{bus.address}", data)
        return True


class AmqpBusHarness(BusHarness):
    sender_counts = True

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._url = shared_rabbit().vhost()
        self._clients: dict[str, AmqpClient] = {}

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Bus]:
        async with AmqpClient(parse_amqp(self._url), "test") as client, AmqpBus(client) as bus:
            self._clients[bus.address] = client
            yield bus

    async def left_behind(self) -> Collection[str]:
        return list(shared_rabbit().queues(self._url.rsplit("/", 1)[1]))

    async def cut(self, bus: Bus) -> bool:
        self._clients[bus.address].abort("cut by a test")
        return True

    async def send_raw(self, bus: Bus, data: bytes) -> bool:
        async with AmqpClient(parse_amqp(self._url), "stranger") as client:
            channel = await KeptChannel(client, confirms=True).channel()
            await channel.publish([Post(EXCHANGE, bus.address, pack_properties(message_id="1"), data)])
        return True
