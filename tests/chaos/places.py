"""Where the processes of a chaos test keep messages and results: how to look at all of it at one moment."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, Self

import msgpack
import pytest

from aiotq._sqlite import DELAYED
from aiotq.exceptions import MalformedMessage
from aiotq.message import Message, pack, unpack
from aiotq.states import READY_STATES

from ..servers import RedisServer

#: Seconds until a place that does not answer fails the test.
_TIMEOUT: Final = 45.0


@dataclass(frozen=True)
class Standing:
    """What stands in a place at one moment: `waiting` are the ids of messages, `ended` and `dead` also say how."""

    waiting: Collection[str]
    held: Collection[str]
    ended: Mapping[str, str]
    dead: Mapping[str, str]
    deaths: Mapping[str, int] = field(default_factory=dict[str, int])  #: of those that wait


class Place(Protocol):
    """A broker with its results store; a context manager."""

    @property
    def url(self) -> str: ...

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


#: What `{aiotq}` holds, in one step: messages {level, entry, m, k}, holdings {level, entry, consumer, idle ms}, packed
#: delayed messages, results {id, head}, dead letters {m, reason}, deaths {id, count}, known ids {id, where},
#: joins that are open, keys that never expire.
_LOOK: Final = """
local base = KEYS[1]
local LEVELS = {'s', 'a', 9, 8, 7, 6, 5, 4, 3, 2, 1, 0}
local messages, held, delayed, results, dead, deaths, joins, lasting = {}, {}, {}, {}, {}, {}, 0, {}
local function kind(key) return redis.call('TYPE', key).ok end
local function field(list, name)
    for i = 1, #list, 2 do
        if list[i] == name then return list[i + 1] end
    end
    return false
end
for _, queue in ipairs(redis.call('SMEMBERS', base .. ':queues')) do
    for _, level in ipairs(LEVELS) do
        local key = base .. ':q:' .. queue .. ':' .. level
        if kind(key) == 'stream' then
            for _, each in ipairs(redis.call('XRANGE', key, '-', '+')) do
                messages[#messages + 1] = {key, each[1], field(each[2], 'm'), field(each[2], 'k')}
            end
            local pending = redis.pcall('XPENDING', key, 'aiotq', '-', '+', 1000000)
            for _, each in ipairs(pending.err and {} or pending) do
                held[#held + 1] = {key, each[1], each[2], each[3]}
            end
        end
    end
    local key = base .. ':q:' .. queue .. ':delayed'
    if kind(key) == 'zset' then
        for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do delayed[#delayed + 1] = member end
    end
    for _, each in ipairs(redis.call('XRANGE', base .. ':q:' .. queue .. ':dead', '-', '+')) do
        dead[#dead + 1] = {each[1], field(each[2], 'm'), field(each[2], 'r'), field(each[2], 'd')}
    end
end
for _, key in ipairs(redis.call('KEYS', base .. ':*')) do
    local name = string.sub(key, #base + 2)
    local task_id = string.match(name, '^result:(.*)$')
    if task_id then
        results[#results + 1] = {task_id, string.match(redis.call('GET', key), '^[^\\n]*')}
    end
    task_id = string.match(name, '^deaths:(.*)$')
    if task_id then deaths[#deaths + 1] = {task_id, tonumber(redis.call('HGET', key, 'deaths')) or 0} end
    if string.match(name, '^join:') and kind(key) == 'hash' and redis.call('HGET', key, 'open') == '1' then
        joins = joins + 1
    end
    if redis.call('TTL', key) == -1 then lasting[#lasting + 1] = name end
end
return {messages, held, delayed, results, dead, deaths, redis.call('HGETALL', base .. ':ids'), joins, lasting}
"""


class _Look:
    """What a Redis held at one moment."""

    def __init__(self, found: Sequence[Any]) -> None:
        messages, holdings, delayed, results, dead, deaths, ids, self.open_joins, lasting = found
        self.held = {(key, entry): (consumer, idle) for key, entry, consumer, idle in holdings}
        self.entries = {(key, entry): _key_of(blob, key_field) for key, entry, blob, key_field in messages}
        self.delayed = [_key_of_delayed(member) for member in delayed]
        self.results = {task_id.decode(): head for task_id, head in results}
        self.dead = [(_key_of(blob, None) or entry.decode(), reason, detail) for entry, blob, reason, detail in dead]
        self.deaths = {task_id.decode(): count for task_id, count in deaths}
        self.known = {task_id.decode() for task_id in ids[::2]}
        self.lasting = {name.decode() for name in lasting}

    @property
    def keys(self) -> list[str | None]:
        return [*self.entries.values(), *self.delayed]


def _key_of_delayed(member: bytes) -> str | None:
    try:
        key, _, _, blob = msgpack.unpackb(member, raw=True)
        return _key_of(blob, key)
    except (ValueError, TypeError, AttributeError):
        return None


def _key_of(blob: bytes | None, key_field: bytes | None) -> str | None:
    """Return id and attempt as the scripts know a message by them; None if it can't be read."""
    if key_field:
        return key_field.decode("utf-8", "replace")
    try:
        message = unpack(blob or b"")
    except MalformedMessage:
        return None
    return f"{message.id}\t{message.attempt}" if message.attempt else message.id


def _id(key: str) -> str:
    return key.partition("\t")[0]


class Redis:
    """One Redis server of our own, which writes everything to its disk before it answers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "redis"
        self.directory.mkdir()
        self.server = RedisServer({"appendonly": "yes", "appendfsync": "always"}, directory=self.directory)
        self.url = self.server.url
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

    def look(self) -> _Look:
        return _Look(self.ask("EVAL", _LOOK, 1, self.base))

    def standing(self) -> Standing:
        look = self.look()
        malformed = (f"malformed {entry.decode()}" for (_, entry), key in look.entries.items() if key is None)
        waiting = {_id(key) for key in look.keys if key is not None}
        return Standing(
            frozenset(waiting | set(malformed)),
            frozenset(_id(look.entries.get(place) or f"gone {place[1].decode()}") for place in look.held),
            {task_id: _state_of(head) for task_id, head in look.results.items() if head[:1] == b"1"},
            {_id(key): reason.decode() for key, reason, _ in look.dead},
            {_id(key): count for key, count in look.deaths.items() if _id(key) in waiting},
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
        ports = _ports_of(pid)
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


def _state_of(head: bytes) -> str:
    return head.partition(b'"')[2].partition(b'"')[0].decode()


def _until(fact: Callable[[], bool], message: str) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while not fact():
        assert time.monotonic() < deadline, f"waited for: {message}"
        time.sleep(0.001)


def _ports_of(pid: int) -> set[int]:
    """The local ports of the TCP connections of a process. Source: proc(5), /proc/net/tcp."""
    inodes: set[str] = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        target = os.readlink(f"/proc/{pid}/fd/{name}")
        if target.startswith("socket:["):
            inodes.add(target[len("socket:[") : -1])
    rows = (line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:])
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[9] in inodes}


PLACES: Final[Mapping[str, Callable[[Path], Place]]] = {"sqlite": SQLiteFile, "redis": Redis}
#: For tests that look into one place, or do to it what can be done to no other.
ON_SQLITE: Final = pytest.mark.parametrize("place", ["sqlite"], indirect=True)
ON_REDIS: Final = pytest.mark.parametrize("place", ["redis"], indirect=True)
