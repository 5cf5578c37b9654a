"""How often a call is sent again whose broker does not answer: `retry`, `retry_policy`, and the settings of that."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from aiotq import AioTQ
from aiotq.calling.publisher import Publisher
from aiotq.calling.retry_policy import ONCE, UNTIL_DEADLINE, RetryPolicy, persistence_of, persistence_of_calls
from aiotq.exceptions import (
    ConnectionLost,
    InvalidOption,
    InvalidSetting,
    OperationalError,
    PublishFailed,
    PublishTimeout,
)

from ..waiting import wait_until
from .faulty_broker import FaultyBroker, envelope, error_of, publishing

QUICK = RetryPolicy(3, 0.0, 0.01, 0.02)


@pytest.fixture
def broker() -> FaultyBroker:
    return FaultyBroker()


async def test_without_retry_there_is_one_attempt(broker: FaultyBroker) -> None:
    broker.faults = [broker.lose_request]

    async with publishing(broker) as publisher:
        error = await error_of(publisher.publish([envelope()], None, (), ONCE))

    assert isinstance(error, PublishFailed)
    assert isinstance(error, OperationalError)
    assert (error.attempts, error.maybe_sent, len(broker.sends)) == (1, True, 1)
    assert str(error) == (
        f"task {error.task_id} could not be published in 1 attempt: it may have been sent "
        "(last error: the connection was cut)"
    )


async def test_it_is_sent_again_as_often_as_the_policy_says_and_then_fails(broker: FaultyBroker) -> None:
    broker.faults = [broker.not_be_there] * 9

    async with publishing(broker) as publisher:
        error = await error_of(publisher.publish([envelope()], None, (), QUICK))

    assert isinstance(error, PublishFailed)
    assert (error.attempts, error.maybe_sent, len(broker.sends)) == (4, False, 4)


async def test_the_last_attempt_may_be_the_one_that_succeeds(broker: FaultyBroker) -> None:
    broker.faults = [broker.lose_request] * 3

    async with publishing(broker) as publisher:
        await publisher.publish([envelope()], None, (), QUICK)

    assert len(broker.kept) == 1


async def test_the_deadline_holds_whatever_the_policy_allows(broker: FaultyBroker) -> None:
    broker.faults = [broker.lose_request] * 1000

    async with publishing(broker) as publisher:
        error = await error_of(publisher.publish([envelope()], 0.1, (), RetryPolicy(None, 0.01, 0.0, 0.01)))

    assert isinstance(error, PublishTimeout)


async def test_only_the_errors_that_are_named_are_tried_again(broker: FaultyBroker) -> None:
    async def time_out(_: object) -> None:
        raise ConnectionLost("no answer") from TimeoutError("nothing came")

    broker.faults = [time_out, broker.lose_request]

    async with publishing(broker) as publisher:
        error = await error_of(publisher.publish([envelope()], None, (), RetryPolicy(retry_errors=(TimeoutError,))))

    assert isinstance(error, PublishFailed)
    assert error.attempts == 2


async def test_each_call_of_a_group_has_its_own_number_of_attempts(broker: FaultyBroker) -> None:
    broker.faults = [broker.lose_request] * 3

    async with publishing(broker) as publisher:
        once, patient, thrice = await asyncio.gather(
            error_of(publisher.publish([envelope()], None, (), ONCE)),
            error_of(publisher.publish([envelope()])),
            error_of(publisher.publish([envelope()], None, (), QUICK)),
        )

    assert isinstance(once, PublishFailed)
    assert patient is None
    assert thrice is None
    assert len(broker.kept) == 2


async def test_one_that_waits_long_for_its_next_attempt_is_sent_when_the_broker_is_back(broker: FaultyBroker) -> None:
    broker.faults = [broker.lose_request]

    async with publishing(broker) as publisher, asyncio.TaskGroup() as group:
        slow = group.create_task(publisher.publish([envelope()], 60.0, (), RetryPolicy(3, 50.0, 0.0, 50.0)))
        await wait_until(lambda: len(broker.sends) == 1, "the first attempt failed")
        async with asyncio.timeout(5):
            await publisher.publish([envelope()])  # it does not wait for the other's time
            await slow


async def test_the_settings_are_the_policy_of_calls_that_say_nothing(broker: FaultyBroker) -> None:
    broker.faults = [broker.lose_request] * 9
    publisher = Publisher(broker, timeout=5.0, max_pending=10, persistence=persistence_of(False, None))

    async with asyncio.TaskGroup() as group:
        running = group.create_task(publisher.run())
        await asyncio.sleep(0)
        error = await error_of(publisher.publish([envelope()]))
        running.cancel()

    assert isinstance(error, PublishFailed)


@pytest.mark.parametrize(
    ("options", "retry", "policy", "expected"),
    [
        ({}, True, None, None),
        ({"retry": False}, True, {"max_retries": 9}, ONCE),
        ({"retry": True}, False, None, UNTIL_DEADLINE),
        ({"retry": True}, False, {"max_retries": 9}, RetryPolicy(9)),
        ({"retry_policy": {"max_retries": 1}}, True, None, RetryPolicy(1)),
        ({"retry_policy": {"max_retries": 1}}, False, None, ONCE),
        ({"retry_policy": {"interval_max": 1}}, True, {"max_retries": None}, RetryPolicy(None, interval_max=1)),
        ({"retry_policy": {"retry_errors": [OSError]}}, True, None, RetryPolicy(retry_errors=(OSError,))),
    ],
)
def test_the_call_stands_over_the_settings(
    options: Mapping[str, Any], retry: bool, policy: Mapping[str, Any] | None, expected: RetryPolicy | None
) -> None:
    assert persistence_of_calls([options], retry, policy) == expected


def test_celerys_policy_waits_as_celerys_does() -> None:
    celerys = RetryPolicy()

    assert [celerys.pause(retries, OSError()) for retries in range(4)] == [0, 0.2, 0.2, None]


def test_calls_that_are_sent_together_say_the_same() -> None:
    with pytest.raises(InvalidOption, match="one `retry` and one `retry_policy`"):
        persistence_of_calls([{"retry": False}, {}], True, None)


@pytest.mark.parametrize(
    "policy",
    [
        {"max_retry": 3},
        {"max_retries": -1},
        {"max_retries": 1.5},
        {"max_retries": True},
        {"interval_start": -1},
        {"interval_step": "1"},
        {"interval_max": float("inf")},
        {"retry_errors": (3,)},
        {"retry_errors": OSError},
        "often",
        3,
    ],
)
async def test_a_policy_that_is_none_is_refused_by_call_and_setting(policy: Any) -> None:
    app = AioTQ("x", broker="memory://")

    @app.task
    async def step() -> None: ...

    with pytest.raises(InvalidOption, match="option retry_policy must be a mapping with some of max_retries"):
        await step.apply_async(retry_policy=policy)
    await app.close()
    with pytest.raises(InvalidSetting, match="task_publish_retry_policy"):
        AioTQ("x", broker="memory://", task_publish_retry_policy=policy)


async def test_a_call_with_a_policy_is_sent_and_runs() -> None:
    app = AioTQ("x", broker="memory://", task_publish_retry_policy={"max_retries": 1})

    @app.task
    async def step() -> str:
        return "ran"

    async with app, app.worker():
        assert await (await step.apply_async(retry=False)).get(timeout=10) == "ran"
        assert await (await step.options(retry_policy={"max_retries": None}).delay()).get(timeout=10) == "ran"
        assert await (await step.s().set(retry=True).delay()).get(timeout=10) == "ran"
        with pytest.raises(InvalidOption, match="one `retry`"):
            await app.send_many([step.s().set(retry=False), step.s()])
