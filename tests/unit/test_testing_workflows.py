"""`aiotq.testing`: workflows run as calls do, and what they sent and ran is there to be asserted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from aiotq import AioTQ, ChordError, Task, chain, chord, group
from aiotq.testing import TestWorker

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


class Proj:
    """An app whose broker is not to be reached, and its tasks."""

    def __init__(self) -> None:
        self.app = app = AioTQ("proj", broker="redis://no.such.host.invalid:1")

        @app.task(name="add")
        async def add(x: int, y: int) -> int:
            return x + y

        @app.task(name="xsum")
        async def xsum(numbers: list[int]) -> int:
            return sum(numbers)

        @app.task(name="fail")
        async def fail(*args: Any) -> None:
            raise ValueError("no luck")

        @app.task(name="told")
        async def told(task_id: str) -> None: ...

        @app.task(name="doubled", bind=True)
        async def doubled(self: Task[..., Any], x: int) -> int:
            raise self.replace(add.s(x, x))

        self.add, self.xsum, self.fail, self.told, self.doubled = add, xsum, fail, told, doubled


@pytest.fixture
def proj() -> Proj:
    return Proj()


async def test_a_workflow_runs_to_its_end_and_each_step_is_noted(proj: Proj) -> None:
    async with TestWorker(proj.app) as t:
        result = await (proj.add.s(1, 1) | group(proj.add.s(1), proj.add.s(2)) | proj.xsum.s()).delay()
        await t.idle()

        assert await result == 7
        t.assert_ran(proj.add, args=(1, 1), value=2)
        t.assert_ran(proj.add, args=(2, 1), value=3)
        t.assert_ran(proj.xsum, args=([3, 4],), value=7, times=1)
        assert [sent.task for sent in t.sent] == ["add", "add", "add", "xsum"]


async def test_countdowns_of_members_and_bodies_pass_with_the_tests_time(proj: Proj) -> None:
    async with TestWorker(proj.app, now=NOON) as t:
        header = group(proj.add.s(1, 1), proj.add.s(2, 2)).set(countdown=3600)
        result = await (header | proj.xsum.s().set(countdown=60)).delay()
        await t.advance(hours=1)
        t.assert_sent(proj.add, countdown=3600, times=2)
        t.assert_sent(proj.xsum, countdown=60)
        t.assert_not_ran(proj.xsum)
        await t.advance(seconds=60)

        t.assert_ran(proj.xsum, at=datetime(2030, 1, 1, 13, 1, tzinfo=UTC), args=([2, 4],), value=6)
        assert await result == 6


async def test_what_never_runs_is_not_among_what_ran(proj: Proj) -> None:
    """However its chain was sent: in one message, or in pieces."""
    for count in (2, 100):
        async with TestWorker(proj.app) as t:
            steps = [proj.xsum.si([1]) for _ in range(count)]
            result = await chain(proj.fail.s(), *steps).link_error(proj.told.s()).delay()
            await t.idle()

            with pytest.raises(ValueError, match="no luck"):
                await result
            t.assert_ran(proj.fail, state="FAILURE", error=ValueError, times=1)
            t.assert_ran(proj.told, args=(t.ran[0].id,), times=1)
            t.assert_not_ran(proj.xsum)


async def test_a_body_whose_header_failed_ends_with_that(proj: Proj) -> None:
    async with TestWorker(proj.app) as t:
        await chord([proj.add.s(1, 1), proj.fail.s()], proj.xsum.s()).on_error(proj.told.s()).delay()
        await t.idle()

        body = t.assert_ran(proj.xsum, state="FAILURE", error=ChordError, times=1)
        t.assert_ran(proj.told, args=(body.id,))


async def test_a_task_that_is_replaced_is_noted_as_that_and_then_its_replacement(proj: Proj) -> None:
    async with TestWorker(proj.app) as t:
        result = await (proj.doubled.s(4) | proj.add.s(1)).delay()
        await t.idle()

        assert await result == 9
        first = t.assert_ran(proj.doubled, args=(4,), state="REPLACED", times=1)
        assert t.assert_ran(proj.add, args=(4, 4), value=8).id == first.id
        assert [ran.state for ran in t.ran] == ["REPLACED", "SUCCESS", "SUCCESS"]
