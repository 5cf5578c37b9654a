"""Publishing over a broker that fails in every way: few round trips, a deadline each, nobody left waiting (P1, P7)."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Collection, Sequence

import pytest

from aiotq.calling.publisher import MAX_GROUP
from aiotq.commit import COMMITTED, Admission, Committed, Committer, Finish, LostLease
from aiotq.exceptions import ConnectionLost, OperationalError, PublishTimeout, Refused, StorageError
from aiotq.results import Join
from aiotq.results.fleet import FleetRow
from aiotq.transport import Delivery
from aiotq.wire.message import Envelope

from ..waiting import wait_until
from .faulty_broker import FaultyBroker, broker, envelope, error_of, publishing

__all__ = ["broker"]


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
