"""Committing finishes with a store that is out of reach, or refuses some of them for good (P1, P3)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest

from aiotq.commit import COMMITTED, Admission, Answer, Committer, Finish
from aiotq.exceptions import ConnectionLost, Refused
from aiotq.results.fleet import FleetRow
from aiotq.transport import ACK, Delivery, GiveUp, HandBack
from aiotq.wire.message import Message
from aiotq.worker import completer as module
from aiotq.worker.completer import Completer

from ..waiting import wait_until


def delivery(name: str) -> Delivery:
    return Delivery(Message(name, "proj.add", b""), "q", 4, name, 0.0)


class Store(Committer):
    """Keeps how deliveries were settled. It refuses the finishes for which `refuses` says so, and a group with them."""

    def __init__(self, refuses: Callable[[Finish], bool] = lambda finish: False) -> None:
        self.refuses = refuses
        self.groups: list[int] = []
        self.kept: list[tuple[str, object]] = []
        self.outages = 0

    async def admit(self, deliveries: Sequence[Delivery]) -> Admission:
        return Admission(deliveries)

    def _renew_row(self, row: FleetRow) -> None:
        raise NotImplementedError

    async def _commit(self, group: Sequence[Finish]) -> Sequence[Answer]:
        self.groups.append(len(group))
        await asyncio.sleep(0)
        if self.outages:
            self.outages -= 1
            raise ConnectionLost("nobody answers")
        if any(map(self.refuses, group)):
            self.refusing(group)
        self.kept += [(each.delivery.message.id, each.settlement) for each in group if each.delivery is not None]
        return [COMMITTED] * len(group)

    def refusing(self, group: Sequence[Finish]) -> None:
        raise Refused("it is too large", "too_large")


class Defective(Store):
    def refusing(self, group: Sequence[Finish]) -> None:
        raise ZeroDivisionError("a defect")


class OneByOne(Store):
    """Knows which of a group it refuses, once it has written the others."""

    async def _commit(self, group: Sequence[Finish]) -> Sequence[Answer]:
        refused = [self.refuses(finish) for finish in group]
        await super()._commit([finish for finish, is_refused in zip(group, refused, strict=True) if not is_refused])
        return [Refused("no such queue", "queue") if is_refused else COMMITTED for is_refused in refused]


@asynccontextmanager
async def completing(store: Store) -> AsyncIterator[tuple[Completer, list[str]]]:
    settled: list[str] = []
    completer = Completer(store, lambda each: settled.append(each.message.id))

    def instead(finish: Finish, given: Delivery, why: str) -> Iterator[Finish]:
        if not isinstance(finish.settlement, HandBack):
            yield Finish(given, GiveUp("first", why))
            yield Finish(given, GiveUp("second", why))

    completer.instead = instead
    async with asyncio.TaskGroup() as group:
        running = group.create_task(completer.run())
        yield completer, settled
        running.cancel()


def plain(finish: Finish) -> bool:
    return finish.settlement is ACK


@pytest.mark.parametrize("kind", [Store, Defective, OneByOne])
async def test_what_is_refused_is_given_up_alone_and_the_others_are_committed_once(kind: type[Store]) -> None:
    store = kind(lambda finish: plain(finish) and finish.delivery is not None and finish.delivery.message.id == "37")

    async with completing(store) as (completer, settled):
        for number in range(100):
            completer.add(Finish(delivery(str(number))))
        await completer.drained()

    assert sorted(settled, key=int) == [str(number) for number in range(100)]
    assert dict(store.kept).pop("37") == GiveUp("first", _why(kind))
    assert len(store.kept) == len(dict(store.kept)) == 100
    assert completer.completed == 100
    assert completer.uncommitted == 0
    assert len(store.groups) < 20


def _why(kind: type[Store]) -> str:
    if kind is Defective:
        return "a defect in aiotq: ZeroDivisionError: ZeroDivisionError('a defect')"
    return "no such queue" if kind is OneByOne else "it is too large"


async def test_all_of_a_group_may_be_refused() -> None:
    store = Store(plain)

    async with completing(store) as (completer, settled):
        for number in range(10):
            completer.add(Finish(delivery(str(number))))
        await completer.drained()

    assert len(settled) == 10
    assert {settlement for _, settlement in store.kept} == {GiveUp("first", "it is too large")}


async def test_what_is_out_of_reach_is_asked_until_it_answers_and_nothing_is_given_up() -> None:
    store = Store()
    store.outages = 3

    async with completing(store) as (completer, settled):
        completer.add(Finish(delivery("a")))
        await completer.drained()

    assert store.kept == [("a", ACK)]
    assert settled == ["a"]


async def test_an_outage_while_a_culprit_is_looked_for_loses_and_repeats_nothing() -> None:
    store = Store(lambda finish: plain(finish) and finish.delivery is not None and finish.delivery.message.id == "5")
    refusing = store.refusing

    def with_an_outage(group: Sequence[Finish]) -> None:
        store.outages = 1
        refusing(group)

    store.refusing = with_an_outage  # type: ignore[method-assign]
    async with completing(store) as (completer, _):
        for number in range(8):
            completer.add(Finish(delivery(str(number))))
        await completer.drained()

    assert sorted(name for name, _ in store.kept) == [str(number) for number in range(8)]


async def test_what_is_refused_whatever_is_written_stays_ours_and_is_tried_once_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_ANOTHER_TRY", 0.01)
    store = Store(lambda finish: True)

    with caplog.at_level(logging.ERROR):
        async with completing(store) as (completer, settled):
            completer.add(Finish(delivery("a")))
            await wait_until(lambda: len(store.groups) > 9, "it is tried again")
            assert completer.uncommitted >= 1
            assert settled == []

            store.refuses = lambda finish: False
            await wait_until(lambda: bool(settled), "it is settled")

    assert store.kept == [("a", GiveUp("second", "it is too large"))]
    assert completer.uncommitted == 0
    assert [record.getMessage() for record in caplog.records] == [
        "what came of task proj.add[a] is refused: it is too large"
    ]


async def test_what_can_not_be_delayed_waits_here_and_is_handed_back_then() -> None:
    store = Store(lambda finish: isinstance(finish.settlement, HandBack) and finish.settlement.delay > 0)

    async with completing(store) as (completer, settled):
        completer.add(Finish(delivery("a"), HandBack(0.02)))
        completer.add(Finish(delivery("b")))
        await completer.drained()
        assert completer.uncommitted == 0  # it is nobody's loss: it has not run
        await wait_until(lambda: settled == ["b", "a"], "it is handed back")

    assert store.kept == [("b", ACK), ("a", HandBack())]


async def test_the_outcome_of_what_was_acknowledged_early_is_replaced_too() -> None:
    written: list[Finish] = []
    store = Store(plain)

    async with completing(store) as (completer, settled):
        commit = store._commit

        async def noting(group: Sequence[Finish]) -> Sequence[Answer]:
            answers = await commit(group)
            written.extend(group)
            return answers

        store._commit = noting  # type: ignore[method-assign]
        completer.add(Finish(None), delivery("a"))
        await completer.drained()

    assert written == [Finish(None, GiveUp("first", "it is too large"))]
    assert settled == []
