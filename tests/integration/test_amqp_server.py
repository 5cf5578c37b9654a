"""A RabbitMQ of the tests' own, which is killed, raises alarms, wants certificates, and is impatient."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiotq.backends.amqp.address import parse
from aiotq.backends.amqp.connection import AmqpClient, KeptChannel
from aiotq.backends.amqp.frames import Post
from aiotq.backends.amqp.messages import outgoing
from aiotq.backends.amqp.properties import pack_properties
from aiotq.core.inside import core_of
from aiotq.exceptions import NotConnected, OperationalError, PublishTimeout, Refused
from aiotq.wire.message import Message, new_id

from ..certificates import make_certificates
from ..servers import RabbitServer
from ..waiting import wait_until
from .amqp_work import Work, vhost_of
from .rpc_work import process, put, record

#: Seconds after which the server closes the channel of who holds a message.
CONSUMER_TIMEOUT = 2
#: Seconds, once or twice, after which the server hands on again what the next queue did not confirm: 180 if not set.
HANDED_ON_AGAIN = 3


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(certificates: Path) -> Iterator[RabbitServer]:
    impatient = {
        "consumer_timeout": CONSUMER_TIMEOUT * 1000,
        "channel_tick_interval": 200,
        "dead_letter_worker_publisher_confirm_timeout": HANDED_ON_AGAIN * 1000,
    }
    with RabbitServer(rabbit=impatient, certificates=certificates, clients_need_one=True) as server:
        yield server


async def test_a_task_longer_than_the_consumer_timeout_runs_once_and_nothing_is_closed(
    server: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(server.vhost(), amqp_queue_type="quorum", amqp_park_after=0.5, worker_lease=1.0)
    async with work.app, work.app.worker():
        result = await work.hold.delay(1)
        await wait_until(lambda: bool(work.began), "it runs")
        await asyncio.sleep(2.5 * CONSUMER_TIMEOUT)
        work.gate.set()
        assert await result.get(timeout=10) == 2

        async def is_empty() -> bool:
            return not await work.app.admin.queues()

        await wait_until(is_empty, "its copies are gone")
    assert work.began == {1: 1}
    assert "connecting again" not in caplog.text
    assert "PRECONDITION_FAILED" not in server.log.read_text()


async def test_thousands_of_delays_are_kept_by_a_constant_number_of_queues_and_none_is_early(
    server: RabbitServer,
) -> None:
    vhost = server.vhost()
    work = Work(vhost, amqp_queue_type="quorum")
    came: dict[int, float] = {}

    @work.app.task(name="x.note")
    async def note(number: int) -> None:
        came[number] = time.time()

    async with work.app:
        await note.apply_async((-1,), countdown=2.0)

        def ladder() -> set[str]:
            return {name for name in server.queues(vhost_of(vhost)) if name.startswith("aiotq.")}

        queues = ladder()
        due: dict[int, float] = {}

        async def later(number: int) -> None:
            countdown = 0.001 + number % 1000 / 500
            due[number] = time.time() + countdown
            await note.apply_async((number,), countdown=countdown)

        await asyncio.gather(*(later(number) for number in range(2000)))
        async with work.app.worker():
            await wait_until(lambda: len(came) == 2001, "all came", timeout=20)

        assert ladder() == queues
        assert min(came[number] - due[number] for number in due) >= 0


async def test_what_is_due_in_years_waits(server: RabbitServer) -> None:
    work = Work(server.vhost())
    async with work.app, work.app.worker():
        await work.double.apply_async((1,), countdown=20 * 365 * 86_400)
        await work.works()
        (stats,) = await work.app.admin.queues()

    assert (stats.name, stats.delayed) == ("aiotq.delay", 1)
    assert not work.began[1]


async def test_what_becomes_due_for_a_queue_that_is_gone_is_a_dead_letter_and_blocks_nobody(
    server: RabbitServer,
) -> None:
    vhost = server.vhost()
    work = Work(vhost)
    async with work.app:
        await work.double.apply_async((1,), countdown=1.5, queue="gone")
        async with AmqpClient(parse(vhost), "operator") as client:
            await (await KeptChannel(client).channel()).delete_queue("gone")
        await work.double.apply_async((2,), countdown=1.6)

        (letter,) = await wait_until(work.app.admin.dead_letters, "it is a dead letter")
        assert (letter.queue, letter.reason) == ("gone", "unroutable")
        async with work.app.worker(queues=["default", "gone"]):
            assert await work.app.admin.replay([letter.key]) == 1
            await wait_until(lambda: work.began.keys() == {1, 2}, "both ran")


async def test_what_the_ladder_of_an_older_version_holds_still_arrives(server: RabbitServer) -> None:
    """A level of it as that version declared it: a queue, and the exchange by which one enters it."""
    vhost = server.vhost()
    work = Work(vhost)
    due = time.time() + 1.0
    old = outgoing(Message(new_id(), work.double.name, b"[[1],{},{}]"), "default", 4, due, due - 1.0)
    async with work.app:
        await work.double.apply_async((2,), countdown=1.0)
        async with AmqpClient(parse(vhost), "older") as client:
            lane = KeptChannel(client, confirms=True)
            kept = {"x-message-ttl": 2**9, "x-dead-letter-exchange": "aiotq.deliver"}
            channel = await lane.channel()
            await channel.declare_exchange("aiotq.delay.9", "topic")
            await channel.declare_queue("aiotq.delay.9", kept)
            await channel.bind_queue("aiotq.delay.9", "aiotq.delay.9", "*.1")
            post = Post("aiotq.delay.9", "0.1", pack_properties(message_id="1", **old.properties), old.body)
            assert not (await channel.publish([post])).returned

        async with work.app.worker():
            await wait_until(lambda: work.began.keys() == {1, 2}, "both ran")
    assert time.time() >= due


async def test_tls_is_spoken_and_wrong_authorities_are_refused(server: RabbitServer, certificates: Path) -> None:
    ours = f"ssl_certfile={certificates}/client.pem&ssl_keyfile={certificates}/client.key"
    url = f"{server.vhost(tls=True)}?ssl_ca_certs={certificates}"
    work = Work(f"{url}/ca.pem&{ours}")
    async with work.app, work.app.worker():
        await work.works()

    with pytest.raises(NotConnected, match="certificate"):
        await core_of(Work(f"{url}/another_ca.pem&{ours}").app).connection()
    with pytest.raises(NotConnected, match="ssl_certfile"):
        await core_of(Work(f"{url}/ca.pem").app).connection()
    with pytest.raises(OperationalError, match="can't be used"):
        await Work(f"{url}/missing.pem").double.delay(1)


async def test_an_alarm_is_named_to_callers_and_they_go_on_when_it_is_over(server: RabbitServer) -> None:
    work = Work(server.vhost(), task_publish_timeout=1.0)
    async with work.app, work.app.worker():
        await work.works()
        server.set_alarm()
        try:
            async with asyncio.timeout(20):  # the server tells its connections one after the other
                with pytest.raises(PublishTimeout, match="accepts nothing"):
                    while True:
                        await work.double.delay(1)
            with pytest.raises(PublishTimeout, match="accepts nothing") as refused:
                await work.double.delay(2)
            assert not refused.value.maybe_sent
        finally:
            server.set_alarm(False)
        await work.works()
        assert not work.began[2]


async def test_in_an_alarm_nothing_is_asked_or_opened(server: RabbitServer) -> None:
    """The server would answer when the alarm is over."""
    async with AmqpClient(parse(server.vhost()), "test") as client:
        wire = await client.wire()
        channel = await wire.channel(confirms=True)
        await channel.declare_queue("q")
        server.set_alarm()
        try:
            async with asyncio.timeout(20):
                with pytest.raises(NotConnected, match="accepts nothing"):
                    while True:
                        await channel.publish([Post("", "q", pack_properties(message_id="1"), b"")])
            async with asyncio.timeout(1):
                for asked in (channel.count("q"), wire.channel()):
                    with pytest.raises(NotConnected, match="accepts nothing"):
                        await asked
        finally:
            server.set_alarm(False)
        await wait_until(lambda: wire.blocked is None, "it is over")
        await channel.count("q")


async def test_a_killed_server_loses_nothing_and_what_ran_ran_once(server: RabbitServer) -> None:
    """Results that are sent come as well."""
    vhost = server.vhost()
    work = Work(vhost, amqp_queue_type="quorum", task_publish_timeout=60.0, worker_lease=15.0)
    async with work.app, work.app.worker(), process(vhost) as caller, process(vhost) as other:
        held = [await work.hold.delay(1000 + x) for x in range(3)]
        await wait_until(lambda: len(work.began) == 3, "they run")
        await work.double.apply_async((499,), countdown=3.0)
        await asyncio.sleep(1.5)  # RabbitMQ 3.10 forgets a quorum queue that was new when it was killed (tried)
        await work.double.apply_async((500,), countdown=3.0)
        results = [await work.double.delay(x) for x in range(50)]
        await asyncio.to_thread(server.kill)
        async with asyncio.TaskGroup() as group:
            group.create_task(put(other.records, [record("sent", caller.records.address)]))
            await asyncio.to_thread(server.start)
        results += [await work.double.delay(x) for x in range(50, 60)]
        work.gate.set()

        assert [await result.get(timeout=40) for result in results] == [2 * x for x in range(60)]
        assert [await result.get(timeout=40) for result in held] == [2 * (1000 + x) for x in range(3)]
        await wait_until(lambda: work.began[499] == work.began[500] == 1, "the delayed ones came", timeout=20)
        await wait_until(lambda: caller.states() == [("sent", "SUCCESS")], "what was sent came", timeout=40)
    assert {x: count for x, count in work.began.items() if count != 1} == {}


async def test_a_server_that_is_killed_while_messages_climb_down_the_ladder_loses_none(server: RabbitServer) -> None:
    """Those that were between two queues come when the server's own patience ends, twice at most."""
    work = Work(server.vhost(), amqp_queue_type="quorum", task_publish_timeout=60.0, worker_lease=15.0)
    async with work.app, work.app.worker():
        await work.double.options(countdown=3600.0).delay(-1)
        await asyncio.sleep(1.5)  # RabbitMQ 3.10 forgets a quorum queue that was new when it was killed (tried)
        await work.app.send_many(work.double.options(countdown=1.5 + x / 200).s(x) for x in range(1000))
        await wait_until(lambda: len(work.began) > 100, "the first have come")
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await wait_until(lambda: len(work.began) == 1000, "all came", timeout=60)
        assert not await work.app.admin.dead_letters()  # bindings come back after queues: no reason to bury anything

    assert set(work.began.values()) == {1}


async def test_what_goes_nowhere_while_a_server_starts_waits_until_a_client_is_back(server: RabbitServer) -> None:
    """A server that starts brings queues back before their bindings: here the binding is gone, and the client too."""
    vhost = server.vhost()
    work = Work(vhost, amqp_queue_type="quorum")
    async with work.app:
        await work.double.apply_async((0,), countdown=3600.0)  # declares all
        async with AmqpClient(parse(vhost), "operator") as client:
            exchange = f'rabbit_misc:r(<<"{vhost_of(vhost)}">>, exchange, <<"aiotq.unroutable">>)'
            server.eval(f'rabbit_exchange:delete({exchange}, false, <<"test">>)')  # as every start does
            channel = await KeptChannel(client).channel()
            await channel.delete_queue("default")
            await work.double.apply_async((1,), countdown=0.4)
            await asyncio.sleep(1.0)  # it goes nowhere: the thing under test
            assert await channel.count("aiotq.dead") == 0
    work = Work(vhost, amqp_queue_type="quorum")
    async with work.app, work.app.worker():
        await wait_until(lambda: work.began[1] == 1, "it runs", timeout=2 * HANDED_ON_AGAIN + 5)


async def test_what_the_next_queue_refuses_waits_on_the_ladder_and_comes_when_the_server_tries_again(
    server: RabbitServer,
) -> None:
    vhost = server.vhost()
    work = Work(vhost, amqp_queue_type="quorum")
    async with work.app:
        await work.double.apply_async((1,), countdown=0.4)  # declares all
        server.set_policy(
            vhost_of(vhost), "^default$", '{<<"max-length">>, 1}', '{<<"overflow">>, <<"reject-publish">>}'
        )
        with pytest.raises((Refused, PublishTimeout), match="a limit of that queue"):
            for x in range(10, 20):
                await work.double.options(publish_timeout=0.5).delay(x)
        waiting = server.queues(vhost_of(vhost))["default"]
        await work.double.apply_async((2,), countdown=0.4)
        await asyncio.sleep(1.0)  # nothing comes: the thing under test
        assert server.queues(vhost_of(vhost))["default"] == waiting

        async with work.app.worker():
            await wait_until(lambda: work.began[2] == 1, "it runs", timeout=2 * HANDED_ON_AGAIN + 5)
