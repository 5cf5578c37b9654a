"""P1, P2, P4, P7 on PostgreSQL when what fails is the server or the way to it."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Final

from aiotq import AsyncResult

from ..proxy import Proxy
from ..waiting import wait_until
from . import apps
from .asking import all_is_answered, asking, has_swallowed
from .backends import ON_OWN_POSTGRES, OwnPostgres
from .harness import PATIENCE, Chaos, Outage

pytestmark = ON_OWN_POSTGRES

#: Seconds; of a worker that is cut off until its lease has ended.
BRIEF_LEASE: Final = 4.0


async def test_a_server_that_is_killed_and_comes_back_loses_nothing_and_repeats_nothing(
    chaos: Chaos, backend: OwnPostgres
) -> None:
    """It comes back within the lease: what was under way is settled, and no task runs twice."""
    for _ in range(2):
        await chaos.worker()
    client = asking(chaos, backend.url)

    for _ in range(3):
        await chaos.sees("answered", count=len(chaos.seen("answered")) + chaos.random.randrange(50, 150))
        await asyncio.to_thread(backend.server.kill)
        await asyncio.to_thread(backend.server.start)
    await chaos.sees("answered", count=len(chaos.seen("answered")) + 100)

    accepted = await all_is_answered(chaos, client)
    assert chaos.starts() == dict.fromkeys(accepted, 1)


async def test_what_waits_for_its_time_is_there_when_the_server_is_back(chaos: Chaos, backend: OwnPostgres) -> None:
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
    chaos: Chaos, backend: OwnPostgres
) -> None:
    """By the server and on the way, with replies that are lost."""
    with Proxy(backend.server.port) as proxy:
        url = backend.url.replace(str(backend.server.port), str(proxy.port))
        workers = [await chaos.worker(broker_url=url) for _ in range(2)]
        client = asking(chaos, url)

        for cut in range(6):
            await chaos.sees("answered", count=len(chaos.seen("answered")) + chaos.random.randrange(50, 150))
            match cut % 3:
                case 0:
                    backend.server.ask(
                        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'aiotq'"
                    )
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
    chaos: Chaos, backend: OwnPostgres
) -> None:
    """Nothing arrives and nothing is refused, for one worker and the client, beyond the lease."""
    with Proxy(backend.server.port) as proxy:
        url = backend.url.replace(str(backend.server.port), str(proxy.port))
        await chaos.worker()
        caught = await chaos.worker(broker_url=url, worker_lease=BRIEF_LEASE)
        client = asking(chaos, url)
        await chaos.sees("answered", count=100)
        async with chaos.client:
            gate = chaos.directory / "gate"
            running: list[AsyncResult[int]] = [await chaos.send(apps.wait_at, str(gate)) for _ in range(20)]
            for result in running:
                await chaos.sees("start", result.id)

            proxy.black_hole()
            began, standing = time.time(), chaos.standing()
            gate.touch()
            assert all([await result.get(timeout=PATIENCE) for result in running])
            await asyncio.sleep(
                began + 1.3 * BRIEF_LEASE - time.time()
            )  # the length of the hole is the thing under test
            proxy.restore()
            over = time.time()
            chaos.outages.append(Outage(began, over, standing))

            await chaos.when(
                lambda _: any(fact.worker == caught.pid and fact.time > over for fact in chaos.seen("start")),
                "the worker in the hole works again",
            )
            await chaos.sees("answered", count=len(chaos.seen("answered")) + 100)
            await all_is_answered(chaos, client, *(result.id for result in running))
    chaos.only_what_an_outage_caught_runs_again()
