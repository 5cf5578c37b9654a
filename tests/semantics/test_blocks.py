"""Calls that do not start for a time, by their arguments: they wait in the broker, or end."""

from __future__ import annotations

import pytest

from aiotq import AioTQ, TaskRevokedError
from aiotq.exceptions import CallError, InvalidOption

from ..waiting import wait_until


async def test_calls_are_held_by_their_arguments_until_the_block_is_lifted_or_ends(app: AioTQ) -> None:
    ran: list[str] = []

    @app.task
    async def charge(customer: str, cents: int = 0) -> str:
        ran.append(customer)
        return customer

    async with app:
        block = await app.block(charge, where={"customer": "c_42"}, for_=3600, reason="asked for")
        other = await app.block(charge, where={"customer": "c_2"}, for_=1800)
        assert [each.id for each in await app.admin.blocks()] == [other.id, block.id]
        await app.admin.block(charge, where={"customer": "c_1", "cents": 7}, for_=0.5)
        async with app.worker():
            held = [await charge.delay("c_42"), await charge.delay(customer="c_42", cents=1)]
            later = await charge.delay("c_1", 7)
            assert await (await charge.delay("c_1", 8)).get(timeout=20) == "c_1"
            assert await later.get(timeout=20) == "c_1"
            assert ran == ["c_1", "c_1"]

            await app.admin.unblock(block.id)

            assert [await each.get(timeout=90) for each in held] == ["c_42", "c_42"]
    assert ran == ["c_1", "c_1", "c_42", "c_42"]


async def test_calls_that_are_rejected_end_and_what_is_no_block_is_refused(app: AioTQ) -> None:
    @app.task
    async def charge(customer: str) -> None: ...

    async with app:
        await app.block(charge, action="reject")
        with pytest.raises(InvalidOption, match="none of its parameters"):
            await app.block(charge, where={"costumer": "c_42"})
        with pytest.raises(CallError, match="no block"):
            await app.admin.unblock("none")
        async with app.worker():
            with pytest.raises(TaskRevokedError):
                await (await charge.delay("c_42")).get(timeout=20)


async def test_a_worker_that_runs_hears_of_a_block(app: AioTQ) -> None:
    @app.task
    async def charge(customer: str) -> None: ...

    async with app, app.worker():
        await app.block(charge.name, where={"customer": "c_42"}, action="reject")

        async def is_so() -> bool:
            try:
                await (await charge.delay("c_42")).get(timeout=20)
            except TaskRevokedError:
                return True
            return False

        await wait_until(is_so, "calls are rejected", timeout=20)
