"""Amazon SQS: what is its own. Contracts, kills, and the page of the guide are tested elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aiotq import AioTQ
from aiotq.backends.sqs import outgoing
from aiotq.backends.sqs.address import parse
from aiotq.backends.sqs.broker import SqsBroker
from aiotq.backends.sqs.connection import SqsClient
from aiotq.backends.sqs.held import LONGEST_HOLD
from aiotq.core.values import replace
from aiotq.exceptions import ConnectionLost, InvalidOption, InvalidSetting, OperationalError, Refused
from aiotq.testing.contracts.broker_harness import envelope, ids
from aiotq.transport import ACK, GiveUp, HandBack
from aiotq.wire.message import Envelope

from ..proxy import Proxy
from ..sqs_server import shared_sqs
from ..waiting import wait_until

PATIENCE = 20.0


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[SqsBroker]:
    async with SqsClient(parse(url)) as client:
        yield SqsBroker(client, names=["q"])


def in_group(task_id: str, group: str) -> Envelope:
    plain = envelope(task_id)
    return replace(plain, message=replace(plain.message, headers={"message_group": group}))


async def test_what_is_renewed_stays_and_what_is_not_comes_again() -> None:
    url = shared_sqs().url()
    async with (
        connected(url) as broker,
        broker.consumer("holds", ["q"], lease=2.0) as holding,
        broker.consumer("waits", ["q"], lease=30.0) as waiting,
    ):
        await broker.send([envelope("renewed"), envelope("forgotten")])
        first, second = await holding.receive(2, suspect=True, wait=PATIENCE)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(waiting.receive(10, suspect=True, wait=PATIENCE))
            while not reading.done():
                assert not await asyncio.to_thread(holding.renew, [first])
                await asyncio.sleep(0.1)

        (again,) = reading.result()
        assert (again.message, again.returns) == (second.message, 1)
        assert await broker.settle([(second, ACK), (first, ACK), (again, ACK)]) == [False, True, True]


async def test_what_is_due_later_than_sqs_can_delay_goes_round_and_comes_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outgoing, "LONGEST_DELAY", 1)
    async with connected(shared_sqs().url()) as broker, broker.consumer("a", ["q"], lease=30.0) as consumer:
        due = broker._clock.time() + 2.7
        await broker.send([envelope("later", due=due)])
        (stats,) = await broker.stats()
        assert (stats.ready, stats.delayed) == (0, 1)

        (delivery,) = await consumer.receive(10, suspect=True, wait=PATIENCE)

        assert broker._clock.time() - due >= 0
        assert (delivery.message.id, delivery.returns) == ("later", 0)


async def test_what_can_not_be_held_any_longer_is_put_aside_and_what_is_handed_back_with_a_delay_is_a_copy() -> None:
    async with connected(shared_sqs().url()) as broker, broker.consumer("a", ["q"], lease=30.0) as consumer:
        await broker.send([envelope("long"), envelope("returned")])
        long, returned = await consumer.receive(2, suspect=True, wait=PATIENCE)
        broker.held[long.lease].came_at -= LONGEST_HOLD
        consumer._chores.set()  # type: ignore[attr-defined]  # it looks once a minute

        async def is_delayed() -> bool:
            return (await broker.stats())[0].delayed == 1

        await wait_until(is_delayed, "a copy goes round")
        await wait_until(lambda: broker.held[long.lease].is_parked, "the original is known to be one")
        assert await broker.settle([(long, GiveUp("odd")), (returned, HandBack(1001.0))]) == [True, True]
        (stats,) = await broker.stats()
        assert (stats.ready, stats.leased, stats.delayed, stats.dead) == (0, 0, 2, 1)


async def test_fifo_queues_keep_the_order_of_each_group_and_a_retry_waits_beside_them() -> None:
    async with connected(shared_sqs().url("fifo=true")) as broker, broker.consumer("a", ["q"], lease=30.0) as consumer:
        await broker.send([in_group(f"a{n}", "customer-1") for n in range(12)])
        await broker.send([in_group("b0", "ünusual"), envelope("c"), envelope("later", due=broker._clock.time() + 1)])

        first = await consumer.receive(3, suspect=True, wait=PATIENCE)
        assert ids(first) == ["a0", "a1", "a2"]
        others = [await consumer.receive(1, suspect=True, wait=PATIENCE) for _ in range(3)]
        assert sorted(each.message.id for some in others for each in some) == ["b0", "c", "later"]

        await broker.settle([(first[0], ACK), (first[1], HandBack()), (first[2], HandBack())])
        found: list[str] = []
        while len(found) < 11:
            some = await consumer.receive(10, suspect=True, wait=PATIENCE)
            found += ids(some)
            await broker.settle([(each, ACK) for each in some])
        assert found == [f"a{n}" for n in range(1, 12)]
        await broker.send([in_group("a1", "customer-1")])  # again, on purpose, soon after it was done
        assert ids(await consumer.receive(10, suspect=True, wait=PATIENCE)) == ["a1"]


async def test_what_sqs_can_not_keep_is_refused_at_the_call(tmp_path: Path) -> None:
    app = AioTQ("sqs", broker=shared_sqs().url(), backend=f"sqlite:///{tmp_path}/results.db")

    @app.task
    async def take(text: str = "") -> int:
        return len(text)

    async with app, app.worker():
        with pytest.raises(Refused, match=r"300\d{3} bytes as SQS carries it, over the limit of 261120: send less"):
            await take.delay("x" * 300_000)
        with pytest.raises(Refused, match=r"SQS has none: all messages have task_default_priority \(4\)"):
            await take.options(priority=9).delay()
        with pytest.raises(InvalidOption, match=r"queue 'a\.b': on SQS the name of a queue has letters"):
            await take.options(queue="a.b").delay()
        large = await take.delay("ü" * 100_000)
        assert await large.get(timeout=PATIENCE) == 100_000


async def test_results_stand_beside_the_ledger_if_they_have_no_place_of_their_own(tmp_path: Path) -> None:
    url = shared_sqs().url()
    app = AioTQ("sqs", broker=url, ledger=f"sqlite:///{tmp_path}/ledger.db")

    @app.task
    async def double(x: int) -> int:
        return 2 * x

    async with app, app.worker():
        assert await (await double.delay(4)).get(timeout=PATIENCE) == 8

    with pytest.raises(InvalidSetting, match="this is a broker only"):
        async with AioTQ("sqs", broker=url):
            pass


async def test_a_network_that_cuts_swallows_and_is_silent_loses_nothing_and_nothing_runs_twice(tmp_path: Path) -> None:
    server = shared_sqs()
    with Proxy(server.port) as proxy:
        url = server.url("reply_timeout=1.5", port=proxy.port)
        app = AioTQ("sqs", broker=url, backend=f"sqlite:///{tmp_path}/results.db", worker_lease=3.0)
        ran: list[int] = []

        @app.task
        async def note(number: int) -> int:
            ran.append(number)
            return number

        async with app, app.worker():
            assert await (await note.delay(0)).get(timeout=PATIENCE) == 0
            for number, harm in enumerate((proxy.cut, proxy.swallow_replies, proxy.black_hole), 1):
                harm()
                sending = asyncio.ensure_future(note.delay(number))
                await asyncio.sleep(0.3)
                proxy.restore()
                assert await (await sending).get(timeout=PATIENCE) == number

    assert sorted(ran) == [0, 1, 2, 3]


async def test_a_role_is_assumed_and_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", shared_sqs().endpoint)  # of the service that gives roles, too
    url = shared_sqs().url("role=arn:aws:iam::123456789012:role/workers")
    async with connected(url) as broker:
        await broker.send([envelope("a")])
        assert (await broker.stats())[0].ready == 1

    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with pytest.raises(OperationalError, match=r"Name one: \?region=eu-west-1"):
        async with connected("sqs://"):
            pass
    with pytest.raises(OperationalError, match="profile"):
        async with connected("sqs://?region=eu-west-1&profile=nobody"):
            pass
    async with connected("sqs://?region=eu-west-1") as broker:
        with pytest.raises(OperationalError, match="What there may be: a role, a profile"):
            await broker.send([envelope("a")])
    async with connected("sqs://a:b@?region=eu-west-1&endpoint=http://127.0.0.1:9") as broker:
        with pytest.raises(ConnectionLost):
            await broker.send([envelope("a")])
