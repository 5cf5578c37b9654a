"""What can never be committed or sent: it is said at the task's line, or fails that task alone; others go on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aiotq import AioTQ, Reject, Retry, Task
from aiotq.core.inside import core_of
from aiotq.exceptions import DeadLettered, EncodeError, InvalidOption

UNSENDABLE = {
    "a set": {"seen": {1, 2}},
    "bytes": {"seen": b"\xff"},
    "a large number": {"seen": 2**70},
    "a lone surrogate": {"seen": "\ud800"},
    "a key that is no string": {1: 2},
    "100 kB": {"seen": "x" * 100_000},
}


async def neighbours(app: AioTQ) -> Callable[[], Awaitable[list[Any]]]:
    """Return what calls a task that is no concern of anybody's, and gives what came of it."""

    @app.task
    async def innocent(number: int) -> int:
        return number

    async def ended() -> list[Any]:
        return list(await asyncio.gather(*[(await innocent.delay(number)).get(timeout=10) for number in range(3)]))

    return ended


@pytest.mark.parametrize("headers", UNSENDABLE.values(), ids=UNSENDABLE)
async def test_headers_of_a_retry_are_checked_where_it_is_asked_for(app: AioTQ, headers: dict[Any, Any]) -> None:
    seen: list[str] = []

    @app.task(bind=True)
    async def again(self: Task[..., Any]) -> str:
        try:
            self.retry(countdown=0, headers=headers)
        except (EncodeError, InvalidOption) as exc:
            seen.append(str(exc))
        return "went on"

    others = await neighbours(app)
    async with app, app.worker():
        assert await (await again.delay()).get(timeout=10) == "went on"
        assert await others() == [0, 1, 2]
    assert len(seen) == 1
    assert "again.retry: option headers" in seen[0]


@pytest.mark.parametrize("headers", UNSENDABLE.values(), ids=UNSENDABLE)
async def test_a_retry_that_was_made_by_hand_and_can_not_be_sent_fails_its_task_alone(
    app: AioTQ, headers: dict[Any, Any]
) -> None:
    @app.task
    async def again() -> None:
        raise Retry(delay=0, options={"headers": headers})

    others = await neighbours(app)
    async with app, app.worker():
        with pytest.raises((EncodeError, InvalidOption)):
            await (await again.delay()).get(timeout=10)
        assert await others() == [0, 1, 2]


@pytest.mark.parametrize("delay", [float("nan"), float("inf"), 1e300])
async def test_a_retry_that_was_made_by_hand_for_an_impossible_time_fails_its_task_alone(
    app: AioTQ, delay: float
) -> None:
    @app.task
    async def again() -> None:
        raise Retry(delay=delay)

    others = await neighbours(app)
    async with app, app.worker():
        with pytest.raises(InvalidOption):
            await (await again.delay()).get(timeout=10)
        assert await others() == [0, 1, 2]


@pytest.mark.parametrize("reason", ["scan\udce9.pdf", "r" * 300_000, "\0", "é" * 100_000])
async def test_whatever_the_reason_a_rejected_task_is_a_dead_letter_with_a_few_kilobytes_of_it(
    app: AioTQ, reason: str
) -> None:
    @app.task
    async def rejected() -> None:
        raise Reject(reason)

    others = await neighbours(app)
    async with app, app.worker():
        result = await rejected.delay()
        with pytest.raises(DeadLettered):
            await result.get(timeout=10)
        assert await others() == [0, 1, 2]
        letter = await (await core_of(app).connections.connection()).broker.dead_letter(result.id)
    assert letter is not None
    assert letter.reason == "rejected"
    assert letter.detail[:4].replace("\ufffd", "\0") == reason[:4]  # PostgreSQL's text has no NUL
    assert len(letter.detail) < 5000


@pytest.mark.parametrize("queue", ["q" * 256, "new\nline", ""])
async def test_names_that_no_queue_has_are_refused_at_the_call_of_whom_they_are_for(app: AioTQ, queue: str) -> None:
    @app.task
    async def plain(number: int = 0) -> None: ...

    async with app:
        with pytest.raises(InvalidOption):
            await plain.apply_async(queue=queue)
        with pytest.raises(InvalidOption):
            await plain.apply_async(link=plain.s().set(queue=queue))
        with pytest.raises(InvalidOption):
            await plain.apply_async(link_error=plain.s().set(queue=queue))
        with pytest.raises(InvalidOption):
            await (plain.s() | plain.s().set(queue=queue)).apply_async()


@pytest.mark.parametrize("queue", ["naïve", "q" * 254, "amq.mine", "aiotq.dead"])
async def test_names_that_this_broker_can_not_give_a_queue_are_refused_at_the_call(
    app: AioTQ, url: str, queue: str
) -> None:
    """On RabbitMQ; elsewhere they are names as others are."""
    said: list[str] = []

    @app.task
    async def plain(number: int = 0) -> str:
        return "ran"

    @app.task(bind=True)
    async def again(self: Task[..., Any]) -> str:
        try:
            self.retry(countdown=0, queue=queue)
        except InvalidOption as exc:
            said.append(str(exc))
        return "went on"

    async with app, app.worker(queues=["default", *([] if url.startswith("amqp") else [queue])]):
        calls = [
            plain.apply_async(queue=queue),
            plain.apply_async(link=plain.s().set(queue=queue)),
            (plain.s() | plain.s().set(queue=queue)).apply_async(),
        ]
        for call in calls:
            if url.startswith("amqp"):
                with pytest.raises(InvalidOption, match="queue"):
                    await call
            else:
                assert await (await call).get(timeout=10) == "ran"
        if url.startswith("amqp"):
            assert await (await again.delay()).get(timeout=10) == "went on"
            assert len(said) == 1


async def test_headers_of_a_callback_are_checked_at_the_call(app: AioTQ) -> None:
    @app.task
    async def plain(number: int = 0) -> None: ...

    async with app:
        with pytest.raises(EncodeError):
            await plain.apply_async(link=plain.s().set(headers={"seen": {1, 2}}))
