"""P1, P2, P4, P5, P7 on RabbitMQ with claims in a Redis, when what fails is the server, the way to it, or a worker."""

from __future__ import annotations

import asyncio
import signal
import time
from functools import partial

from aiotq import AioTQ, AsyncResult

from ..proxy import Proxy
from ..waiting import wait_until
from . import apps, junk
from .asking import all_is_answered, asking, has_swallowed
from .backends import ON_OWN_RABBITMQ, ON_RABBITMQ, OwnRabbitMQ, RabbitMQ
from .harness import PATIENCE, SLACK, Chaos
from .supervised import died_of, supervised_worker

#: Seconds; claims are renewed whatever happens to RabbitMQ, and what was delivered twice waits for so long.
BRIEF_LEASE = 4.0


def through(proxy: Proxy, backend: RabbitMQ, options: str = "") -> str:
    return f"amqp://guest:guest@127.0.0.1:{proxy.port}/{backend.vhost}{options}"


async def nothing_is_left(backend: RabbitMQ) -> None:
    """Wait until all is acknowledged, copies of what was delivered twice as well."""
    await wait_until(lambda: not backend.left(), "nothing is left in RabbitMQ", PATIENCE)


@ON_OWN_RABBITMQ
async def test_a_server_that_is_killed_and_comes_back_loses_nothing_and_repeats_nothing(
    chaos: Chaos, backend: OwnRabbitMQ
) -> None:
    """What runs goes on, and what is delivered again meanwhile finds its claim."""
    workers = [await chaos.worker(worker_lease=BRIEF_LEASE) for _ in range(2)]
    client = asking(chaos, backend.url)
    async with chaos.client:
        gate = chaos.directory / "gate"
        running: list[AsyncResult[int]] = [await chaos.send(apps.wait_at, str(gate)) for _ in range(10)]
        for result in running:
            await chaos.sees("start", result.id)
        first = await chaos.send(apps.step, 0.0, countdown=8)
        await asyncio.sleep(1.5)  # RabbitMQ 3.10 forgets a quorum queue that was new when it was killed (tried)
        delayed = [first, *[await chaos.send(apps.step, 0.0, countdown=3 + n / 10) for n in range(50)]]

        for _ in range(2):
            await chaos.sees("answered", count=len(chaos.seen("answered")) + chaos.random.randrange(50, 150))
            await asyncio.to_thread(backend.server.restart)
        gate.touch()
        await chaos.sees("answered", count=len(chaos.seen("answered")) + 100)

        assert all([await result.get(timeout=PATIENCE) for result in (*running, *delayed)])
    accepted = await all_is_answered(chaos, client, *(result.id for result in (*running, *delayed)))
    assert [worker.exit_code for worker in workers] == [None, None]
    assert chaos.starts() == dict.fromkeys(accepted, 1)
    assert not [fact for fact in chaos.seen("start") if fact.detail is not None and fact.time < fact.detail]
    await nothing_is_left(backend)


@ON_RABBITMQ
async def test_connections_that_are_cut_again_and_again_lose_nothing_and_repeat_nothing(
    chaos: Chaos, backend: RabbitMQ
) -> None:
    with Proxy(backend.server.port) as proxy:
        url = through(proxy, backend)
        workers = [await chaos.worker(broker_url=url, worker_lease=BRIEF_LEASE) for _ in range(2)]
        client = asking(chaos, url)

        for cut in range(6):
            await chaos.sees("answered", count=len(chaos.seen("answered")) + chaos.random.randrange(50, 150))
            if cut % 2:
                proxy.cut()
            else:  # what was sent last is there, and nobody hears of it
                before = proxy.swallowed
                proxy.swallow_replies()
                await wait_until(partial(has_swallowed, proxy, before), "confirms were lost", PATIENCE)
                proxy.refuse()
                proxy.restore()
        await chaos.sees("answered", count=len(chaos.seen("answered")) + 100)

        accepted = await all_is_answered(chaos, client)
        assert [worker.exit_code for worker in workers] == [None, None]
        assert chaos.starts() == dict.fromkeys(accepted, 1)
        await nothing_is_left(backend)


@ON_RABBITMQ
async def test_work_goes_on_beside_a_worker_in_a_black_hole_and_in_it_when_it_ends(
    chaos: Chaos, backend: RabbitMQ
) -> None:
    """Its way to the claims is open: what ran there runs on, and nowhere else."""
    with Proxy(backend.server.port) as proxy:
        await chaos.worker()
        caught = await chaos.worker(
            broker_url=through(proxy, backend, "?heartbeat=1&reply_timeout=2&connect_timeout=2"),
            worker_lease=BRIEF_LEASE,
        )
        gate = chaos.directory / "gate"
        async with chaos.client:
            running: list[AsyncResult[int]] = [await chaos.send(apps.wait_at, str(gate)) for _ in range(60)]
            for result in running:
                await chaos.sees("start", result.id)
            assert caught.pid in {fact.worker for fact in chaos.seen("start")}

            proxy.black_hole()
            began = time.monotonic()
            assert await (await chaos.send(apps.step, 0.0)).get(timeout=PATIENCE)
            await caught.says("silent for")
            await asyncio.sleep(
                began + 1.3 * BRIEF_LEASE - time.monotonic()
            )  # the hole outlasts leases: the thing under test
            assert set(chaos.starts().values()) == {1}
            proxy.restore()

            gate.touch()
            assert all([await result.get(timeout=PATIENCE) for result in running])

            async def works_again() -> bool:
                ran_in: int = await (await chaos.send(apps.step, 0.0)).get(timeout=PATIENCE)
                return ran_in == caught.pid

            await wait_until(works_again, "the worker in the hole works again", PATIENCE)
        assert set(chaos.starts().values()) == {1}
        await nothing_is_left(backend)


@ON_RABBITMQ
async def test_a_task_that_kills_its_worker_is_found_among_innocent_ones(chaos: Chaos, backend: RabbitMQ) -> None:
    async with chaos.client, supervised_worker(chaos):
        before = [await chaos.send(apps.step, 0.3) for _ in range(5)]
        poison = await chaos.send(apps.kill_worker)
        after = [await chaos.send(task, 0.3) for task in (apps.step, apps.step_in_thread, apps.step_in_process) * 2]

        assert "poison: 3 workers died" in await died_of(poison)

        assert all([await result.get(timeout=PATIENCE) for result in (*before, *after)])
        # The outcome is stored, then the letter is written.
        (letter,) = await wait_until(chaos.client.admin.dead_letters, "it is a dead letter", PATIENCE)
        assert letter.message is not None
        assert (letter.message.id, letter.reason) == (poison.id, "poison")
    # Twice it died among others, and then three times under suspicion.
    assert chaos.starts()[poison.id] == 5
    await wait_until(lambda: backend.left() == {"aiotq.dead": 1}, "only the dead letter is left", PATIENCE)


@ON_RABBITMQ
async def test_junk_on_the_queue_becomes_dead_letters_and_the_worker_goes_on(chaos: Chaos, backend: RabbitMQ) -> None:
    async with chaos.client:
        worker = await chaos.worker(worker_unknown_task_timeout=0)
        first = await chaos.send(apps.wait_at, str(chaos.directory / "gate"))
        await chaos.sees("start", first.id)
        reasons, runnable = junk.add_junk(backend)

        last = await chaos.send(apps.step, 0.0)
        assert await last.get(timeout=PATIENCE) == worker.pid
        await wait_until(lambda: backend.count("aiotq.dead") == len(reasons), "all are dead letters", PATIENCE)
        (chaos.directory / "gate").touch()
        assert await first.get(timeout=PATIENCE) == worker.pid
    dead = backend.dead_letters()
    assert sorted(reason for reason, _ in dead) == sorted(reasons)
    assert all(detail for _, detail in dead)
    assert len(chaos.seen("end")) == runnable + 2
    assert worker.exit_code is None
    assert "Traceback" not in worker.said


@ON_OWN_RABBITMQ
async def test_a_task_beyond_the_consumer_timeout_runs_once_and_again_when_its_worker_is_killed(
    chaos: Chaos, backend: OwnRabbitMQ
) -> None:
    """Its message goes round as a copy, and whoever holds that when the claim has ended runs it."""
    gate = chaos.directory / "gate"
    async with chaos.client:
        first = await chaos.worker(amqp_park_after=1.0, worker_lease=BRIEF_LEASE)
        results = [await chaos.send(apps.wait_at, str(gate)) for _ in range(5)]
        await chaos.sees("start", count=5)
        heir = await chaos.worker(amqp_park_after=1.0)
        await asyncio.sleep(2 * backend.CONSUMER_TIMEOUT)  # beyond the server's patience: the thing under test
        assert chaos.starts() == {result.id: 1 for result in results}

        death = first.kill()

        again = (await chaos.sees("start", count=10))[5:]
        gate.touch()
        assert [await result.get(timeout=PATIENCE) for result in results] == [heir.pid] * 5
    assert {fact.worker for fact in again} == {heir.pid}
    assert max(fact.time for fact in again) < death.time + 2 * BRIEF_LEASE + 2 + SLACK
    chaos.only_the_killed_run_again()
    await nothing_is_left(backend)
    assert "PRECONDITION_FAILED" not in backend.server.log.read_text()


@ON_RABBITMQ
async def test_what_outlasts_the_grace_time_is_handed_back(chaos: Chaos, backend: RabbitMQ) -> None:
    gate = chaos.directory / "gate"
    async with chaos.client:
        # A lease that nobody waits for: what another worker gets was handed back.
        stopping = await chaos.worker(worker_grace=0.5, worker_lease=600)
        results = [await chaos.send(task, str(gate)) for task in (apps.wait_at, apps.wait_in_thread_at)]
        await chaos.sees("start", count=2)

        stopping.send_signal(signal.SIGTERM)

        assert await stopping.ended() == 0
        other = await chaos.worker()
        await chaos.sees("start", count=4)
        gate.touch()
        assert [await result.get(timeout=PATIENCE) for result in results] == [other.pid] * 2
    assert chaos.starts() == {result.id: 2 for result in results}
    await nothing_is_left(backend)


@ON_RABBITMQ
async def test_with_rpc_alone_a_policy_ends_what_kills_its_workers(chaos: Chaos, backend: RabbitMQ) -> None:
    """Nobody counts deaths there, so a limit of the broker's own is what can be had."""
    backend.server.set_policy(backend.vhost, "^default", '{<<"delivery-limit">>, 4}')
    client = AioTQ("client", broker=backend.url, backend="rpc://")
    async with client, supervised_worker(chaos, result_backend="rpc://"):
        poison = await client.send_task(apps.kill_worker.name)
        await chaos.sees("start", poison.id, count=5)

        (letter,) = await wait_until(client.admin.dead_letters, "it is a dead letter", PATIENCE)
        assert letter.message is not None
        assert (letter.message.id, letter.reason) == (poison.id, "delivery_limit")
        assert await (await client.send_task(apps.step.name, (0.0,))).get(timeout=PATIENCE)
    assert chaos.starts()[poison.id] == 5
