"""Results as messages: who made a call is sent its result, through cuts and restarts; what can't be had is said."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import orjson
import pytest

from aiotq import AioTQ, chain, chord, group
from aiotq.backends.amqp.bus import EXCHANGE
from aiotq.backends.amqp.connection import KeptChannel
from aiotq.backends.amqp.frames import Post
from aiotq.backends.amqp.properties import pack_properties
from aiotq.backends.amqp.records import RpcRecords
from aiotq.exceptions import InvalidSetting, OperationalError, StoreRequired, TaskRevokedError
from aiotq.results import Booking, Claimed, Closing, HeldElsewhere, Join
from aiotq.results.celery_records import CELERYS
from aiotq.wire.message import new_id

from ..proxy import Proxy
from ..servers import shared_rabbit
from ..waiting import wait_until
from .rpc_work import FAR, process, put, record


async def published(store: RpcRecords, exchange: str, key: str, body: bytes, **properties: str) -> None:
    channel = await KeptChannel(store.client, confirms=True).channel()
    packed = pack_properties(message_id=str(channel.next_number), **properties)
    await channel.publish([Post(exchange, key, packed, body)])


@pytest.fixture
def vhost() -> str:
    return shared_rabbit().vhost()


async def test_a_result_is_sent_to_who_made_the_call(vhost: str) -> None:
    async with process(vhost) as caller, process(vhost) as other, process(vhost) as worker:
        reply_to = caller.records.address
        await worker.records.put([record("1", reply_to, "STARTED"), record("1", reply_to), record("2", None)])

        await wait_until(lambda: len(caller.pushed) == 2, "both states came")
        assert caller.states() == [("1", "STARTED"), ("1", "SUCCESS")]
        assert [each and each.state for each in await caller.records.get(["1", "2"])] == ["SUCCESS", None]
        assert list(await other.records.get(["1"])) == [None]
        assert not other.pushed


async def test_any_content_comes_as_it_was_sent(vhost: str) -> None:
    async with process(vhost) as caller, process(vhost) as worker:
        sent = [
            record("1", caller.records.address, body=b"\xff\x00", kind="application/x-msgpack; compression=x"),
            record("é" * 200, caller.records.address, "MY STATE", b'{"status": "OTHER"}'),
            record("3", caller.records.address, body=b"x" * 500_000),
        ]
        await worker.records.put(sent)

        await wait_until(lambda: len(caller.pushed) == 3, "all came")
        assert [(each.id, each.state, each.body, each.content_type) for each in caller.pushed] == [
            (each.id, each.state, each.body, each.content_type) for each in sent
        ]


async def test_a_terminal_state_is_not_replaced(vhost: str) -> None:
    async with process(vhost) as caller:
        to = caller.records.address
        await caller.records.put(
            [record("1", to), record("1", to, "STARTED"), record("1", to, "FAILURE"), record("2", to)]
        )

        await wait_until(lambda: ("2", "SUCCESS") in caller.states(), "the last one came")
        assert caller.states() == [("1", "SUCCESS"), ("2", "SUCCESS")]


async def test_what_is_forgotten_is_not_there(vhost: str) -> None:
    async with process(vhost) as caller:
        await caller.records.put([record("1", caller.records.address)])
        await wait_until(lambda: caller.pushed, "it came")

        await caller.records.forget(["1", "unknown"])

        assert list(await caller.records.get(["1"])) == [None]


async def test_results_for_who_is_gone_are_dropped(vhost: str) -> None:
    async with process(vhost) as worker:
        async with process(vhost) as caller:
            address = caller.records.address

        await worker.records.put([record("1", address), record("2", "x" * 300)])

        assert address not in shared_rabbit().queues(vhost.rsplit("/", 1)[1])


async def test_a_celery_workers_result_is_read(vhost: str) -> None:
    body = orjson.dumps({"task_id": "1", "status": "SUCCESS", "result": 4, "children": [], "traceback": None})
    async with process(vhost) as caller:
        address = caller.records.address
        await published(caller.records, "", address, body, correlation_id="1", content_type="application/json")

        await wait_until(lambda: caller.pushed, "it came")
        assert caller.pushed[0].content_type == CELERYS
        assert caller.states() == [("1", "SUCCESS")]


@pytest.mark.parametrize("body", [b"", b"7", b"{", b'{"ids": 3}', b'{"status": 4}', b"\xff"])
@pytest.mark.parametrize("exchange", ["", EXCHANGE])
async def test_garbage_is_passed_over(vhost: str, exchange: str, body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with process(vhost) as caller:
        key = caller.bus.address if exchange else caller.records.address
        await published(caller.records, exchange, key, body, content_type="application/json", correlation_id="1")
        await put(caller.records, [record("2", caller.records.address)])

        await wait_until(lambda: caller.states() == [("2", "SUCCESS")], "what is none was passed over")
        await wait_until(lambda: "is not a result" in caplog.text or caller.bus.malformed, "it was said or counted")


async def test_revocations_reach_all_who_run(vhost: str) -> None:
    async with process(vhost) as caller, process(vhost) as worker:
        await caller.ledger.revoke(["1"], terminate=False, expires=FAR)
        await caller.ledger.revoke(["2"], terminate=True, expires=FAR)
        await caller.ledger.revoke(["3"], terminate=True, expires=1.0)

        await wait_until(lambda: worker.revoked == ["2", "3"], "the worker heard of them")
        assert set(await worker.ledger.revoked(["1", "2", "3", "4"])) == {"1", "2"}
        assert set(await caller.ledger.revoked(["1", "2", "3", "4"])) == {"1", "2"}


async def test_a_join_is_refused_with_what_it_needs(vhost: str) -> None:
    async with process(vhost) as caller:
        with pytest.raises(StoreRequired, match="set result_backend to a redis:// or sqlite:// URL"):
            await caller.ledger.open_joins([Join("j", 1, (), 60.0)])


async def test_claims_are_each_processs_own_and_not_remembered(vhost: str) -> None:
    async with process(vhost) as worker, process(vhost) as another:
        assert list(await worker.ledger.claim([("1", 0)], "me", 15)) == [Claimed()]
        assert isinstance((await worker.ledger.claim([("1", 0)], "you", 15))[0], HeldElsewhere)
        assert list(await another.ledger.claim([("1", 0)], "you", 15)) == [Claimed()]
        for _ in range(2):  # what is repeated is done again
            assert list(await worker.ledger.close([Closing(("1", 0), record("1", None))], "me")) == [()]
        assert list(await worker.ledger.claim([("1", 0)], "you", 15)) == [Claimed()]


async def test_rate_limits_are_each_workers_own(vhost: str) -> None:
    async with process(vhost) as worker, process(vhost) as another:
        first, second, again = await worker.ledger.book([Booking((each, 0), "add", 10.0) for each in ("1", "2", "2")])

        assert first == 0.0
        assert 9 < second <= 10
        assert 9 < again <= 10
        assert list(await another.ledger.book([Booking(("3", 0), "add", 10.0)])) == [0.0]


async def test_results_come_after_a_cut(vhost: str) -> None:
    port = shared_rabbit().port
    with Proxy(port) as proxy:
        async with process(vhost.replace(str(port), str(proxy.port))) as caller, process(vhost) as worker:
            proxy.cut()
            await worker.records.put([record("1", caller.records.address)])

            await wait_until(lambda: caller.states() == [("1", "SUCCESS")], "it came on another connection")


async def test_a_deleted_queue_of_replies_is_declared_again(vhost: str) -> None:
    name = vhost.rsplit("/", 1)[1]
    async with process(vhost) as caller, process(vhost) as worker:
        queue = f'rabbit_misc:r(<<"{name}">>, queue, <<"{caller.records.address}">>)'
        shared_rabbit().eval(
            f'rabbit_amqqueue:with({queue}, fun(Q) -> rabbit_amqqueue:delete(Q, false, false, <<"test">>) end), ok'
        )
        await wait_until(lambda: caller.records.address in shared_rabbit().queues(name), "the queue is there again")

        await worker.records.put([record("1", caller.records.address)])

        await wait_until(lambda: caller.states() == [("1", "SUCCESS")], "results come again")


async def test_what_nobody_asks_for_does_not_fill_the_memory(
    vhost: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aiotq.backends.amqp.records._MOST_KEPT", 10_000)
    caplog.set_level(logging.WARNING)
    async with process(vhost) as caller:
        await caller.records.put(
            [record(str(number), caller.records.address, body=b"x" * 1000) for number in range(20)]
        )
        await wait_until(lambda: len(caller.pushed) == 20, "all came")

        kept = [each for each in await caller.records.get([str(number) for number in range(20)]) if each is not None]
        assert [each.id for each in kept] == ["14", "15", "16", "17", "18", "19"]
        assert "call with ignore_result=True, or use a results store" in caplog.text


async def test_a_user_who_may_not_declare_is_told_so(vhost: str) -> None:
    server = shared_rabbit()
    name = vhost.rsplit("/", 1)[1]
    server.add_user(f"reader-{name}", "secret", name, "", ".*", ".*")

    with pytest.raises(OperationalError, match="is not allowed to do this"):
        async with process(vhost.replace("guest:guest", f"reader-{name}:secret")):
            pass


async def test_leaving_leaves_nothing_behind(vhost: str) -> None:
    async with process(vhost):
        pass

    await wait_until(lambda: shared_rabbit().queues(vhost.rsplit("/", 1)[1]) == {}, "its queues are gone")


# An app without a store


@pytest.fixture
async def app(vhost: str) -> AsyncIterator[AioTQ]:
    """An app whose results are sent, with a worker; its tasks are `add` and `total`."""
    app = AioTQ("x", broker=vhost, result_backend="rpc://")

    @app.task(name="add")
    async def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="total")
    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    async with app, app.worker():
        yield app


async def test_a_chain_and_its_callbacks_run(app: AioTQ) -> None:
    result = await chain(app.signature("add", (1, 1)), app.signature("add", (10,)), app.signature("add", (100,)))()

    assert await result.get(timeout=20) == 112
    assert result.parent is not None
    assert await result.parent.get(timeout=20) == 12


async def test_a_group_runs(app: AioTQ) -> None:
    result = await group(app.signature("add", (number, 1)) for number in range(20))()

    assert await result.get(timeout=20) == [number + 1 for number in range(20)]


async def test_a_chord_says_at_the_call_what_it_needs(app: AioTQ) -> None:
    with pytest.raises(StoreRequired, match="set result_backend to a redis:// or sqlite:// URL"):
        await chord([app.signature("add", (1, 1)), app.signature("add", (2, 2))], app.signature("total"))()


async def test_a_revoked_task_does_not_run(app: AioTQ) -> None:
    task_id = new_id()
    await app.AsyncResult(task_id).revoke()

    with pytest.raises(TaskRevokedError):
        await (await app.send_task("add", (1, 1), task_id=task_id)).get(timeout=20)


async def test_a_result_that_came_before_it_was_asked_for_is_there(app: AioTQ) -> None:
    first = await app.send_task("add", (1, 1))
    second = await app.send_task("add", (2, 2))

    assert await second.get(timeout=20) == 4
    assert await first.get(timeout=20) == 2
    assert await app.AsyncResult(first.id).get(timeout=20) == 2


async def test_only_a_broker_that_carries_results_can() -> None:
    app = AioTQ("x", broker="memory://", result_backend="rpc://")

    with pytest.raises(InvalidSetting, match="only an amqp:// broker carries results"):
        async with app:
            await app.send_task("add", (1, 1))


async def test_rights_on_our_names_are_enough(vhost: str) -> None:
    """Those that the documentation names."""
    name = vhost.rsplit("/", 1)[1]
    ours = r"^(default(:[069])?|aiotq\\..*|celery_delayed_delivery|amq\\.default)$"
    shared_rabbit().add_user(f"ours-{name}", "secret", name, ours, ours, ours)
    app = AioTQ("x", broker=vhost.replace("guest:guest", f"ours-{name}:secret"), task_publish_timeout=30.0)

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app, app.worker():
        assert await (await add.apply_async((2, 2), countdown=0.05)).get(timeout=10) == 4
        await (await add.apply_async((2, 2), countdown=60)).revoke()
        assert not await app.admin.dead_letters()
