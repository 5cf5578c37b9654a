"""Durable functions reach their end, and no step of theirs is done twice, whatever becomes of workers (P1, P2, P3)."""

from __future__ import annotations

import asyncio

from aiotq import AsyncResult

from . import apps
from .backends import ALSO_ON_RABBITMQ
from .harness import PATIENCE, Chaos

FLOWS = 10


@ALSO_ON_RABBITMQ
async def test_each_step_of_a_flow_has_its_effect_once_though_workers_are_killed_again_and_again(chaos: Chaos) -> None:
    """Sent by name: who sends has no code of them, so they are not known before they begin, and signals try again."""
    workers = [await chaos.worker() for _ in range(2)]
    async with chaos.client as client:
        handles: list[AsyncResult[object]] = [await client.send_task(apps.journey.name) for _ in range(FLOWS)]

        async def signal(number: int) -> None:
            await chaos.sees("start", f"{handles[number].id}.0")
            await client.flows.signal(handles[number].id, "go", number, signal_id="once")

        async with asyncio.TaskGroup() as group:
            for number in range(FLOWS):
                group.create_task(signal(number))
            for killed in range(3):
                await chaos.sees("start", count=FLOWS * killed)
                workers.pop(0).kill()
                workers.append(await chaos.worker())
        values = [await handle.get(timeout=PATIENCE) for handle in handles]

    assert values == list(range(FLOWS))
    chaos.only_the_killed_run_again()
    steps = {f"{handle.id}.{number}" for handle in handles for number in (0, 1, 2, 3, 7)}
    assert {fact.id for fact in chaos.seen("end")} == steps
