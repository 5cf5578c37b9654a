"""Celery and aiotq on one RabbitMQ: each sends to the other's worker, results come back through Redis."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aiotq import AioTQ

from ..servers import shared, shared_rabbit
from ..waiting import wait_until
from .celery_process import THEIRS, CeleryClient, CeleryError, CeleryWorker
from .ours import make_app

# Celery's client, our worker


async def test_celery_calls_our_task(worker: AioTQ, celery: CeleryClient) -> None:
    positional = await celery.ask("send", "ours.add", [2, 3])
    by_name = await celery.ask("send", "ours.add", [2], {"y": 5})

    assert await celery.ask("get", positional) == 5
    assert await celery.ask("get", by_name) == 7


async def test_our_worker_sees_what_celery_says_of_the_call(worker: AioTQ, celery: CeleryClient) -> None:
    task_id = await celery.ask(
        "send", "ours.report", [1], {"a": 2}, headers={"tenant": "acme", "number": 300}, retries=2, priority=9
    )

    seen = await celery.ask("get", task_id)

    assert (seen["args"], seen["kwargs"]) == ([1], {"a": 2})
    assert seen["headers"] == {"tenant": "acme", "number": 300}
    assert (seen["id"], seen["root_id"], seen["parent_id"], seen["retries"]) == (task_id, task_id, None, 2)


async def test_values_keep_their_types(worker: AioTQ, celery: CeleryClient) -> None:
    assert await celery.ask("get", await celery.ask("send_kinds", "ours.kinds")) == ["datetime", "Decimal", "UUID"]


async def test_celerys_countdown_is_waited_for(worker: AioTQ, celery: CeleryClient) -> None:
    sent_at = time.time()
    task_id = await celery.ask("send", "ours.report", countdown=1)

    seen = await celery.ask("get", task_id)

    assert seen["at"] - sent_at >= 1


async def test_what_celery_lets_expire_does_not_run(worker: AioTQ, celery: CeleryClient) -> None:
    task_id = await celery.ask("send", "ours.add", [1, 1], countdown=0.7, expires=0.2)

    with pytest.raises(CeleryError, match="TaskRevokedError"):
        await celery.ask("get", task_id)


async def test_a_compressed_call_of_celerys_is_read(worker: AioTQ, celery: CeleryClient) -> None:
    task_id = await celery.ask("send", "ours.report", ["x" * 10_000], compression="gzip")

    assert (await celery.ask("get", task_id))["args"] == ["x" * 10_000]


async def test_celerys_time_limits_hold(worker: AioTQ, celery: CeleryClient) -> None:
    task_id = await celery.ask("send", "ours.sleep", [30], time_limit=0.2)

    with pytest.raises(CeleryError, match="TimeLimitExceeded"):
        await celery.ask("get", task_id)


async def test_protocol_1_is_understood(worker: AioTQ, broker: str) -> None:
    with CeleryClient(broker, shared("redis").url, {"task_protocol": 1}) as old:
        assert await old.ask("get", await old.ask("send", "ours.add", [2, 2])) == 4


async def test_our_retries_end_where_celery_waits(worker: AioTQ, celery: CeleryClient) -> None:
    assert await celery.ask("get", await celery.ask("send", "ours.flaky", [2])) == 2


async def test_our_failure_is_raised_there(worker: AioTQ, celery: CeleryClient) -> None:
    with pytest.raises(CeleryError, match=r"builtins.ValueError: bad"):
        await celery.ask("get", await celery.ask("send", "ours.fail", ["bad"]))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("of-quorum", {"task_default_queue_type": "quorum"}), ("with-priorities", {"task_queue_max_priority": 10})],
)
async def test_a_queue_that_celery_declared_with_arguments_is_used_as_it_is(
    broker: str, name: str, settings: dict[str, Any]
) -> None:
    backend = shared("redis").url
    with CeleryClient(broker, backend, {"task_default_queue": name, **settings}) as client:
        task_id = await client.ask("send", "ours.add", [2, 3])
        app = make_app(broker, backend, task_default_queue=name)
        async with app, app.worker():
            assert await client.ask("get", task_id) == 5
            assert await (await app.send_task("ours.add", (2, 3), countdown=0.01)).get(timeout=20) == 5


async def test_celerys_delays_in_the_broker_arrive(worker: AioTQ, broker: str) -> None:
    """With quorum queues and topic exchanges Celery keeps what is delayed in queues that its workers declare."""
    conf = {
        "task_default_queue": "theirs-quorum",
        "task_default_queue_type": "quorum",
        "task_create_missing_queue_exchange_type": "topic",
        "task_default_exchange": "tasks",
        "task_default_exchange_type": "topic",
        "broker_native_delayed_delivery_queue_type": "classic",
    }
    backend = shared("redis").url
    with CeleryWorker(broker, backend, conf, queue="theirs-quorum"), CeleryClient(broker, backend, conf) as client:
        sent_at = time.time()
        task_id = await client.ask("send", "ours.report", countdown=1, queue="celery")

        await wait_until(lambda: sum(delayed(broker).values()) == 1, "it is in Celery's ladder")
        assert (await client.ask("get", task_id))["at"] - sent_at >= 1


def delayed(broker: str) -> dict[str, int]:
    """Return what is ready in Celery's ladder."""
    queues = shared_rabbit().queues(broker.rsplit("/", 1)[1])
    return {name: count for name, count in queues.items() if name.startswith("celery_delayed_")}


# Our client, Celery's worker


@pytest.mark.usefixtures("celery_worker")
async def test_we_call_celerys_task(app: AioTQ) -> None:
    async with app:
        positional = await app.send_task("theirs.add", (2, 3), queue=THEIRS)
        by_name = await app.send_task("theirs.add", (2,), {"y": 5}, queue=THEIRS)

        assert await positional.get(timeout=20) == 5
        assert await by_name.get(timeout=20) == 7


@pytest.mark.usefixtures("celery_worker")
async def test_celerys_worker_sees_what_we_say_of_the_call(app: AioTQ) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    async with app:
        result = await app.send_task(
            "theirs.report",
            (1,),
            {"a": 2},
            queue=THEIRS,
            headers={"tenant": "acme", "number": 300, "ratio": 0.1, "nested": {"list": [70_000, 2**40, None, True]}},
            expires=until,
            time_limit=300,
            soft_time_limit=200.5,
            priority=7,
        )
        seen = await result.get(timeout=20)

    assert (seen["args"], seen["kwargs"]) == ([1], {"a": 2})
    assert {name: given for name, given in seen["headers"].items() if not name.startswith("aiotq")} == {
        "tenant": "acme",
        "number": 300,
        "ratio": 0.1,
        "nested": {"list": [70_000, 2**40, None, True]},
    }
    assert (seen["id"], seen["root_id"], seen["retries"]) == (result.id, result.id, 0)
    assert datetime.fromisoformat(seen["expires"]) == until
    assert seen["timelimit"] == [300, 200.5]
    assert seen["priority"] == 7


@pytest.mark.usefixtures("celery_worker")
async def test_our_countdown_is_waited_for(app: AioTQ) -> None:
    async with app:
        sent_at = time.time()
        result = await app.send_task("theirs.report", queue=THEIRS, countdown=1)

        assert (await result.get(timeout=20))["at"] - sent_at >= 1


@pytest.mark.usefixtures("celery_worker")
async def test_what_we_let_expire_does_not_run_there(app: AioTQ) -> None:
    async with app:
        result = await app.send_task("theirs.add", (1, 1), queue=THEIRS, countdown=0.7, expires=0.2)

        with pytest.raises(Exception, match="expired"):
            await result.get(timeout=20)


@pytest.mark.usefixtures("celery_worker")
async def test_their_failure_is_raised_here(app: AioTQ) -> None:
    async with app:
        result = await app.send_task("theirs.fail", ("bad",), queue=THEIRS)

        with pytest.raises(ValueError, match="bad"):
            await result.get(timeout=20)


@pytest.mark.usefixtures("celery_worker")
async def test_their_task_calls_ours(worker: AioTQ) -> None:
    result = await worker.send_task("theirs.calls_ours", (4,), queue=THEIRS)

    assert await worker.AsyncResult(await result.get(timeout=20)).get(timeout=20) == 5


# Declarations


async def test_a_worker_says_what_the_broker_may_drop(app: AioTQ, caplog: pytest.LogCaptureFixture) -> None:
    async with app, app.worker():
        assert "celery_compat: queues without a dead-letter exchange: celery." in caplog.text


async def test_our_queues_are_as_celery_declares_them(worker: AioTQ, broker: str) -> None:
    """Or whoever comes second could not use them."""
    vhost = broker.rsplit("/", 1)[1]

    assert "celery" in shared_rabbit().queues(vhost)
    servers = '{<<"x-queue-type">>,longstr,<<"classic">>}'  # from 4.0 on it writes that itself
    arguments = shared_rabbit().eval(
        f'[lists:delete({servers}, amqqueue:get_arguments(Q)) || Q <- rabbit_amqqueue:list(<<"{vhost}">>), '
        'element(4, amqqueue:get_name(Q)) =:= <<"celery">>]'
    )
    assert arguments == "[[]]"
