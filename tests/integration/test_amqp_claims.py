"""Deaths where RabbitMQ can't count them: claims do, and a poison message is found among innocent ones (P5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiotq.commit import Finish
from aiotq.testing.contracts.broker_harness import envelope, ids
from aiotq.testing.contracts.harness import PATIENCE
from aiotq.transport import Delivery, GiveUp, HandBack

from ..contract.commit_contract import record
from ..contract.harness import AmqpTransportHarness, CommitHarness, RedisKeptHarness, Worker


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[CommitHarness]:
    broker = AmqpTransportHarness(tmp_path)
    async with CommitHarness(broker, RedisKeptHarness()) as pair:
        yield pair


async def taken(worker: Worker, *wanted: str) -> list[Delivery]:
    """Admit until `worker` has `wanted`, and nothing else."""
    found: list[Delivery] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < len(wanted):
            found += await worker.admitted(wait=0.2)
    assert sorted(ids(found)) == sorted(wanted)
    return found


async def died_with(pair: CommitHarness, name: str, *wanted: str) -> None:
    """Let a worker take `wanted` and be killed."""
    doomed = await pair.worker(name)
    await taken(doomed, *wanted)
    await pair.broker.reclaimed(doomed.consumer, len(wanted))


async def test_a_poison_message_is_found_and_its_neighbours_are_never_charged(pair: CommitHarness) -> None:
    sender = await pair.worker("sender", "unused")
    await sender.transport.send([envelope("poison"), envelope("innocent")])
    await died_with(pair, "first", "poison", "innocent")
    await died_with(pair, "second", "poison", "innocent")
    worker = await pair.worker("third")

    found: list[Delivery] = []
    while not found:
        found = await worker.admitted(wait=0.2)
    assert len(found) == 1, "one suspect at a time"
    assert not await worker.admitted(suspect=False, wait=1.5)
    while found[0].message.id != "innocent":
        assert (found[0].deaths, found[0].charges) == (2, 0)
        await worker.committer.commit([Finish(found[0], HandBack(0.5))])
        found = await worker.admitted(wait=PATIENCE)
    (innocent,) = found
    assert (innocent.deaths, innocent.charges, innocent.is_suspect) == (2, 0, True)
    await worker.committer.commit([Finish(innocent, record=record(pair, "innocent"))])

    await sender.transport.send([envelope("neighbour")])
    await died_with(pair, "fourth", "poison", "neighbour")
    await died_with(pair, "fifth", "poison", "neighbour")
    charged = {each.message.id: each for each in await one_by_one(pair, "poison", "neighbour")}

    assert (charged["poison"].deaths, charged["poison"].charges) == (4, 2)
    assert (charged["neighbour"].deaths, charged["neighbour"].charges) == (2, 0)


async def one_by_one(pair: CommitHarness, *wanted: str) -> list[Delivery]:
    """Take suspects as they come and finish each; return them."""
    worker = await pair.worker("last")
    found: list[Delivery] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < len(wanted):
            for delivery in await worker.admitted(wait=0.2):
                found.append(delivery)
                await worker.committer.commit([Finish(delivery, GiveUp("poison"))])
    assert sorted(ids(found)) == sorted(wanted)
    return found


async def test_a_worker_that_was_only_cut_off_is_charged_with_nothing(pair: CommitHarness) -> None:
    one, other = await pair.worker("one"), await pair.worker("other")
    await one.transport.send([envelope("a")])
    (held,) = await taken(one, "a")
    await pair.broker.reclaimed(other.consumer, 1)
    (elsewhere,) = await taken(other, "a")
    assert elsewhere.deaths == 1

    assert list(await asyncio.to_thread(one.committer.renew, [held])) == [held]

    await other.committer.commit([Finish(elsewhere, HandBack())])
    (again,) = await taken(other, "a")
    assert again.deaths == 0
