"""Which implementations are held to which contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from aiotq.testing.contracts.broker_harness import MakeBroker
from aiotq.testing.contracts.harness import JumpingClock, KeptHarness

from ..servers import shared_rabbit
from ..store_servers import results_in_maria, results_in_postgres
from .harness import (
    AmqpTransportHarness,
    CommitHarness,
    DjangoKeptHarness,
    MemoryCommitHarness,
    MemoryKeptHarness,
    MemoryTransportHarness,
    PostgresCommitHarness,
    PostgresKeptHarness,
    PostgresTransportHarness,
    RawTransportHarness,
    RedisCommitHarness,
    RedisKeptHarness,
    RedisTransportHarness,
    SQLiteCommitHarness,
    SQLiteKeptHarness,
    SQLiteTransportHarness,
    SqlKeptHarness,
    SqsTransportHarness,
    TransportHarness,
    memcached_stores,
    plain_stores,
)

pytest.register_assert_rewrite(
    "tests.contract.ledger_contract",
    "tests.contract.join_contract",
    "tests.contract.permit_contract",
    "tests.contract.schedule_contract",
    "tests.contract.bus_contract",
    "tests.contract.commit_contract",
)


def _memory_transport(directory: Path) -> TransportHarness:
    return MemoryTransportHarness(directory, JumpingClock())


def _memory_kept(_: Path) -> KeptHarness:
    return MemoryKeptHarness(JumpingClock())


def _redis_kept(_: Path, kind: str) -> KeptHarness:
    return RedisKeptHarness(kind)


def _postgres_kept(_: Path) -> KeptHarness:
    return PostgresKeptHarness()


def _plain(_: Path) -> KeptHarness:
    return plain_stores()


def _django(_: Path) -> KeptHarness:
    return DjangoKeptHarness()


def _memcached(_: Path) -> KeptHarness:
    return memcached_stores()


def _sql_sqlite(directory: Path) -> KeptHarness:
    return SqlKeptHarness(f"db+sqlite:///{directory}/results.db")


def _sql_postgres(_: Path) -> KeptHarness:
    return SqlKeptHarness(results_in_postgres())


def _sql_maria(_: Path) -> KeptHarness:
    return SqlKeptHarness(results_in_maria())


def _memory_with_plain(directory: Path) -> CommitHarness:
    clock = JumpingClock()
    return CommitHarness(MemoryTransportHarness(directory, clock), plain_stores(clock))


def _memory_with_memory(directory: Path) -> CommitHarness:
    clock = JumpingClock()
    return CommitHarness(MemoryTransportHarness(directory, clock), MemoryKeptHarness(clock))


def _memory_with_sqlite(directory: Path) -> CommitHarness:
    return CommitHarness(MemoryTransportHarness(directory), SQLiteKeptHarness(directory))


def _sqlite_with_memory(directory: Path) -> CommitHarness:
    return CommitHarness(SQLiteTransportHarness(directory), MemoryKeptHarness())


def _rabbitmq(directory: Path) -> AmqpTransportHarness:
    broker = AmqpTransportHarness(directory, "classic")
    broker.lets_go = True
    broker.lease = 0.5  # what is parked for so long climbs down the ladder first
    return broker


def _rabbitmq_with_redis(directory: Path) -> CommitHarness:
    return CommitHarness(_rabbitmq(directory), RedisKeptHarness())


def _redis_with_sqlite(directory: Path) -> CommitHarness:
    return CommitHarness(RedisTransportHarness(directory), SQLiteKeptHarness(directory))


def _memory_with_redis(directory: Path) -> CommitHarness:
    return CommitHarness(MemoryTransportHarness(directory), RedisKeptHarness())


def _memory_with_postgres(directory: Path) -> CommitHarness:
    return CommitHarness(MemoryTransportHarness(directory), PostgresKeptHarness())


#: Kinds of Redis: the contracts hold on each. What Sentinel leads to is a Redis like the other; there the laws hold.
REDIS: Final = ("redis", "redis-cluster")
RAW_TRANSPORTS: dict[str, Callable[[Path], RawTransportHarness]] = {
    "sqlite": SQLiteTransportHarness,
    **{kind: partial(RedisTransportHarness, kind=kind) for kind in REDIS},
    "postgres": PostgresTransportHarness,
    "rabbitmq-quorum": AmqpTransportHarness,
    "rabbitmq-ordinary": partial(AmqpTransportHarness, is_ordinary=True),
    "sqs": SqsTransportHarness,
}
TRANSPORTS: dict[str, Callable[[Path], TransportHarness]] = {"memory": _memory_transport, **RAW_TRANSPORTS}
#: For laws that need a fresh broker for every example: where RabbitMQ has classic queues, it takes less long. What is
#: found through Sentinel and Cluster is a Redis like the other, and finding it takes longest.
FRESH: dict[str, MakeBroker] = {
    **{name: MakeBroker(make) for name, make in TRANSPORTS.items() if name in {"memory", "sqlite", "redis"}},
    "postgres": MakeBroker(PostgresTransportHarness, examples=8),
    **{
        kind: MakeBroker(partial(RedisTransportHarness, kind=kind), examples=5)
        for kind in ("redis-sentinel", "redis-cluster")
    },
    "rabbitmq-classic": MakeBroker(partial(AmqpTransportHarness, kind="classic"), examples=8),
    "sqs": MakeBroker(SqsTransportHarness, examples=3),
}
#: Brokers that know leases, and each message by its id.
FENCING: Final = tuple(name for name in TRANSPORTS if not name.startswith(("rabbitmq", "sqs")))
LEDGERS: dict[str, Callable[[Path], KeptHarness]] = {
    "memory": _memory_kept,
    "sqlite": SQLiteKeptHarness,
    **{kind: partial(_redis_kept, kind=kind) for kind in REDIS},
    "postgres": _postgres_kept,
}
#: Stores of records; what is no more than that is pushed for, and nobody is told of what another process asked for.
RECORDS: dict[str, Callable[[Path], KeptHarness]] = {
    **LEDGERS,
    "plain": _plain,
    "django": _django,
    "memcached": _memcached,
    "sql-sqlite": _sql_sqlite,
    "sql-postgres": _sql_postgres,
    "sql-mariadb": _sql_maria,
}
ORDERED: dict[str, Callable[[Path], CommitHarness]] = {
    "ordered-memory-memory": _memory_with_memory,
    "ordered-memory-plain": _memory_with_plain,
    "ordered-memory-sqlite": _memory_with_sqlite,
    "ordered-sqlite-memory": _sqlite_with_memory,
    "ordered-redis-sqlite": _redis_with_sqlite,
    "ordered-memory-redis": _memory_with_redis,
    "ordered-rabbitmq-redis": _rabbitmq_with_redis,
    "ordered-memory-postgres": _memory_with_postgres,
}
COMMITS: dict[str, Callable[[Path], CommitHarness]] = {
    "memory": MemoryCommitHarness,
    "sqlite": SQLiteCommitHarness,
    **{kind: partial(RedisCommitHarness, kind=kind) for kind in REDIS},
    "postgres": PostgresCommitHarness,
    **ORDERED,
}


@pytest.fixture(params=TRANSPORTS)
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TransportHarness]:
    async with TRANSPORTS[request.param](tmp_path) as harness:
        yield harness


@pytest.fixture(params=RAW_TRANSPORTS)
async def raw_broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RawTransportHarness]:
    async with RAW_TRANSPORTS[request.param](tmp_path) as harness:
        yield harness


@pytest.fixture(params=FRESH)
def make_broker(request: pytest.FixtureRequest) -> MakeBroker:
    """For laws that need a fresh broker for every example."""
    if request.param.startswith("rabbitmq"):
        shared_rabbit()  # not inside an example, which it would make slow
    return FRESH[request.param]


@pytest.fixture(params=LEDGERS)
async def results(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KeptHarness]:
    async with LEDGERS[request.param](tmp_path) as harness:
        yield harness


@pytest.fixture(params=COMMITS)
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[CommitHarness]:
    async with COMMITS[request.param](tmp_path) as harness:
        yield harness


@pytest.fixture(params=ORDERED)
async def ordered_pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[CommitHarness]:
    async with ORDERED[request.param](tmp_path) as harness:
        yield harness
