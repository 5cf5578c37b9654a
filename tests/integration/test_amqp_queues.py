"""What queues are declared as, whatever the version of the server and the defaults of its virtual hosts."""

from __future__ import annotations

import asyncio

import pytest

from aiotq.backends.amqp.address import parse
from aiotq.backends.amqp.connection import AmqpClient, KeptChannel
from aiotq.backends.amqp.topology import Topology

from ..servers import shared_rabbit
from ..waiting import wait_until
from .amqp_work import Work, publish, vhost_of

#: How often RabbitMQ 4 lets a message of a quorum queue come back, if nobody says otherwise.
RABBITS_LIMIT = 20


@pytest.fixture
def vhost() -> str:
    return shared_rabbit().vhost()


def types(vhost: str) -> dict[str, str]:
    """The queues of a virtual host, with the type that each was declared with; empty: none."""
    queues = f'rabbit_amqqueue:list(<<"{vhost_of(vhost)}">>)'
    of = '[V || {<<"x-queue-type">>, _, V} <- amqqueue:get_arguments(Q)]'
    written = shared_rabbit().eval(
        f'lists:flatten([io_lib:format("~s ~s~n", [element(4, amqqueue:get_name(Q)), {of}]) || Q <- {queues}])'
    )
    lines = written.strip('"[]').replace("\\n", "\n").split("\n")
    return {name: kind for name, _, kind in (line.rpartition(" ") for line in lines if line)}


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_each_queue_is_declared_with_its_type(vhost: str, kind: str) -> None:
    """Or it would be whatever the virtual host has for a default."""
    work = Work(vhost, backend="rpc://", amqp_queue_type=kind)
    async with work.app, work.app.worker():
        await work.works()
        await work.double.apply_async((1,), countdown=0.5)
        found = types(vhost)

    lasting = {name: of for name, of in found.items() if not name.startswith(("aiotq.bus.", "aiotq.reply."))}
    assert {"default", "default:9", "aiotq.dead", "aiotq.delay.128ms"} <= lasting.keys()
    assert set(lasting.values()) == {kind}
    assert {of for name, of in found.items() if name.startswith("aiotq.reply.")} == {"classic"}


@pytest.mark.parametrize(("kind", "kind_said"), [("classic", {}), ("quorum", {"x-queue-type": "quorum"})])
async def test_a_queue_that_was_declared_without_its_type_or_limit_is_used(
    vhost: str, kind: str, kind_said: dict[str, str]
) -> None:
    """By somebody else, or before the server became RabbitMQ 4."""
    work = Work(vhost, amqp_queue_type=kind)
    async with AmqpClient(parse(vhost), "another") as client:
        channel = await KeptChannel(client).channel()
        await channel.declare_queue("default", {**kind_said, "x-dead-letter-exchange": "aiotq.dead"})

    async with work.app, work.app.worker():
        await work.works()


async def test_what_is_looked_for_and_is_not_there_disturbs_nobody(vhost: str) -> None:
    """The server closes the channel on which it was looked for: a worker that started then did not, for a look."""
    async with AmqpClient(parse(vhost), "looks") as client:
        topology = Topology(client, "classic", 60.0)
        await topology.queues(["there"])

        found = await asyncio.gather(
            *(topology.ready(name) for name in ("nowhere", "there", "elsewhere", "there")),
            *(topology.queues([f"declared-{number}"]) for number in range(5)),
            *(topology.purge(name) for name in ("nowhere", "there")),
        )

    assert found == [None, 0, None, 0, *[None] * 5, 0, 0]


async def test_messages_and_dead_letters_may_come_back_as_often_as_they_do(vhost: str) -> None:
    work = Work(vhost, amqp_queue_type="quorum")
    async with work.app:
        await work.double.delay(1)
        async with AmqpClient(parse(vhost), "another") as client:
            channel = await KeptChannel(client, confirms=True).channel()
            for _ in range(RABBITS_LIMIT + 5):
                arrival = await channel.get("default")
                assert arrival is not None
                channel.give_back([arrival.tag])
        async with work.app.worker():
            await wait_until(lambda: work.began[1] == 1, "it runs")
        assert not await work.app.admin.dead_letters()

        await publish(vhost, "default", b"junk")
        async with work.app.worker():
            await wait_until(work.app.admin.dead_letters, "it is a dead letter")
        for _ in range(RABBITS_LIMIT + 5):
            (letter,) = await work.app.admin.dead_letters()
            assert letter.raw == b"junk"
