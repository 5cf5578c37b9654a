"""Where the processes of a chaos test keep messages and results: how to look at all of it at one moment."""

from __future__ import annotations

import abc
import asyncio
import itertools
import os
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, Self, TypeVar

import pytest

from aiotq.backends.amqp.address import parse as parse_amqp
from aiotq.backends.amqp.broker import AmqpBroker
from aiotq.backends.amqp.connection import AmqpClient
from aiotq.backends.amqp.messages import Outgoing
from aiotq.backends.postgres.address import parse as parse_postgres
from aiotq.backends.sqlite.schema import DELAYED
from aiotq.backends.sqs.address import parse as parse_sqs
from aiotq.backends.sqs.broker import SqsBroker
from aiotq.backends.sqs.connection import SqsClient
from aiotq.states import READY_STATES
from aiotq.wire.message import Envelope, Message, pack

from ..servers import PostgresServer, RabbitServer, RedisServer, shared_postgres, shared_rabbit
from ..sqs_server import SqsServer
from .redis_look import LOOK, Look, id_of, state_of

T = TypeVar("T")

#: Seconds until a backend that does not answer fails the test.
_TIMEOUT: Final = 45.0


@dataclass(frozen=True)
class Standing:
    """What stands in a backend at one moment: `waiting` are the ids of messages, `ended` and `dead` also say how."""

    waiting: Collection[str]
    held: Collection[str]
    ended: Mapping[str, str]
    dead: Mapping[str, str]
    deaths: Mapping[str, int] = field(default_factory=dict[str, int])  #: of those that wait


class Backend(Protocol):
    """A broker with its results store; a context manager."""

    @property
    def url(self) -> str: ...

    @property
    def result_backend(self) -> str | None:
        """The results store, if it is somewhere else."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def standing(self) -> Standing:
        """Return what stands there at one moment."""
        ...

    def check(self) -> None:
        """Assert that what is there is whole."""
        ...

    def is_writable(self) -> bool:
        """Whether nobody keeps all others from writing."""
        ...

    def last_words(self, pid: int) -> AbstractContextManager[None]:
        """On leaving, all that process `pid` said before it was killed inside is done."""
        ...

    def leases_end_in(self) -> float:
        """Return the seconds until the last lease ends, negative if it has; 0 when nothing is held."""
        ...

    def count(self, queue: str) -> int:
        """Return how many messages are in `queue`, those that are held included."""
        ...

    def open_joins(self) -> int:
        """Return how many joins wait for an arrival."""
        ...

    def dead_letters(self) -> Sequence[tuple[str, str]]:
        """Return reason and detail of each dead letter."""
        ...

    def add_suspect(self, message: Message, deaths: int, charges: int) -> None:
        """Add a message whose holders are said to have died."""
        ...


class SQLiteFile:
    """One SQLite file."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "queue.db"
        self.url = f"sqlite:///{self.file}"
        self.result_backend = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the file itself."""
        with closing(sqlite3.connect(self.file, timeout=_TIMEOUT)) as connection:
            return connection.execute(sql, values).fetchall()

    def insert(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows to the table of messages, as anybody might who can write to the file."""
        with closing(sqlite3.connect(self.file, timeout=_TIMEOUT)) as connection, connection:
            for row in rows:
                names, marks = ", ".join(row), ", ".join("?" * len(row))
                connection.execute(f"INSERT INTO messages ({names}) VALUES ({marks})", list(row.values()))

    def standing(self) -> Standing:
        with closing(sqlite3.connect(self.file, timeout=_TIMEOUT, isolation_level=None)) as connection:
            connection.execute("BEGIN")  # one snapshot for all that follows
            messages = connection.execute("SELECT id, holder > ?, deaths FROM messages", (DELAYED,)).fetchall()
            results = connection.execute("SELECT id, state FROM results").fetchall()
            dead = connection.execute("SELECT id, reason FROM dead").fetchall()
        return Standing(
            frozenset(task_id for task_id, *_ in messages),
            frozenset(task_id for task_id, is_held, _ in messages if is_held),
            {task_id: state for task_id, state in results if state in READY_STATES},
            dict(dead),
            {task_id: deaths for task_id, _, deaths in messages if deaths},
        )

    def check(self) -> None:
        assert self.query("PRAGMA integrity_check") == [("ok",)]

    def is_writable(self) -> bool:
        with closing(sqlite3.connect(self.file, timeout=0.2, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            connection.execute("ROLLBACK")
            return True

    def last_words(self, pid: int) -> AbstractContextManager[None]:
        return nullcontext()

    def leases_end_in(self) -> float:
        ((until,),) = self.query("SELECT max(until) FROM holders")
        return 0.0 if until is None else until - time.monotonic()

    def count(self, queue: str) -> int:
        ((count,),) = self.query("SELECT count(*) FROM messages WHERE queue = ?", queue)
        return int(count)

    def open_joins(self) -> int:
        ((count,),) = self.query("SELECT count(*) FROM joins WHERE NOT is_over")
        return int(count)

    def dead_letters(self) -> Sequence[tuple[str, str]]:
        return [(reason, detail) for reason, detail in self.query("SELECT reason, detail FROM dead")]

    def add_suspect(self, message: Message, deaths: int, charges: int) -> None:
        row = {"queue": "default", "id": message.id, "data": pack(message), "is_suspect": 1}
        self.insert([{**row, "deaths": deaths, "charges": charges}])


class Redis:
    """One Redis server of our own, which writes everything to its disk before it answers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "redis"
        self.directory.mkdir()
        self.server = RedisServer({"appendonly": "yes", "appendfsync": "always"}, directory=self.directory)
        self.url = self.server.url
        self.result_backend = None
        self.base = "{aiotq}"

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.server.__exit__(*exc_info)

    def ask(self, *command: object) -> Any:
        """Ask the server itself."""
        with self.server.client() as client:
            return client.execute_command(*command)

    def look(self) -> Look:
        return Look(self.ask("EVAL", LOOK, 1, self.base))

    def standing(self) -> Standing:
        look = self.look()
        malformed = (f"malformed {entry.decode()}" for (_, entry), key in look.entries.items() if key is None)
        waiting = {id_of(key) for key in look.keys if key is not None}
        return Standing(
            frozenset(waiting | set(malformed)),
            frozenset(id_of(look.entries.get(held) or f"gone {held[1].decode()}") for held in look.held),
            {task_id: state_of(head) for task_id, head in look.results.items() if head[:1] == b"1"},
            {id_of(key): reason.decode() for key, reason, _ in look.dead},
            {id_of(key): count for key, count in look.deaths.items() if id_of(key) in waiting},
        )

    def check(self) -> None:
        """Each message is known once, where it is; nothing that is over is remembered for ever."""
        look = self.look()
        keys = [key for key in look.keys if key is not None]
        assert sorted(keys) == sorted(look.known), "messages, and what is known of them, differ"
        assert set(look.held) <= set(look.entries), "what is held is gone"
        assert set(look.deaths) <= look.known, "deaths of what is over are remembered"
        assert {name for name in look.lasting if not name.startswith("q:")} <= {"ids", "queues"}

    def is_writable(self) -> bool:
        return True

    @contextmanager
    def last_words(self, pid: int) -> Iterator[None]:
        os.kill(pid, signal.SIGSTOP)  # it opens no other connection
        ports = _ports_of(pid, self.server.port)
        yield
        _until(lambda: not ports & self._clients(), "the server noticed the death")

    def _clients(self) -> set[int]:
        """The ports of those who are connected to the server."""
        with self.server.client() as client:
            return {int(each["addr"].rpartition(":")[2]) for each in client.client_list()}

    def leases_end_in(self) -> float:
        leases = (int(name.rpartition(b"/")[2]) - idle for name, idle in self.look().held.values())
        return max(leases, default=0) / 1000

    def count(self, queue: str) -> int:
        return sum(self.ask("XLEN", f"{self.base}:q:{queue}:{level}") for level in (*range(10), "a", "s"))

    def open_joins(self) -> int:
        return int(self.look().open_joins)

    def dead_letters(self) -> Sequence[tuple[str, str]]:
        return [(reason.decode(), detail.decode()) for _, reason, detail in self.look().dead]

    def add(self, level: str, fields: Mapping[Any, Any]) -> bytes:
        """Add an entry to a stream, as anybody might who can write to the server; return its number."""
        self.ask("SADD", f"{self.base}:queues", "default")
        entry = self.ask("XADD", f"{self.base}:q:default:{level}", "*", *itertools.chain.from_iterable(fields.items()))
        assert isinstance(entry, bytes)
        return entry

    def add_suspect(self, message: Message, deaths: int, charges: int) -> None:
        self.ask("HSET", f"{self.base}:deaths:{message.id}", "deaths", deaths, "charges", charges)
        self.ask("EXPIRE", f"{self.base}:deaths:{message.id}", 3600)
        entry = self.add("s", {"m": pack(message), "k": message.id, "p": 4, "n": 0, "t": round(time.time() * 1000)})
        self.ask("HSET", f"{self.base}:ids", message.id, b"s %b default" % entry)


def _until(fact: Callable[[], bool], message: str) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while not fact():
        assert time.monotonic() < deadline, f"waited for: {message}"
        time.sleep(0.001)


def _ports_of(pid: int, server: int) -> set[int]:
    """The local ports of the TCP connections of a process to that port of a server. Source: proc(5), /proc/net/tcp.

    Its connections to other servers may have the same local ports as those of the living to this one.
    """
    inodes: set[str] = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:  # closed since it was listed
            continue
        if target.startswith("socket:["):
            inodes.add(target[len("socket:[") : -1])
    rows = (line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:])
    return {_port(row[1]) for row in rows if row[9] in inodes and _port(row[2]) == server}


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


class Postgres:
    """A schema in the test process's PostgreSQL."""

    def __init__(self, directory: Path) -> None:
        self.server = self.its_server()
        self.result_backend = None

    def its_server(self) -> PostgresServer:
        return shared_postgres()

    def __enter__(self) -> Self:
        self.url = self.server.schema()
        self.address = parse_postgres(self.url)
        return self

    def __exit__(self, *exc_info: object) -> None:
        # A process that was killed may be served to its end still; the next test has these tables.
        self.server.ask("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'aiotq'")

    def query(self, sql: str, *values: object) -> list[Any]:
        """Ask about our tables; none are there before the first process has made them."""
        if not self.server.ask("select to_regclass(%s) is not null", self.address.named("aiotq.fleet"))[0][0]:
            return []
        return self.server.ask(self.address.named(sql), *values)

    def standing(self) -> Standing:
        rows = self.query(
            "select 'message', key, case when holder is null then '' else 'held' end, deaths from aiotq.message"
            " union all select 'result', id, state, 0 from aiotq.result where is_ready"
            " union all select 'dead', coalesce(id, 'malformed'), reason, 0 from aiotq.letter"
        )
        messages = [(id_of_key(key), is_held, deaths) for what, key, is_held, deaths in rows if what == "message"]
        return Standing(
            frozenset(task_id for task_id, *_ in messages),
            frozenset(task_id for task_id, is_held, _ in messages if is_held),
            {task_id: state for what, task_id, state, _ in rows if what == "result"},
            {task_id: reason for what, task_id, reason, _ in rows if what == "dead"},
            {task_id: deaths for task_id, _, deaths in messages if deaths},
        )

    def check(self) -> None:
        """What is held stands in a read of its holder's, and what a read has left over is held."""
        held = self.query("select holder, lease, count(*) from aiotq.message where holder is not null group by 1, 2")
        assert sorted(held) == sorted(self.query("select holder, lease, left_over from aiotq.reading"))
        lost = "select holder from aiotq.reading except select id from aiotq.holder"
        assert self.query(lost) == [], "what nobody holds could never be given back"

    def is_writable(self) -> bool:
        return True

    @contextmanager
    def last_words(self, pid: int) -> Iterator[None]:
        os.kill(pid, signal.SIGSTOP)  # it opens no other connection
        ports = _ports_of(pid, self.server.port)
        yield
        _until(lambda: not ports & self._clients(), "the server noticed the death")

    def _clients(self) -> set[int]:
        """The ports of those who are connected to the server."""
        return {port for (port,) in self.server.ask("select client_port from pg_stat_activity where client_port > 0")}

    def leases_end_in(self) -> float:
        held = "select max(until) from aiotq.holder where id in (select holder from aiotq.reading)"
        return max((until - time.time() for (until,) in self.query(held) if until is not None), default=0.0)

    def count(self, queue: str) -> int:
        return sum(count for (count,) in self.query("select count(*) from aiotq.message where queue = %s", queue))

    def open_joins(self) -> int:
        return sum(count for (count,) in self.query("select count(*) from aiotq.joins where not is_over"))

    def dead_letters(self) -> Sequence[tuple[str, str]]:
        return [(reason, detail) for reason, detail in self.query("select reason, detail from aiotq.letter")]

    def insert(self, key: str, body: bytes, *, rank: int = 6, deaths: int = 0, charges: int = 0) -> None:
        """Add a row to the table of messages, as anybody might who can write to the database."""
        self.query(
            "insert into aiotq.message (queue, rank, key, body, priority, since, deaths, charges)"
            " values ('default', %s, %s, %s, 4, extract(epoch from now()), %s, %s)",
            *(rank, key, body, deaths, charges),
        )

    def add_suspect(self, message: Message, deaths: int, charges: int) -> None:
        self.insert(f"{message.id} {message.attempt}", pack(message), rank=-1, deaths=deaths, charges=charges)


def id_of_key(key: str) -> str:
    """Return the id in the key of a row."""
    return key.rpartition(" ")[0]


class OwnPostgres(Postgres):
    """One that a test may kill: it writes everything to its disk before it answers."""

    def its_server(self) -> PostgresServer:
        return PostgresServer({"fsync": "on", "full_page_writes": "on"})

    def __enter__(self) -> Self:
        self.server.__enter__()
        return super().__enter__()

    def __exit__(self, *exc_info: object) -> None:
        self.server.__exit__(*exc_info)


class Beside(abc.ABC):
    """A Redis with the claims and results of a broker that keeps neither: `standing` knows nothing of messages."""

    def __init__(self, directory: Path) -> None:
        self.store = Redis(directory)
        self.result_backend = self.store.url

    def __exit__(self, *exc_info: object) -> None:
        self.store.__exit__(*exc_info)

    def standing(self) -> Standing:
        nothing = frozenset[str]()
        deaths = {task_id: claim[b"died"].count(b"\n") for task_id, claim in self._claims() if claim.get(b"died")}
        return Standing(nothing, nothing, self.store.standing().ended, {}, deaths)

    def _claims(self) -> Iterator[tuple[str, Mapping[bytes, bytes]]]:
        """The claims of what is not done, by the ids of tasks."""
        prefix = f"{self.store.base}:claim:"
        with self.store.server.client() as client:
            for key in client.scan_iter(f"{prefix}*"):
                claim = client.hgetall(key)
                if b"done" not in claim:
                    yield id_of(key.decode().removeprefix(prefix)), claim

    def check(self) -> None:
        assert {name for name in self.store.look().lasting if not name.startswith("q:")} <= {"ids", "queues"}

    def is_writable(self) -> bool:
        return True

    def last_words(self, pid: int) -> AbstractContextManager[None]:
        return self.store.last_words(pid)

    def leases_end_in(self) -> float:
        ends = (float(claim[b"ends"]) for _, claim in self._claims() if claim.get(b"holder"))
        return max((end / 1000 - time.time() for end in ends), default=0.0)

    def open_joins(self) -> int:
        return self.store.open_joins()

    @abc.abstractmethod
    def add(self, *messages: Message) -> None:
        """Send messages, as another program might."""

    def add_suspect(self, message: Message, deaths: int, charges: int) -> None:
        key = f"{self.store.base}:claim:{message.id}"
        died = "".join(f"holder {number}\n" for number in range(deaths))  # the charges are those beyond the second
        self.store.ask("HSET", key, "holder", "", "ends", 0, "died", died)
        self.store.ask("EXPIRE", key, 3600)
        self.add(message)


class RabbitMQ(Beside):
    """A virtual host of the test process's RabbitMQ.

    Messages there can't be looked at without taking them away from workers: `left` counts them.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.server = self.its_server()

    def its_server(self) -> RabbitServer:
        return shared_rabbit()

    def __enter__(self) -> Self:
        self.store.__enter__()
        virtual_host = self.server.vhost()
        self.vhost = virtual_host.rpartition("/")[2]
        self.url = f"{virtual_host}?heartbeat=3"  # a process that stands still is given up after two
        return self

    def left(self) -> Mapping[str, int]:
        """How many messages are in each queue that has some, ready or held, delayed or dead."""
        return {name: count for name, count in self.server.messages(self.vhost).items() if count}

    def count(self, queue: str) -> int:
        return sum(count for name, count in self.left().items() if name.partition(":")[0] == queue)

    def dead_letters(self) -> Sequence[tuple[str, str]]:
        return [(letter.reason, letter.detail) for letter in _aside(AmqpBroker.dead_letters, self.url)]

    def add(self, *messages: Message) -> None:
        _aside(partial(AmqpBroker.send, batch=[Envelope(each, "default") for each in messages]), self.url)

    def add_raw(self, *bodies: bytes) -> None:
        """Publish what may be no messages."""

        async def publish(transport: AmqpBroker) -> None:
            await transport.declare(["default"])
            await transport.publish([Outgoing("default", 0, {"delivery_mode": 2}, body) for body in bodies])

        _aside(publish, self.url)


class OwnRabbitMQ(RabbitMQ):
    """One that a test may kill. It is impatient with who holds a message for longer than `CONSUMER_TIMEOUT`.

    What a kill left unconfirmed between two queues is handed on again after seconds, not three minutes.
    """

    CONSUMER_TIMEOUT: Final = 3.0

    def its_server(self) -> RabbitServer:
        timeout = round(self.CONSUMER_TIMEOUT * 1000)
        return RabbitServer(
            rabbit={
                "consumer_timeout": timeout,
                "channel_tick_interval": 200,
                "dead_letter_worker_publisher_confirm_timeout": 3_000,
            }
        )

    def __enter__(self) -> Self:
        self.server.__enter__()
        return super().__enter__()

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        self.server.__exit__(*exc_info)


class Sqs(Beside):
    """Queues of their own in an SQS that a test may kill, with all that is in it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.server = SqsServer()

    def __enter__(self) -> Self:
        self.store.__enter__()
        self.server.__enter__()
        self.url = self.server.url()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.server.__exit__()
        super().__exit__(*exc_info)

    def count(self, queue: str) -> int:
        (stats,) = self._told(partial(SqsBroker.stats, queues=[queue]))
        return stats.ready + stats.leased + stats.delayed

    def dead_letters(self) -> Sequence[tuple[str, str]]:
        return [(letter.reason, letter.detail) for letter in self._told(SqsBroker.dead_letters)]

    def add(self, *messages: Message) -> None:
        self._told(partial(SqsBroker.send, batch=[Envelope(each, "default") for each in messages]))

    def _told(self, act: Callable[[SqsBroker], Awaitable[T]]) -> T:
        async def done() -> T:
            async with SqsClient(parse_sqs(self.url)) as client:
                return await act(SqsBroker(client, names=["default"]))

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: asyncio.run(done())).result(_TIMEOUT)


def _aside(act: Callable[[AmqpBroker], Awaitable[T]], url: str) -> T:
    """Have `act` done to a transport at `url`, on a loop in a thread of its own: the caller may be on one."""

    async def done() -> T:
        async with AmqpClient(parse_amqp(url), "chaos") as client, AmqpBroker(client) as transport:
            return await act(transport)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(done())).result(_TIMEOUT)


BACKENDS: Final[Mapping[str, Callable[[Path], Backend]]] = {
    "sqlite": SQLiteFile,
    "redis": Redis,
    "postgres": Postgres,
    "own-postgres": OwnPostgres,
    "rabbitmq": RabbitMQ,
    "own-rabbitmq": OwnRabbitMQ,
    "sqs": Sqs,
}
#: Where tests run that say nothing else: these can be looked at as a whole.
USUAL: Final = ("sqlite", "redis", "postgres")
#: For tests that look into one backend, or do to it what can be done to no other.
ON_SQLITE: Final = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
ON_REDIS: Final = pytest.mark.parametrize("backend", ["redis"], indirect=True)
ON_POSTGRES: Final = pytest.mark.parametrize("backend", ["postgres"], indirect=True)
ON_OWN_POSTGRES: Final = pytest.mark.parametrize("backend", ["own-postgres"], indirect=True)
ON_RABBITMQ: Final = pytest.mark.parametrize("backend", ["rabbitmq"], indirect=True)
ON_OWN_RABBITMQ: Final = pytest.mark.parametrize("backend", ["own-rabbitmq"], indirect=True)
ON_SQS: Final = pytest.mark.parametrize("backend", ["sqs"], indirect=True)
#: For promises that RabbitMQ keeps in another way, told by tasks and results alone.
ALSO_ON_RABBITMQ: Final = pytest.mark.parametrize("backend", [*USUAL, "rabbitmq"], indirect=True)
