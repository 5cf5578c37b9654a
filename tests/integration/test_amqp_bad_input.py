"""What foreign programs and operators do to queues in RabbitMQ: the worker goes on, and says what it was (P5)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from aiotq.backends.amqp import topology
from aiotq.backends.amqp.address import parse
from aiotq.backends.amqp.channel import Channel
from aiotq.backends.amqp.connection import AmqpClient, KeptChannel
from aiotq.backends.amqp.frames import Post
from aiotq.backends.amqp.properties import pack_properties
from aiotq.exceptions import InvalidOption, OperationalError

from ..servers import shared_rabbit
from ..waiting import wait_until
from .amqp_work import Work, publish, vhost_of


@pytest.fixture
def vhost() -> str:
    return shared_rabbit().vhost()


@asynccontextmanager
async def operator(url: str) -> AsyncGenerator[Channel]:
    async with AmqpClient(parse(url), "operator") as client:
        yield await KeptChannel(client, confirms=True).channel()


JSON = {"content_type": "application/json", "content_encoding": "utf-8"}
CALL = b"[[1], {}, {}]"
CALLED = {"task": "x.double", "id": "called"}


@pytest.mark.parametrize(
    ("body", "properties", "reason"),
    [
        (b"", {}, "malformed"),
        (b'{"some": "event"}', JSON, "malformed"),
        (CALL, JSON, "malformed"),
        (CALL, {**JSON, "headers": {"task": "x.double"}}, "malformed"),
        (CALL, {**JSON, "headers": {"task": "x.double", "id": "a\nb"}}, "malformed"),
        (b"\x80\x04.", {"content_type": "application/x-python-serialize", "headers": CALLED}, None),
        (b"<call/>", {"content_type": "text/xml", "headers": CALLED}, None),
        (b"[" * 5_000_000, {**JSON, "headers": CALLED}, None),
    ],
)  # fmt: skip
async def test_foreign_messages_become_dead_letters_with_the_reason(
    vhost: str, body: bytes, properties: dict[str, Any], reason: str | None
) -> None:
    work = Work(vhost)
    async with work.app, work.app.worker():
        await publish(vhost, "default", body, **properties)
        (letter,) = await wait_until(work.app.admin.dead_letters, "it is a dead letter")
        await work.works()

        assert letter.queue == "default"
        assert letter.reason == reason or reason is None
        assert letter.detail or reason is None
        if letter.message is None:
            assert letter.raw == body
            assert await work.app.admin.replay([letter.key]) == 0
    assert not work.began.keys() - {21}


async def test_calls_of_celerys_protocols_run(vhost: str) -> None:
    work = Work(vhost)
    async with work.app, work.app.worker():
        first = {"id": "one", "task": "x.double", "args": [1], "kwargs": {}}
        await publish(vhost, "default", orjson.dumps(first), **JSON)
        await publish(
            vhost, "default", b"[[2], {}, {}]", headers={"task": "x.double", "id": "two", "lang": "py"}, **JSON
        )
        await wait_until(lambda: work.began.keys() == {1, 2}, "both ran")


async def test_a_queue_that_exists_with_other_arguments_is_named_with_what_differs(vhost: str) -> None:
    async with operator(vhost) as channel:
        await channel.declare_queue("default", {"x-max-length": 5})
    work = Work(vhost)

    async with work.app:
        with pytest.raises(OperationalError, match=r"queue 'default' exists and differs.*x-") as refused:
            await work.double.delay(1)
        assert "Delete it when it is empty" in str(refused.value)
        with pytest.raises(OperationalError, match="queue 'default' exists and differs"):
            async with work.app.worker():
                pytest.fail("the worker started")


async def test_a_queue_deleted_under_a_worker_is_declared_again(vhost: str) -> None:
    work = Work(vhost)
    async with work.app, work.app.worker():
        await work.works()
        async with operator(vhost) as channel:
            await channel.delete_queue("default")
        await work.works()


async def test_a_user_without_rights_is_told_so(vhost: str) -> None:
    server = shared_rabbit()
    server.add_user("reader", "pw", vhost_of(vhost), "^$", "^$", ".*")
    work = Work(f"amqp://reader:pw@127.0.0.1:{server.port}/{vhost_of(vhost)}")

    async with work.app:
        with pytest.raises(OperationalError, match="not allowed to do this"):
            await work.double.delay(1)


async def test_names_that_are_ours_are_not_to_be_used_for_queues(vhost: str) -> None:
    work = Work(vhost)
    async with work.app:
        with pytest.raises(InvalidOption, match="not to be used"):
            await work.double.options(queue="aiotq.dead").delay(1)
        with pytest.raises(InvalidOption, match="at most"):
            await work.double.options(queue="q" * 255).delay(1)


async def test_those_who_look_at_dead_letters_at_the_same_time_see_all_of_them(vhost: str) -> None:
    works = [Work(vhost) for _ in range(3)]
    async with works[0].app, works[1].app, works[2].app:
        async with works[0].app.worker():
            for _ in range(5):
                await publish(vhost, "default", b"junk")

            async def five() -> bool:
                return len(await works[0].app.admin.dead_letters()) == 5

            await wait_until(five, "all are dead letters")

        seen = await asyncio.gather(*(work.app.admin.dead_letters() for work in works))

        assert [len(letters) for letters in seen] == [5, 5, 5]
        assert await works[1].app.admin.purge_dead() == 5
        assert not await works[2].app.admin.dead_letters()


async def test_headers_that_rabbitmq_made_larger_than_a_frame_are_buried_and_cut_nobody_off(vhost: str) -> None:
    """It adds x-death without looking; in the dead letters' queue as well."""
    work = Work(vhost)
    async with work.app, work.app.worker():
        await work.works()
        async with operator(vhost) as channel:
            leads_to = {"x-dead-letter-exchange": "", "x-message-ttl": 1}
            for source, target in (("one", "default"), ("other", "aiotq.dead")):
                await channel.declare_queue(source, {**leads_to, "x-dead-letter-routing-key": target})
                for text in (130_500, 130_850):
                    headers = {**CALLED, "padding": "x" * text}
                    await publish(vhost, source, CALL, **JSON, headers=headers)

        async def four() -> bool:
            return len(await work.app.admin.dead_letters()) == 4 - work.began[1]

        await wait_until(four, "what can't be carried is buried")
        await work.works()
        reasons = {letter.reason for letter in await work.app.admin.dead_letters()}
        assert reasons <= {"malformed", "expired"}
        assert "malformed" in reasons
        assert await work.app.admin.purge_dead()
    left = shared_rabbit().queues(vhost_of(vhost))
    assert (left["default"], left["aiotq.dead"]) == (0, 0)


async def test_dead_letters_that_rabbitmq_made_keep_their_key_and_are_as_old_as_they_are(vhost: str) -> None:
    work = Work(vhost, amqp_queue_type="quorum")
    async with work.app:
        await work.double.delay(5)  # declares all
        async with operator(vhost) as channel:
            await channel.purge_queue("default")
            properties = pack_properties(message_id="1", headers=CALLED, **JSON)
            await channel.publish([Post("aiotq.dead", "default", properties, CALL)])

        keys = [[letter.key for letter in await work.app.admin.dead_letters()] for _ in range(3)]
        assert keys[0] == keys[1] == keys[2] != []
        assert await work.app.admin.purge_dead(older_than=60) == 0
        async with work.app.worker():
            assert await work.app.admin.replay(keys[0]) == 1
            await wait_until(lambda: work.began[1] == 1, "it ran")


async def test_a_dead_letter_that_expired_in_rabbitmq_is_as_old_as_it_says_and_keeps_its_key(vhost: str) -> None:
    work = Work(vhost, amqp_queue_type="quorum")
    async with work.app:
        await work.double.delay(5)  # declares all
        async with operator(vhost) as channel:
            await channel.purge_queue("default")
        began = time.time()
        await publish(vhost, "default", CALL, **JSON, headers=CALLED, expiration="1")
        letters = [(await wait_until(work.app.admin.dead_letters, "it is a dead letter"))[0] for _ in range(3)]

        assert {letter.reason for letter in letters} == {"expired"}
        assert len({(letter.key, letter.died_at) for letter in letters}) == 1
        assert began - 1 <= letters[0].died_at <= time.time()
        assert await work.app.admin.purge_dead(older_than=60) == 0
        async with work.app.worker():
            assert await work.app.admin.replay([letters[0].key]) == 1
            await wait_until(lambda: work.began[1] == 1, "it ran")


async def test_a_delay_queue_that_was_deleted_is_declared_again(
    vhost: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(topology, "_TRUSTED", 0.0)
    work = Work(vhost)
    async with work.app, work.app.worker():
        await (await work.double.apply_async((1,), countdown=0.4)).get(timeout=10)
        async with operator(vhost) as channel:
            for milliseconds in (128, 256, 384):
                await channel.delete_queue(f"aiotq.delay.{milliseconds}ms")

        assert await (await work.double.apply_async((2,), countdown=0.4)).get(timeout=10) == 4
    assert "was deleted, what was delayed in it is gone: declaring it again" in caplog.text
