"""What is refused for good is told apart from what stands beside it, on every pair of broker and results (P3)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from aiotq.commit import COMMITTED, Finish
from aiotq.core.values import replace
from aiotq.exceptions import Refused
from aiotq.results import NO_JOIN_CHANGES
from aiotq.states import FAILURE, RETRY, SUCCESS
from aiotq.testing.contracts.broker_harness import envelope
from aiotq.testing.contracts.harness import Kept
from aiotq.transport import ACK, Broker, Delivery, GiveUp
from aiotq.transport.refusals import apart, send_apart
from aiotq.wire.message import Envelope

from ..waiting import wait_until
from .commit_contract import _seen, arriving, join, opening, record, run_all, standing, state_of
from .conftest import COMMITS
from .harness import CommitHarness, RawTransportHarness, Worker


def unencodable(task_id: str) -> Envelope:
    plain = envelope(task_id)
    return replace(plain, message=replace(plain.message, headers={"seen": {1, 2}}))


def with_long_headers(task_id: str) -> Envelope:
    plain = envelope(task_id)
    return replace(plain, message=replace(plain.message, headers={"seen": "x" * 100_000}))


SENT_NOWHERE = pytest.mark.parametrize("make", [unencodable, with_long_headers])
#: In memory messages stay objects: what can't be encoded is refused at the call alone.
ENCODING = [name for name in COMMITS if name not in {"memory", "ordered-memory-memory", "ordered-memory-plain"}]


@SENT_NOWHERE
async def test_a_message_that_can_not_be_encoded_is_refused_and_its_neighbours_are_sent_once(
    raw_broker: RawTransportHarness, make: Callable[[str], Envelope]
) -> None:
    transport = await raw_broker.connect()

    with pytest.raises(Refused):
        await transport.send([make("odd")])
    refused = await send_apart(transport.send, [envelope("a"), make("odd"), envelope("b"), envelope("c")])

    assert list(refused) == [("odd", 0)]

    async def ready() -> bool:
        return (await raw_broker.standing(transport))["ready"] == 3

    await wait_until(ready, "the others are in their queue")


@SENT_NOWHERE
@pytest.mark.parametrize("pair", ENCODING, indirect=True)
async def test_a_finish_that_can_not_be_encoded_is_refused_and_its_neighbours_are_committed(
    pair: CommitHarness, make: Callable[[str], Envelope]
) -> None:
    worker = await pair.worker()
    await worker.transport.send([envelope(str(number)) for number in range(5)])
    held = await worker.admitted(5)
    group = [
        Finish(
            each,
            record=record(pair, each.message.id, RETRY if each.message.id == "3" else SUCCESS),
            envelopes=(make("next"),) if each.message.id == "3" else (envelope(f"after {each.message.id}"),),
        )
        for each in held
    ]

    answers = await apart(group, worker.committer.commit)

    assert [each.message.id for each, answer in zip(held, answers, strict=True) if isinstance(answer, Refused)] == ["3"]
    assert [await state_of(worker, str(number)) for number in (0, 1, 2, 4)] == [SUCCESS] * 4
    (culprit,) = (each for each in held if each.message.id == "3")
    instead = Finish(culprit, GiveUp("refused", "why"), record=record(pair, "3", FAILURE))
    assert list(await worker.committer.commit([instead])) == [COMMITTED]
    assert await state_of(worker, "3") == FAILURE
    assert (await standing(worker))["dead"] == 1
    assert sorted(await run_all(pair, worker)) == ["after 0", "after 1", "after 2", "after 4"]


class Refusing:
    """Stands before a broker that refuses what goes to the queue "odd"; `knows` which messages those are, or not."""

    def __init__(self, *, knows: bool) -> None:
        self._knows = knows
        self.is_on = True

    def wrap(self, transport: Broker, kept: Kept) -> tuple[Broker, Kept]:
        async def around(call: str, work: Callable[[], Awaitable[Any]]) -> Any:
            return await work()

        seen, kept = _seen(transport, kept, around)
        real = transport.send

        async def send(batch: Sequence[Envelope]) -> None:
            odd = {each.message.key for each in batch if each.queue == "odd"} if self.is_on else set()
            if not odd or self._knows:
                await real([each for each in batch if each.message.key not in odd])
            if odd:
                raise Refused("odd exists and is another's", "queue", odd if self._knows else ())

        seen.send = send  # type: ignore[method-assign]
        return seen, kept


KNOWS = pytest.mark.parametrize("knows", [False, True])


async def refused_among_others(pair: CommitHarness, knows: bool) -> tuple[Worker, Refusing, Delivery]:
    """Commit three finishes, of which that of "b" is refused by the broker once its claim is closed."""
    refusing = Refusing(knows=knows)
    worker = await pair.worker(wrap=refusing.wrap)
    if worker.ledger.has_joins:
        await worker.committer.commit([opening(join(1))])
    await worker.transport.send([envelope(name) for name in "abc"])
    held = await worker.admitted(3)
    group = [
        Finish(
            each,
            # "b" wants to run again, elsewhere: an outcome that another one may follow
            record=record(pair, each.message.id, RETRY if each.message.id == "b" else SUCCESS),
            envelopes=(
                replace(envelope(f"after {each.message.id}"), queue="odd" if each.message.id == "b" else "q"),
                *((envelope("beside b"),) if each.message.id == "b" else ()),
            ),
        )
        for each in held
    ]

    answers = await apart(group, worker.committer.commit)

    (culprit,) = (each for each, answer in zip(held, answers, strict=True) if isinstance(answer, Refused))
    assert culprit.message.id == "b"
    assert [answer for answer in answers if not isinstance(answer, Refused)] == [COMMITTED] * 2
    return worker, refusing, culprit


@KNOWS
async def test_what_is_committed_in_place_of_a_refused_finish_is_written_though_its_claim_is_done(
    ordered_pair: CommitHarness, knows: bool
) -> None:
    worker, _, culprit = await refused_among_others(ordered_pair, knows)

    instead = Finish(
        culprit,
        ACK,
        record=record(ordered_pair, "b", FAILURE),
        envelopes=(envelope("errback"),),
        joining=arriving("0") if worker.ledger.has_joins else NO_JOIN_CHANGES,
    )
    assert list(await worker.committer.commit([instead])) == [COMMITTED]

    assert await state_of(worker, "b") == FAILURE
    ran = await run_all(ordered_pair, worker)
    assert sorted(ran) == ["after a", "after c", "beside b", "errback", *["then"] * worker.ledger.has_joins]


@KNOWS
async def test_what_stands_in_for_a_refused_finish_may_be_refused_as_well(
    ordered_pair: CommitHarness, knows: bool
) -> None:
    worker, _, culprit = await refused_among_others(ordered_pair, knows)
    errback = replace(envelope("errback"), queue="odd")

    failure = Finish(culprit, ACK, record=record(ordered_pair, "b", FAILURE), envelopes=(errback,))
    (answer,) = await apart([failure], worker.committer.commit)
    assert isinstance(answer, Refused)
    assert list(await worker.committer.commit([Finish(culprit, GiveUp("refused", "why"))])) == [COMMITTED]

    assert await state_of(worker, "b") == FAILURE
    assert (await standing(worker))["dead"] == 1
    assert sorted(await run_all(ordered_pair, worker)) == ["after a", "after c", "beside b"]


async def test_whoever_gets_a_refused_finish_after_a_death_makes_a_dead_letter_of_it_and_others_are_admitted(
    ordered_pair: CommitHarness,
) -> None:
    """It runs no more: its outcome stands. Replayed when the queue is mended, what follows from it is sent."""
    _, refusing, _ = await refused_among_others(ordered_pair, knows=False)
    other = await ordered_pair.worker("other", wrap=refusing.wrap)
    await ordered_pair.broker.reclaimed(other.consumer, 1)
    await other.transport.send([envelope("fresh")])

    received = await other.consumer.receive(10, suspect=True, wait=5)
    admission = await other.committer.admit(received)
    await other.committer.commit([Finish(each) for each in admission.run])

    assert "b" not in [each.message.id for each in admission.run]
    (letter,) = await other.transport.dead_letters()
    assert (letter.reason, letter.detail) == ("refused", "odd exists and is another's")
