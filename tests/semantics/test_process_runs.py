"""Runs in child processes: what they ask for is done, and what they set ends with them."""

from __future__ import annotations

import asyncio
import os

import pytest

from aiotq import AioTQ
from aiotq.exceptions import DeadLettered, EncodeError

from . import process_tasks
from .conftest import NOT_ON_RABBITMQ

BROKERS_HERE = NOT_ON_RABBITMQ


async def test_a_retry_holds_although_its_error_can_not_be_pickled(app: AioTQ) -> None:
    async with app, app.worker(processes=1):
        for kind in ("made by name", "holds a lock", "in a group"):
            result = await app.send_task(process_tasks.retry_with.name, (kind,))
            assert await result.get(timeout=20) == 1


async def test_a_rejection_holds_although_its_reason_can_not_be_pickled(app: AioTQ) -> None:
    async with app, app.worker(processes=1):
        result = await app.send_task(process_tasks.reject_for_a_lock.name)
        with pytest.raises(DeadLettered, match="rejected: locked"):
            await result.get(timeout=20)


async def test_what_can_not_be_asked_for_is_the_tasks_failure(app: AioTQ) -> None:
    async with app, app.worker(processes=1):
        result = await app.send_task(process_tasks.retry_with_a_lock_as_argument.name)
        with pytest.raises(EncodeError, match="what the task asked for can't be pickled"):
            await result.get(timeout=20)


async def test_a_context_variable_ends_with_the_run_that_set_it(app: AioTQ) -> None:
    async with app, app.worker(processes=1):
        for task in (process_tasks.tenant_of, process_tasks.tenant_of_coroutine):
            await (await app.send_task(task.name, ("acme",))).get(timeout=20)
            assert await (await app.send_task(task.name)).get(timeout=20) is None


async def test_events_that_a_call_tells_come_when_it_has_returned(app: AioTQ) -> None:
    async with app, app.events.capture(types=["upload-*"]) as capture, app.worker(processes=1, name="w1"):
        result = await app.send_task(process_tasks.tell_of_uploads.name, (3,))
        async with asyncio.timeout(20):
            told = [await anext(capture) for _ in range(3)]
            assert await result.get() != os.getpid()

    assert [(each["uuid"], each["number"], each["hostname"]) for each in told] == [
        (result.id, number, "w1") for number in range(3)
    ]
