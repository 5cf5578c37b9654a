"""Publishing over a broker that fails in every way: few round trips, a deadline each, nobody left waiting (P1, P7)."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager

import pytest

from aiotq.calling.publisher import MAX_GROUP, Publisher
from aiotq.commit import COMMITTED, Admission, Committed, Committer, Finish, LostLease
from aiotq.exceptions import ConnectionLost, NotConnected, OperationalError, PublishTimeout, Refused, StorageError
from aiotq.results import Join
from aiotq.results.fleet import FleetRow
from aiotq.transport import Delivery
from aiotq.wire.message import Envelope, Message

from ..waiting import wait_until

_numbers = itertools.count()


def envelope(size: int = 0, queue: str = "q") -> Envelope:
    return Envelope(Message(f"id-{next(_numbers)}", "proj.add", b"x" * size), queue)


class FaultyBroker:
    """Keeps what it is sent. What the next sends do instead stands in `faults`; `gate` holds all of them up."""

    def __init__(self) -> None:
        self.sends: list[list[str]] = []
        self.kept: Counter[str] = Counter()
        self.faults: list[Callable[[Sequence[Envelope]], Coroutine[None, None, None]]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.connection: Callable[[], Coroutine[None, None, None]] | None = None

    async def connected(self) -> None:
        if self.connection is not None:
            await self.connection()

    async def send(self, batch: Sequence[Envelope]) -> None:
        ids = [each.message.id for each in batch]
        self.sends.append(ids)
        if self.faults:
            await self.faults.pop(0)(batch)
        await self.gate.wait()
        for each in ids:
            self.kept[each] = 1  # a repeat adds nothing

    @property
    def in_flight(self) -> int:
        return len(self.sends)

    # Faults

    async def hang(self, batch: Sequence[Envelope]) -> None:
        """A black hole: no answer, ever."""
        await asyncio.Event().wait()

    async def lose_reply(self, batch: Sequence[Envelope]) -> None:
        """It is done, and nobody is told."""
        for each in batch:
            self.kept[each.message.id] = 1
        raise ConnectionLost("the connection was cut")

    async def lose_request(self, batch: Sequence[Envelope]) -> None:
        raise ConnectionLost("the connection was cut")

    async def not_be_there(self, batch: Sequence[Envelope]) -> None:
        raise NotConnected("nobody listens")

    async def refuse(self, batch: Sequence[Envelope]) -> None:
        raise StorageError("the disk is full")

    async def refuse_odd_queue(self, batch: Sequence[Envelope]) -> None:
        if any(each.queue == "odd" for each in batch):
            raise OperationalError("odd is no queue")

    async def be_defective(self, batch: Sequence[Envelope]) -> None:
        raise ZeroDivisionError("a defect")

    async def choke_on_large_ones(self, batch: Sequence[Envelope]) -> None:
        if any(each.message.body for each in batch):
            raise OverflowError("too large for an integer")


@asynccontextmanager
async def publishing(
    broker: FaultyBroker, *, timeout: float = 5.0, max_pending: int = 10_000, committer: Committer | None = None
) -> AsyncIterator[Publisher]:
    publisher = Publisher(broker, timeout=timeout, max_pending=max_pending, committer=committer)
    running = asyncio.create_task(publisher.run())
    await asyncio.sleep(0)
    try:
        yield publisher
    finally:
        running.cancel()
        await asyncio.wait({running})


@pytest.fixture
def broker() -> FaultyBroker:
    return FaultyBroker()


async def error_of(publish: Coroutine[None, None, None]) -> BaseException | None:
    try:
        await publish
    except Exception as exc:
        return exc
    return None


# Coalescing


async def test_a_thousand_calls_in_one_turn_make_few_sends(broker: FaultyBroker) -> None:
    async with publishing(broker) as publisher:
        await asyncio.gather(*(publisher.publish([envelope()]) for _ in range(1000)))

    assert len(broker.kept) == 1000
    assert len(broker.sends) <= 3


async def test_one_call_alone_is_sent_at_once(broker: FaultyBroker) -> None:
    async with publishing(broker) as publisher:
        await publisher.publish([envelope()])
        await publisher.publish([envelope()])

    assert [len(send) for send in broker.sends] == [1, 1]


async def test_order_is_kept(broker: FaultyBroker) -> None:
    envelopes = [envelope() for _ in range(2500)]

    async with publishing(broker) as publisher:
        await asyncio.gather(*(publisher.publish([each]) for each in envelopes))

    assert list(itertools.chain(*broker.sends)) == [each.message.id for each in envelopes]


async def test_large_messages_make_smaller_groups(broker: FaultyBroker) -> None:
    async with publishing(broker) as publisher:
        await asyncio.gather(*(publisher.publish([envelope(3 * 1024 * 1024)]) for _ in range(5)))

    assert [len(send) for send in broker.sends] == [2, 2, 1]


async def test_a_call_of_very_many_messages_is_sent_in_parts(broker: FaultyBroker) -> None:
    async with publishing(broker) as publisher:
        await publisher.publish([envelope() for _ in range(2 * MAX_GROUP + 5)])
        await publisher.publish([])

    assert len(broker.kept) == 2 * MAX_GROUP + 5
    assert len(broker.sends) > 1
    assert max(len(send) for send in broker.sends) < 2 * MAX_GROUP


# Lost connections


@pytest.mark.parametrize("fault", ["lose_reply", "lose_request"])
async def test_a_lost_connection_is_tried_again_with_the_same_ids(
    broker: FaultyBroker, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker.faults = [getattr(broker, fault)] * 3
    message = envelope()

    async with publishing(broker) as publisher:
        await publisher.publish([message])

    assert broker.sends == [[message.message.id]] * 4
    assert broker.kept == {message.message.id: 1}
    assert "the connection was cut" in caplog.text


class Joins(Committer):
    """Counts what it commits; `faults` are raised first."""

    def __init__(self) -> None:
        self.commits: list[list[Finish]] = []
        self.faults: list[Exception] = []

    async def admit(self, deliveries: Sequence[Delivery]) -> Admission:
        raise NotImplementedError

    def renew(self, held: Collection[Delivery], row: FleetRow | None = None) -> Collection[Delivery]:
        raise NotImplementedError

    def _renew_row(self, row: FleetRow) -> None:
        raise NotImplementedError

    async def _commit(self, group: Sequence[Finish]) -> Sequence[Committed | LostLease]:
        self.commits.append(list(group))
        if self.faults:
            raise self.faults.pop(0)
        return [COMMITTED] * len(group)


def join(name: str) -> Join:
    return Join(name, 1, (envelope(),), 60.0)


async def test_a_workflow_is_committed_whole_and_not_again_for_the_sake_of_its_neighbours(
    broker: FaultyBroker,
) -> None:
    broker.faults = [broker.lose_request] * 2
    committer = Joins()
    alone, first = envelope(), [envelope() for _ in range(MAX_GROUP + 1)]

    async with publishing(broker, committer=committer) as publisher:
        await asyncio.gather(publisher.publish([alone]), publisher.publish(first, joins=(join("join"),)))

    ((finish,),) = committer.commits
    assert [each.message.id for each in finish.envelopes] == [each.message.id for each in first]
    assert [each.id for each in finish.joining.opened] == ["join"]
    assert broker.sends == [[alone.message.id]] * 3


async def test_a_workflow_whose_commit_was_lost_is_committed_again(broker: FaultyBroker) -> None:
    committer = Joins()
    committer.faults = [ConnectionLost("the connection was cut")]

    async with publishing(broker, committer=committer) as publisher:
        await publisher.publish([envelope()], joins=(join("join"),))

    assert committer.commits[0] == committer.commits[1]
    assert not broker.sends


async def test_a_broker_that_stays_away_is_a_publish_timeout_with_the_last_error(broker: FaultyBroker) -> None:
    broker.faults = [broker.lose_request] * 1000
    message = envelope()

    async with publishing(broker, timeout=0.1) as publisher:
        with pytest.raises(PublishTimeout, match="the connection was cut") as caught:
            await publisher.publish([message])

    assert caught.value.maybe_sent
    assert caught.value.task_id == message.message.id


async def test_what_no_connection_could_be_had_for_was_certainly_not_sent(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.faults = [broker.not_be_there] * 1000

    async with publishing(broker, timeout=0.1) as publisher:
        with pytest.raises(PublishTimeout, match=r"it was not sent .*nobody listens") as caught:
            await publisher.publish([envelope()])

    assert not caught.value.maybe_sent
    assert len(broker.sends) > 1
    assert len(caplog.records) == 1, "a failure that repeats is said once"


async def test_what_waits_for_a_connection_was_not_sent(broker: FaultyBroker) -> None:
    broker.connection = asyncio.Event().wait  # type: ignore[assignment]

    async with publishing(broker, timeout=0.1) as publisher:
        with pytest.raises(PublishTimeout) as caught:
            await publisher.publish([envelope()])

    assert not caught.value.maybe_sent
    assert broker.sends == []


async def test_what_may_have_been_sent_once_stays_so(broker: FaultyBroker) -> None:
    broker.faults = [broker.lose_request, *[broker.not_be_there] * 1000]

    async with publishing(broker, timeout=0.1) as publisher:
        with pytest.raises(PublishTimeout) as caught:
            await publisher.publish([envelope()])

    assert caught.value.maybe_sent


async def test_a_refusal_is_told_at_once_and_not_repeated(broker: FaultyBroker) -> None:
    broker.faults = [broker.refuse]

    async with publishing(broker) as publisher:
        with pytest.raises(StorageError, match="the disk is full"):
            await publisher.publish([envelope()])
        await publisher.publish([envelope()])

    assert len(broker.sends) == 2


async def test_a_defect_reaches_its_caller_and_the_publisher_goes_on(
    broker: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.faults = [broker.be_defective]

    async with publishing(broker) as publisher:
        with pytest.raises(ZeroDivisionError):
            await publisher.publish([envelope()])
        await publisher.publish([envelope()])

    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_a_message_that_the_broker_cannot_take_fails_alone(broker: FaultyBroker) -> None:
    """Its neighbours in the group are others' calls."""
    broker.faults = [broker.choke_on_large_ones] * 10
    envelopes = [envelope(size=index == 2) for index in range(5)]

    async with publishing(broker) as publisher:
        errors = await asyncio.gather(*(error_of(publisher.publish([each])) for each in envelopes))

    assert len(broker.sends[0]) == 5, "they were one group"
    assert [type(error) for error in errors] == [type(None), type(None), OverflowError, type(None), type(None)]
    assert list(broker.kept) == [each.message.id for each in envelopes if not each.message.body]


async def test_a_queue_that_cannot_be_sent_to_is_the_trouble_of_those_who_send_to_it(broker: FaultyBroker) -> None:
    broker.faults = [broker.refuse_odd_queue] * 3
    envelopes = [envelope(queue=queue) for queue in ("q", "odd", "q", "other")]

    async with publishing(broker) as publisher:
        errors = await asyncio.gather(*(error_of(publisher.publish([each])) for each in envelopes))

    assert len(broker.sends[0]) == 4, "they were one group"
    assert [type(error) for error in errors] == [type(None), OperationalError, type(None), type(None)]
    assert sorted(broker.kept) == sorted(each.message.id for each in envelopes if each.queue != "odd")


async def test_closing_tells_those_too_whose_turn_alone_has_not_come(broker: FaultyBroker) -> None:
    broker.faults = [broker.refuse_odd_queue, broker.hang]
    queues = ("q", "odd", "other")

    async with publishing(broker, timeout=60) as publisher:
        calls = [asyncio.create_task(error_of(publisher.publish([envelope(queue=queue)]))) for queue in queues]
        await wait_until(lambda: broker.in_flight == 2, "the first of them is being sent again")

    async with asyncio.timeout(2):
        errors = [await call for call in calls]
    assert all(isinstance(error, OperationalError) and "closed" in str(error) for error in errors)


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
    for odd, other in ((0.05, 0.15), (0.5, 0.1)):
        broker.faults = [broker.refuse_odd_queue, broker.hang, *[broker.lose_request] * 1000]
        async with publishing(broker) as publisher, asyncio.timeout(5):
            began = asyncio.get_running_loop().time()
            first = asyncio.create_task(error_of(publisher.publish([envelope(queue="odd")], odd)))
            second = await error_of(publisher.publish([envelope()], other))
            took = asyncio.get_running_loop().time() - began

            assert isinstance(second, PublishTimeout)
            assert other <= took < other + 0.2
            assert isinstance(await first, PublishTimeout)


class RefusingBroker(FaultyBroker):
    """Refuses whatever has a large message in it; or, if it `knows`, that message alone."""

    def __init__(self, *, knows: bool) -> None:
        super().__init__()
        self._knows = knows

    async def send(self, batch: Sequence[Envelope]) -> None:
        large = {each.message.key for each in batch if each.message.body}
        if not large or self._knows:
            await super().send([each for each in batch if each.message.key not in large])
        if large:
            raise Refused("it is too large", "too_large", large if self._knows else ())


@pytest.mark.parametrize("knows", [False, True])
async def test_a_refused_call_fails_alone_and_its_neighbours_go_out_once(knows: bool) -> None:
    broker = RefusingBroker(knows=knows)
    calls = [[envelope(size=int(number == 5))] for number in range(12)]

    async with publishing(broker) as publisher:
        outcomes = await asyncio.gather(*map(publisher.publish, calls), return_exceptions=True)

    refused = outcomes.pop(5)
    culprit = calls.pop(5)[0].message
    assert isinstance(refused, Refused)
    assert refused.reason == "too_large"
    assert refused.keys == {culprit.key}
    assert culprit.id in str(refused)
    assert outcomes == [None] * 11
    assert Counter(itertools.chain.from_iterable(broker.sends)) == Counter(each.message.id for (each,) in calls)


async def test_of_calls_that_are_sent_together_those_that_are_refused_are_named_and_the_others_sent() -> None:
    broker = RefusingBroker(knows=False)
    batch = [envelope(size=int(number in {2, 7})) for number in range(10)]

    async with publishing(broker) as publisher:
        with pytest.raises(Refused, match=r"^2 of 10 messages were refused, the others were sent; task id-") as caught:
            await publisher.publish(batch)

    assert caught.value.keys == {batch[2].message.key, batch[7].message.key}
    assert set(broker.kept) == {each.message.id for each in batch if not each.message.body}
