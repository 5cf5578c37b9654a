"""P1, P2, P4, P7 on Redis when what fails is the server or the way to it, and processes have to help themselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from aiotq import AsyncResult

from ..proxy import Proxy
from ..waiting import wait_until
from . import apps
from .asking import all_is_answered, asking, has_swallowed
from .backends import ON_REDIS, Redis
from .harness import PATIENCE, SLACK, Chaos, Outage

pytestmark = ON_REDIS

#: Seconds; of workers that are cut off until their leases have ended.
BRIEF_LEASE: Final = 4.0


@asynccontextmanager
async def outage(chaos: Chaos, proxy: Proxy, backend: Redis) -> AsyncGenerator[None]:
    """Kill the server; on leaving it is there again."""
    began = time.time()
    await asyncio.to_thread(backend.server.kill)
    proxy.refuse()
    yield
    await asyncio.to_thread(backend.server.start)
    standing = chaos.standing()  # before anybody else comes
    proxy.restore()
    chaos.outages.append(Outage(began, time.time(), standing))


async def test_a_server_that_is_killed_and_comes_back_loses_nothing_and_repeats_nothing(
    chaos: Chaos, backend: Redis
) -> None:
    """It comes back within the lease: what was under way is settled, and no task runs twice."""
    for _ in range(2):
        await chaos.worker()
    client = asking(chaos, backend.url)

    for _ in range(5):
        await chaos.sees("answered", count=len(chaos.seen("answered")) + chaos.random.randrange(50, 150))
        await asyncio.to_thread(backend.server.kill)
        await asyncio.to_thread(backend.server.start)
    await chaos.sees("answered", count=len(chaos.seen("answered")) + 100)

    accepted = await all_is_answered(chaos, client)
    assert chaos.starts() == dict.fromkeys(accepted, 1)


async def test_a_server_that_is_away_beyond_the_lease_repeats_only_what_ran(chaos: Chaos, backend: Redis) -> None:
    with Proxy(backend.server.port) as proxy:
        workers = [await chaos.worker(broker_url=proxy.url, worker_lease=BRIEF_LEASE) for _ in range(2)]
        client = asking(chaos, proxy.url)
        await chaos.sees("answered", count=200)

        async with outage(chaos, proxy, backend):
            await asyncio.sleep(1.3 * BRIEF_LEASE)  # the length of the outage is the thing under test
        over = chaos.outages[-1].over

        await chaos.sees("answered", count=len(chaos.seen("answered")) + 200)
        assert [worker.exit_code for worker in workers] == [None, None]
        assert min(fact.time for fact in chaos.seen("start") if fact.time > over) < over + BRIEF_LEASE + 2 + SLACK
        await all_is_answered(chaos, client)
    chaos.only_what_an_outage_caught_runs_again()


async def test_what_waits_for_its_time_is_there_when_the_server_is_back(chaos: Chaos, backend: Redis) -> None:
    await chaos.worker()
    async with chaos.client:
        results = [await chaos.send(apps.step, 0.0, countdown=0.5 + n % 20 / 10) for n in range(100)]
        await chaos.sees("end", count=20)

        await asyncio.to_thread(backend.server.kill)
        await asyncio.to_thread(backend.server.start)

        assert all([await result.get(timeout=PATIENCE) for result in results])
    assert chaos.starts() == {result.id: 1 for result in results}
    assert not [fact for fact in chaos.seen("start") if fact.time < fact.detail]


async def test_connections_that_are_cut_again_and_again_lose_nothing_and_repeat_nothing(
    chaos: Chaos, backend: Redis
) -> None:
    """By the server and on the way, those for requests and those for pushes."""
    with Proxy(backend.server.port) as proxy:
        workers = [await chaos.worker(broker_url=proxy.url) for _ in range(2)]
        client = asking(chaos, proxy.url)

        for cut in range(6):
            await chaos.sees("answered", count=len(chaos.seen("answered")) + chaos.random.randrange(50, 150))
            match cut % 3:
                case 0:
                    for kind in ("normal", "pubsub"):
                        backend.ask("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
                case 1:
                    proxy.cut()
                case _:  # what was asked last is done, and nobody hears of it
                    before = proxy.swallowed
                    proxy.swallow_replies()
                    await wait_until(partial(has_swallowed, proxy, before), "replies were lost", PATIENCE)
                    proxy.refuse()
                    proxy.restore()
        await chaos.sees("answered", count=len(chaos.seen("answered")) + 100)

        accepted = await all_is_answered(chaos, client)
        assert [worker.exit_code for worker in workers] == [None, None]
    assert chaos.starts() == dict.fromkeys(accepted, 1)


async def test_work_goes_on_beside_a_worker_in_a_black_hole_and_in_it_when_it_ends(
    chaos: Chaos, backend: Redis
) -> None:
    """10 s in which nothing arrives and nothing is refused, for one worker and the client."""
    with Proxy(backend.server.port) as proxy:
        await chaos.worker()
        caught = await chaos.worker(broker_url=proxy.url, worker_lease=BRIEF_LEASE)
        client = asking(chaos, proxy.url)
        await chaos.sees("answered", count=100)
        async with chaos.client:
            gate = chaos.directory / "gate"
            running: list[AsyncResult[int]] = [await chaos.send(apps.wait_at, str(gate)) for _ in range(30)]
            for result in running:
                await chaos.sees("start", result.id)

            proxy.black_hole()
            began, standing = time.time(), chaos.standing()
            beside = await chaos.send(apps.step, 0.0)
            assert await beside.get(timeout=PATIENCE)
            gate.touch()
            assert all([await result.get(timeout=PATIENCE) for result in running])
            await asyncio.sleep(began + 10 - time.time())  # the length of the hole is the thing under test
            proxy.restore()
            over = time.time()
            chaos.outages.append(Outage(began, over, standing))

            await chaos.when(
                lambda _: any(fact.worker == caught.pid and fact.time > over for fact in chaos.seen("start")),
                "the worker in the hole works again",
            )
            assert time.time() < over + BRIEF_LEASE + 2 + SLACK
            await chaos.sees("answered", count=len(chaos.seen("answered")) + 200)
            await all_is_answered(chaos, client, beside.id, *(result.id for result in running))
    chaos.only_what_an_outage_caught_runs_again()
