"""What does not belong into a Redis of ours: keys of another type, foreign entries, and whatever we left behind."""

from __future__ import annotations

import asyncio
import functools
import struct
from typing import Any

import msgpack
import orjson
import pytest

from aiotq.commit import COMMITTED, Finish
from aiotq.core.inside import core_of
from aiotq.exceptions import OperationalError
from aiotq.results import Arrival, Join, JoinChanges, Record
from aiotq.results.fleet import FleetRow
from aiotq.transport import ACK, GiveUp, HandBack
from aiotq.wire.message import Envelope, Message, pack

from ..servers import RedisServer, shared
from ..waiting import wait_until
from .redis_work import Work, fresh_prefix, send_junk, warnings


@pytest.fixture
def prefix() -> str:
    return fresh_prefix()


@pytest.fixture
def work(prefix: str) -> Work:
    return Work(shared("redis").url, prefix)


# Keys of another type


@pytest.mark.parametrize(("what", "countdown"), [("4", 0), ("4", 60), ("delayed", 60)])
async def test_sending_to_a_key_of_another_type_is_refused_and_names_it(
    work: Work, what: str, countdown: float
) -> None:
    async with work.app, work.app.worker():
        with shared("redis").client() as client:
            client.set(work.key("odd", what), "something else")
            with pytest.raises(OperationalError, match="WRONGTYPE") as caught:
                await work.double.apply_async((1,), queue="odd", countdown=countdown)
            assert client.get(work.key("odd", what)) == b"something else"
        assert work.key("odd", what) in str(caught.value)
        await work.works()


@pytest.mark.parametrize("what", ["4", "a", "s", "delayed", "waiting"])
async def test_a_worker_says_once_that_a_key_is_no_queue_and_reads_the_others(
    work: Work, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    with shared("redis").client() as client:
        client.set(work.key("odd", what), "something else")
    async with work.app, work.app.worker(queues=["odd", "default"]) as worker:
        for _ in range(10):
            await work.works()
        assert await (await work.double.apply_async((1,), queue="odd", priority=9)).get(timeout=10) == 2
        assert worker.running == 0

    said = warnings(caplog, "is not a stream, but a queue needs that key")
    assert len(said) == (what != "waiting")
    assert what == "waiting" or work.key("odd", what) in said[0]
    assert not warnings(caplog, "receiving failed")


@pytest.mark.parametrize("due", [None, 4_000_000_000.0])
async def test_what_a_commit_sends_to_such_a_key_becomes_a_dead_letter(work: Work, due: float | None) -> None:
    connection = await core_of(work.app).connection()
    follower = Envelope(Message("follower", "x.double", b"[]"), "odd", due=due)
    async with work.app, connection.broker.consumer("w", ["default"], lease=15) as consumer:
        with shared("redis").client() as client:
            client.set(work.key("odd", "4" if due is None else "delayed"), "something else")
        await work.double.delay(1)
        (delivery,) = await consumer.receive(1, suspect=True, wait=5)
        await _commit(connection, consumer, delivery, follower)

        (letter,) = await work.app.admin.dead_letters("odd")

    assert letter.message is not None
    assert letter.message.id == "follower"
    assert letter.reason == "no-queue"


async def _commit(connection: Any, consumer: Any, delivery: Any, follower: Envelope) -> None:
    committer = connection.committer(consumer, "w", 15)
    await committer.commit([Finish(delivery, ACK, envelopes=(follower,))])


async def test_one_bad_queue_does_not_fail_the_calls_to_others(work: Work) -> None:
    async with work.app:
        await work.answers()
        with shared("redis").client() as client:
            client.set(work.key("odd"), "something else")
        calls = [work.double.apply_async((x,), queue="odd" if x == 5 else "default") for x in range(10)]
        answers = await asyncio.gather(*calls, return_exceptions=True)

    assert [x for x, answer in enumerate(answers) if isinstance(answer, BaseException)] == [5]


@pytest.mark.parametrize("key", ["join:j", "join:j:in", "joins", "watch:a", "deaths:a", "line:x"])
async def test_a_key_of_another_type_among_those_of_a_commit_leaves_no_half_of_it(work: Work, key: str) -> None:
    connection = await core_of(work.app).connection()
    async with work.app, connection.broker.consumer("w", ["default"], lease=15) as consumer:
        await connection.ledger.open_joins([Join("j", 1, (), patience=3600.0)])
        await connection.records.watch("other")
        with shared("redis").client() as client:
            client.delete(f"{work.base}:{key}")
            client.rpush(f"{work.base}:{key}", "something else")
        envelope = Envelope(Message("a", "x.double", b"[]"), "default")
        await connection.broker.send([envelope])
        (delivery,) = await consumer.receive(1, suspect=True, wait=5)
        record = Record("a", "SUCCESS", b"4", "application/json", 4_000_000_000)
        finish = Finish(delivery, ACK, record, joining=JoinChanges(arrivals=(Arrival("j", "0"),)))

        assert await connection.committer(consumer, "w", 15).commit([finish]) == [COMMITTED]

        assert await connection.records.get(["a"]) == [record]
        (stats,) = await work.app.admin.queues(["default"])
        assert (stats.ready, stats.leased) == (0, 0)


async def test_dead_letters_find_a_place_where_something_else_stood(work: Work) -> None:
    transport = (await core_of(work.app).connection()).broker
    async with work.app, transport.consumer("w", ["default"], lease=15) as consumer:
        with shared("redis").client() as client:
            client.set(work.key(what="dead"), "something else")
            await work.double.delay(1)
            (delivery,) = await consumer.receive(1, suspect=True, wait=5)
            assert await transport.settle([(delivery, GiveUp("tried"))]) == [True]
            assert client.get(work.key(what="dead") + ":no-stream") == b"something else"

        assert [letter.reason for letter in await work.app.admin.dead_letters()] == ["tried"]


# Foreign entries


def framed(headers: bytes, body: bytes = b"[[1],{},{}]") -> bytes:
    return struct.pack(">I", len(headers)) + headers + body


JUNK = {
    "no field m": {"x": b"1"},
    "text": {"m": b"hello"},
    "binary": {"m": bytes(range(256)) * 10},
    "empty": {"m": b""},
    "a header longer than the message": {"m": b"\xff\xff\xff\xff{}"},
    "5 MB": {"m": b"x" * 5_000_000},
    "nested 10,000 deep": {"m": framed(b"[" * 10_000 + b"]" * 10_000)},
    "a header nested 10,000 deep": {"m": framed(b'{"id":' + b"[" * 10_000 + b"]" * 10_000 + b"}")},
    "an id that is a list": {"m": framed(b'{"id":[],"task":"x.double"}')},
    "headers that are no object": {"m": framed(b"17")},
    "many fields": {f"f{number}": b"x" for number in range(1000)},
}


@pytest.mark.parametrize("level", ["4", "a", "s"])
async def test_foreign_entries_become_dead_letters_and_the_worker_goes_on(
    work: Work, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with work.app, work.app.worker():
        with shared("redis").client() as client:
            for fields in JUNK.values():
                client.xadd(work.key(what=level), fields)
        await wait_until(lambda: _are_dead(work, len(JUNK)), "all are dead letters", 20)
        await work.works()
        letters = await work.app.admin.dead_letters()
        assert {letter.reason for letter in letters} == {"malformed"}
        assert all(letter.detail and letter.message is None for letter in letters)
        assert await work.app.admin.replay([letter.key for letter in letters]) == 0
        (stats,) = await work.app.admin.queues(["default"])
        assert (stats.ready, stats.leased) == (0, 0)

    assert not [record for record in caplog.records if record.exc_info]


async def _are_dead(work: Work, count: int) -> bool:
    return len(await work.app.admin.dead_letters()) >= count


@pytest.mark.parametrize("level", ["a", "s"])
async def test_counts_that_are_no_numbers_do_not_keep_a_message_from_running(work: Work, level: str) -> None:
    fields = {"k": "odd", "p": "high", "n": "1e999", "t": "yesterday"}
    async with work.app:
        with shared("redis").client() as client:
            client.xadd(work.key(what=level), {"m": _message("one"), **fields})
            client.xadd(work.key(what=level), {"m": _message("two"), "p": "99999999999999999999", "n": "-1"})
            client.xadd(work.key(what=level), {"m": _message("three")})
        transport = (await core_of(work.app).connection()).broker
        async with transport.consumer("w", ["default"], lease=15) as consumer:
            (first,) = await consumer.receive(1, suspect=True, wait=5)
            assert await transport.settle([(first, HandBack(0.01))]) == [True]
        await work.app.admin.queues()
        async with work.app.worker():
            results = [work.app.AsyncResult(task_id) for task_id in ("one", "two", "three")]
            assert [await result.get(timeout=10) for result in results] == [42, 42, 42]


def _message(task_id: str) -> bytes:
    return pack(Message(task_id, "x.double", b"[[21],{},{}]"))


async def test_foreign_members_of_the_delayed_set_become_dead_letters_and_the_worker_goes_on(work: Work) -> None:
    members = [
        b"hello",
        b"",
        b"\x91" * 100_000,
        msgpack.packb([1, 2]),
        msgpack.packb(["id"]),
        msgpack.packb({"a": 1}),
        msgpack.packb(["id", "x", "y", "z"]),
        msgpack.packb([None, None, None, None]),
        msgpack.packb(["id", 4, 0, 17]),
        msgpack.packb(["id", 99, 0, b"no message"]),
    ]
    async with work.app, work.app.worker():
        with shared("redis").client() as client:
            client.zadd(work.key(what="delayed"), dict.fromkeys(members, 1))
        good = await work.double.options(countdown=0.05).delay(1)
        await wait_until(lambda: _are_dead(work, len(members)), "all are dead letters", 20)
        await work.works()
        assert await good.get(timeout=10) == 2
        with shared("redis").client() as client:
            client.zadd(work.key("other", "delayed"), dict.fromkeys(members, 1))
        assert await work.app.admin.purge("other") == len(members)


async def test_a_body_that_cannot_be_read_is_the_end_of_its_task_only(work: Work) -> None:
    headers = orjson.dumps({"id": "odd", "task": "x.double"})
    async with work.app, work.app.worker():
        with shared("redis").client() as client:
            client.xadd(work.key(), {"m": framed(headers, b"[" * 10_000 + b"]" * 10_000)})
        await wait_until(lambda: _are_dead(work, 1), "it is a dead letter")
        await work.works()


@pytest.mark.parametrize(
    "junk", [b"", b"\xc1", msgpack.packb(7), msgpack.packb([1, 2, 3]), msgpack.packb(["m", "b", [[1]]])]
)
async def test_foreign_rows_of_periodic_tasks_are_named_and_the_others_go_on(
    work: Work, junk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    app = work.app
    app.add_periodic_task(0.05, work.double.s(1), name="ours", expires=None)
    async with app:
        with shared("redis").client() as client:
            client.hset(f"{work.base}:schedules:x", mapping={b"theirs": junk, b"\xff": junk})
        async with app.beat() as scheduler:
            await wait_until(lambda: scheduler.is_live, "it is live")
            shown = await app.schedules.list()
            while not next(each for each in shown if each.name == "ours").runs:
                shown = await app.schedules.list()

        (theirs,) = (each for each in shown if each.name == "theirs")
        assert "can't be read" in str(theirs.problem)
        assert any("theirs" in line for line in caplog.messages)
        await app.schedules.remove("theirs")
        assert "theirs" not in {each.name for each in await app.schedules.list()}


# What is left behind


async def test_a_foreign_key_in_the_place_of_the_fleet_registry_costs_no_lease(
    work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    with shared("redis").client() as client:
        client.set(f"{work.base}:fleet", "something else")
    async with work.app:
        connection = await core_of(work.app).connection()
        await connection.broker.send([Envelope(Message("a", "t", b""), "q")])
        async with connection.broker.consumer("w", ["q"], lease=15) as consumer:
            committer = connection.committer(consumer, "w", 15)
            held = await consumer.receive(1, suspect=True, wait=10)

            lost = await asyncio.to_thread(committer.renew, held, FleetRow("w", b"row", 15.0))

            assert list(lost) == []
            assert await connection.broker.settle([(held[0], ACK)]) == [True]
    assert "the row in the fleet registry could not be written" in caplog.text
    assert "WRONGTYPE" in caplog.text


async def test_when_all_is_done_and_expired_the_server_is_as_it_was() -> None:
    with RedisServer() as server, server.client() as client:
        work = Work(server.url, fresh_prefix(), worker_lease=0.6, result_expires=2.0)
        async with work.app:
            for round_ in range(2):
                async with work.app.worker(concurrency=20):
                    results = [await work.double.delay(x) for x in range(100)]
                    results += [await work.double.options(countdown=0.1).delay(x) for x in range(50)]
                    for result in results:
                        await work.app.AsyncResult(result.id).get(timeout=10)
                    await work.app.AsyncResult(f"revoked-{round_}").revoke()
                    revoked = await work.double.options(countdown=0.2, task_id=f"revoked-{round_}").delay(1)
                    with pytest.raises(Exception, match="revoked"):
                        await revoked.get(timeout=10)
                    await send_junk(work.app, "x.double", f"junk-{round_}")
                    await wait_until(functools.partial(_are_dead, work, round_ + 1), "it is a dead letter")
            work.gate.clear()
            for _ in range(20):
                await work.hold.delay(1)
            async with work.app.worker(grace=0.1):  # hands back
                await wait_until(lambda: work.began[1] > 20, "they run")
            work.gate.set()
            async with work.app.worker():
                await wait_until(lambda: _is_empty(work), "all is done")
                await work.works()
            _assert_that_all_expire(client, work)
            assert client.hlen(f"{work.base}:ids") == 0
            await work.app.admin.purge_dead()

        # Our constants are minutes: what is left has a name that says so.
        left = {key.decode() for key in client.scan_iter()}
        kinds = {key.removeprefix(work.base).split(":")[1] for key in left}
        assert kinds <= {"q", "queues", "line", "result", "revoked", "watching", "watch", "ids", "finished"}, left
        streams = [key for key in left if client.type(key) == b"stream" and ":finished:" not in key]
        assert all(client.xlen(key) == 0 for key in streams)
        assert client.memory_usage(f"{work.base}:queues") < 500
        await wait_until(lambda: not client.keys("*:result:*"), "results have expired")


async def _is_empty(work: Work) -> bool:
    queues = await work.app.admin.queues(["default"])
    return not any(queue.ready or queue.leased or queue.delayed for queue in queues)


def _assert_that_all_expire(client: Any, work: Work) -> None:
    for key in client.scan_iter():
        name = key.decode().removeprefix(work.base)
        is_queue = name in {":queues", ":ids"} or (
            name.startswith(":q:") and name.rsplit(":", 1)[1] in {*"0123456789as", "delayed"}
        )
        assert is_queue or client.ttl(key) != -1, f"{name} would stay for ever"


async def test_streams_that_stay_empty_are_deleted_with_all_that_told_of_them(prefix: str) -> None:
    with RedisServer() as server, server.client() as client:
        work = Work(server.url, prefix)
        async with work.app, work.app.worker():
            await work.works()
        assert client.exists(work.key()) == 1
        await _age(client, work)
        transport = (await core_of(work.app).connection()).broker
        async with work.app, transport.consumer("w", ["default"], lease=15) as consumer:
            await consumer.reclaim()

        left = {key.decode().removeprefix(work.base) for key in client.scan_iter()}
        assert not [name for name in left if not name.startswith((":line:", ":result:"))], left


async def _age(client: Any, work: Work) -> None:
    """Make the empty stream one that was empty for more than a minute."""
    client.delete(work.key())
    client.xadd(work.key(), {"m": "x"}, id="1-1")
    client.xdel(work.key(), "1-1")
    client.xgroup_create(work.key(), "aiotq", "0")
