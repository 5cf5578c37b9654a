"""What calls that are published are told in time: deadlines, the door, cancellations, the end (P7)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from aiotq.calling.publisher import MAX_GROUP
from aiotq.exceptions import OperationalError, PublishTimeout
from aiotq.wire.message import Envelope

from ..waiting import wait_until
from .faulty_broker import FaultyBroker, broker, envelope, error_of, publishing

__all__ = ["broker"]


# Deadlines


async def test_a_black_hole_is_a_publish_timeout_within_the_deadline(broker: FaultyBroker) -> None:
    """What was begun may have been sent; what stood behind it was not."""
    loop = asyncio.get_running_loop()
    broker.faults = [broker.hang]

    async with publishing(broker, timeout=0.2) as publisher:
        began = loop.time()
        first = asyncio.create_task(error_of(publisher.publish([envelope()])))
        await wait_until(lambda: broker.in_flight, "the first send has begun")
        behind = [asyncio.create_task(error_of(publisher.publish([envelope()], timeout=0.1))) for _ in range(3)]
        errors = [await each for each in (first, *behind)]
        took = loop.time() - began

        assert [isinstance(error, PublishTimeout) and error.maybe_sent for error in errors] == [
            True,
            False,
            False,
            False,
        ]
        assert all(isinstance(error, PublishTimeout) for error in errors)
        assert 0.2 <= took < 2
        await publisher.publish([envelope()])

    assert len(broker.kept) == 1


async def test_a_call_with_less_time_than_those_before_it_is_told_in_time(broker: FaultyBroker) -> None:
    loop = asyncio.get_running_loop()
    broker.faults = [broker.hang]

    async with publishing(broker, timeout=30) as publisher:
        patient = asyncio.create_task(error_of(publisher.publish([envelope()])))
        await wait_until(lambda: broker.in_flight, "the first send has begun")
        began = loop.time()
        with pytest.raises(PublishTimeout) as caught:
            await publisher.publish([envelope()], timeout=0.05)

        assert loop.time() - began < 2
        assert not caught.value.maybe_sent
        assert not patient.done()

    assert isinstance(await patient, OperationalError)


async def test_a_call_with_less_time_is_told_in_time_while_the_publisher_backs_off(
    broker: FaultyBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiotq.calling.publisher.FIRST_PAUSE", 20.0)
    broker.faults = [broker.lose_request] * 10

    async with publishing(broker, timeout=30) as publisher:
        patient = asyncio.create_task(error_of(publisher.publish([envelope()])))
        await wait_until(lambda: broker.in_flight, "the first send has failed")
        await asyncio.sleep(0)
        async with asyncio.timeout(2):
            with pytest.raises(PublishTimeout):
                await publisher.publish([envelope()], timeout=0.05)

    assert isinstance(await patient, OperationalError)


async def test_some_of_a_group_may_run_out_of_time_and_others_not(broker: FaultyBroker) -> None:
    broker.gate.clear()

    async with publishing(broker) as publisher:
        hasty = asyncio.create_task(error_of(publisher.publish([envelope()], timeout=0.05)))
        patient = asyncio.create_task(error_of(publisher.publish([envelope()])))
        error = await hasty
        broker.gate.set()

        assert isinstance(error, PublishTimeout)
        assert error.maybe_sent
        assert await patient is None


async def test_one_deadline_counts_for_all_parts_of_a_call(broker: FaultyBroker) -> None:
    """Some of it is in the broker: it must not be said that nothing is."""
    gate = broker.gate

    async def close_gate(batch: Sequence[Envelope]) -> None:
        gate.clear()

    async def go_on(batch: Sequence[Envelope]) -> None:
        pass

    broker.faults = [go_on, close_gate]
    async with publishing(broker) as publisher:
        with pytest.raises(PublishTimeout) as caught:
            await publisher.publish([envelope() for _ in range(3 * MAX_GROUP)], timeout=0.1)

    assert caught.value.maybe_sent
    assert len(broker.kept) == MAX_GROUP


async def test_parts_that_could_not_come_in_do_not_hide_those_that_did(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.faults = [broker.hang]

    async with publishing(broker, max_pending=10) as publisher:
        with pytest.raises(PublishTimeout) as caught:
            await publisher.publish([envelope() for _ in range(3 * MAX_GROUP)], timeout=0.1)
        assert caught.value.maybe_sent

    assert "never retrieved" not in caplog.text


# Back-pressure


async def test_beyond_the_limit_callers_wait_at_the_door(broker: FaultyBroker) -> None:
    broker.gate.clear()

    async with publishing(broker, max_pending=5) as publisher:
        calls = [asyncio.create_task(publisher.publish([envelope()])) for _ in range(30)]
        await wait_until(lambda: broker.in_flight, "a send has begun")
        for _ in range(10):
            await asyncio.sleep(0)
        assert not any(call.done() for call in calls)
        assert len(publisher._calls.waiting) <= 5

        broker.gate.set()
        await asyncio.gather(*calls)

    assert len(broker.kept) == 30


async def test_at_the_door_a_deadline_counts_too(broker: FaultyBroker) -> None:
    broker.faults = [broker.hang]

    async with publishing(broker, max_pending=1) as publisher:
        first = asyncio.create_task(error_of(publisher.publish([envelope()])))
        await wait_until(lambda: broker.in_flight, "the first is being sent")
        behind = [asyncio.create_task(error_of(publisher.publish([envelope()], timeout=0.05))) for _ in range(4)]
        errors = [await each for each in behind]
        assert not first.done()

    assert [isinstance(error, PublishTimeout) and not error.maybe_sent for error in errors] == [True] * 4
    assert isinstance(await first, OperationalError)


@pytest.mark.parametrize("when", ["before", "as they are let in"])
async def test_whoever_leaves_the_door_does_not_take_a_turn_with_him(broker: FaultyBroker, when: str) -> None:
    broker.gate.clear()

    async with publishing(broker, timeout=1, max_pending=1) as publisher:
        first = asyncio.create_task(publisher.publish([envelope()]))
        await wait_until(lambda: broker.in_flight, "the first is being sent")
        second = asyncio.create_task(publisher.publish([envelope()]))
        await asyncio.sleep(0)
        leaving = [asyncio.create_task(publisher.publish([envelope()])) for _ in range(3)]
        await asyncio.sleep(0)
        staying = asyncio.create_task(publisher.publish([envelope()]))
        await asyncio.sleep(0)
        if when == "before":
            for each in leaving:
                each.cancel()
        broker.gate.set()
        await first
        for each in leaving:
            each.cancel()
        await second
        await staying

        await asyncio.wait(leaving)


async def test_a_call_larger_than_the_door_goes_through(broker: FaultyBroker) -> None:
    async with publishing(broker, max_pending=3) as publisher:
        await publisher.publish([envelope() for _ in range(50)])
        await publisher.publish([envelope()])

    assert len(broker.kept) == 51


# Cancellation


async def test_a_cancelled_caller_harms_nobody(broker: FaultyBroker) -> None:
    broker.gate.clear()

    async with publishing(broker) as publisher:
        calls = [asyncio.create_task(publisher.publish([envelope()])) for _ in range(10)]
        await wait_until(lambda: broker.in_flight, "a send has begun")
        late = [asyncio.create_task(publisher.publish([envelope()])) for _ in range(10)]
        await asyncio.sleep(0)
        for each in (calls[0], calls[5], late[0], late[9]):
            each.cancel()
        await asyncio.sleep(0)
        broker.gate.set()
        outcomes = await asyncio.gather(*calls, *late, return_exceptions=True)

    assert sum(outcome is None for outcome in outcomes) == 16
    assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes) == 4
    assert len(broker.kept) == 18, "what was not begun was not sent"


async def test_a_cancelled_call_of_many_parts_leaves_no_error_unheard(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.faults = [broker.refuse] * 3
    broker.gate.clear()

    async with publishing(broker) as publisher:
        envelopes = [envelope() for _ in range(3 * MAX_GROUP)]
        parts = asyncio.create_task(publisher.publish(envelopes))
        await asyncio.sleep(0)
        parts.cancel()
        with pytest.raises(asyncio.CancelledError):
            await parts
        broker.gate.set()

    assert "never retrieved" not in caplog.text


# Closing


@pytest.mark.parametrize("fault", ["hang", "lose_request"])
async def test_closing_tells_everybody_who_waits(
    broker: FaultyBroker, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiotq.calling.publisher.FIRST_PAUSE", 20.0)
    broker.faults = [getattr(broker, fault)]

    async with publishing(broker, timeout=60, max_pending=1) as publisher:
        calls = [asyncio.create_task(error_of(publisher.publish([envelope()])))]
        await wait_until(lambda: broker.in_flight, "the first is being sent")
        calls += [asyncio.create_task(error_of(publisher.publish([envelope()]))) for _ in range(3)]
        for _ in range(5):
            await asyncio.sleep(0)

    async with asyncio.timeout(2):
        errors = [await call for call in calls]
    assert all(type(error) is OperationalError and "closed" in str(error) for error in errors)


async def test_after_closing_nothing_is_taken_in(broker: FaultyBroker) -> None:
    async with publishing(broker) as publisher:
        pass

    with pytest.raises(OperationalError, match="closed: nothing was sent"):
        await publisher.publish([envelope()])


async def test_drained_means_accepted(broker: FaultyBroker) -> None:
    broker.gate.clear()

    async with publishing(broker) as publisher:
        call = asyncio.create_task(publisher.publish([envelope()]))
        await wait_until(lambda: broker.in_flight, "it is being sent")
        draining = asyncio.create_task(publisher.drained())
        await asyncio.sleep(0)
        assert not draining.done()

        broker.gate.set()
        await draining
        assert len(broker.kept) == 1
        await call


async def test_calls_that_are_sent_apart_keep_their_own_deadlines(broker: FaultyBroker) -> None:
    """One to another queue waits for its turn, or can't be sent then, while the first part hangs until its deadline."""
    for odd, other in ((0.05, 0.15), (2.0, 0.1)):
        broker.faults = [broker.refuse_odd_queue, broker.hang, *[broker.lose_request] * 1000]
        async with publishing(broker) as publisher, asyncio.timeout(5):
            began = asyncio.get_running_loop().time()
            first = asyncio.create_task(error_of(publisher.publish([envelope(queue="odd")], odd)))
            second = await error_of(publisher.publish([envelope()], other))
            took = asyncio.get_running_loop().time() - began

            assert isinstance(second, PublishTimeout)
            assert other <= took < 1.9
            assert isinstance(await first, PublishTimeout)
