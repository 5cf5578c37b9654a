"""Waiting for results: no push is missed between listening and looking, and nobody is left behind (P7)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from aiotq import states
from aiotq.backends.memory.bus import MemoryBus
from aiotq.backends.memory.records import MemoryRecords
from aiotq.backends.memory.state import MemoryState
from aiotq.exceptions import OperationalError, StorageError
from aiotq.results import Record
from aiotq.results.waiting import Waiting

from ..waiting import wait_until


def record(task_id: str, state: str = states.SUCCESS, body: bytes = b"") -> Record:
    return Record(task_id, state, body, "application/json", 4_000_000_000.0)


class SlowStore(MemoryRecords):
    """A store whose answers can be held up, and which counts the questions; it pushes only what a test pushes."""

    def __init__(self) -> None:
        state = MemoryState()
        super().__init__(state, MemoryBus(state.hub))
        self.asked: list[list[str]] = []
        self.errors: list[Exception] = []
        self.watched: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        self.asked.append(list(ids))
        if self.errors:
            raise self.errors.pop(0)
        answer = await super().get(ids)  # as it is when it is asked
        await self.gate.wait()
        return answer

    async def watch(self, task_id: str) -> None:
        self.watched.append(task_id)

    async def unwatch(self, task_id: str) -> None:
        self.watched.remove(task_id)

    def keep(self, *records: Record) -> None:
        """Store without a push: the push was lost, or goes to another process."""
        with self.state.lock:
            for each in records:
                self.state.put(each)


@asynccontextmanager
async def answering(store: SlowStore) -> AsyncIterator[Waiting]:
    waiting = Waiting(store)
    running = asyncio.create_task(waiting.run())
    await asyncio.sleep(0)
    try:
        yield waiting
    finally:
        running.cancel()
        await asyncio.wait({running})


@pytest.fixture
def store() -> SlowStore:
    return SlowStore()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_is_there_already_is_found(store: SlowStore) -> None:
    store.keep(record("me"))

    async with answering(store) as waiting:
        assert (await waiting.terminal("me", pushed_here=True)).id == "me"


async def test_what_is_pushed_later_is_found(store: SlowStore) -> None:
    async with answering(store) as waiting:
        waiter = asyncio.create_task(waiting.terminal("me", pushed_here=True))
        await wait_until(lambda: store.asked, "the store was asked")
        store.on_push([record("other"), record("me", states.STARTED)])
        await turns()
        assert not waiter.done()
        store.on_push([record("me")])

        assert (await waiter).state == states.SUCCESS


async def test_a_push_between_listening_and_looking_is_not_missed(store: SlowStore) -> None:
    """The store had answered "unknown" when the outcome was written; the answer arrives after the push."""
    store.gate.clear()

    async with answering(store) as waiting:
        waiter = asyncio.create_task(waiting.terminal("me", pushed_here=True))
        await wait_until(lambda: store.asked, "the store was asked")
        store.on_push([record("me")])
        store.gate.set()

        assert (await waiter).state == states.SUCCESS


async def test_a_lost_push_is_found_by_the_slow_look(store: SlowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotq.results.waiting._SAFETY_INTERVAL", 0.05)

    async with answering(store) as waiting:
        waiter = asyncio.create_task(waiting.terminal("me", pushed_here=True))
        await wait_until(lambda: store.asked, "the store was asked")
        store.keep(record("me"))

        async with asyncio.timeout(5):
            assert (await waiter).state == states.SUCCESS


async def test_nobody_waiting_means_nobody_asking(store: SlowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotq.results.waiting._SAFETY_INTERVAL", 0.001)

    async with answering(store):
        await asyncio.sleep(0.02)

    assert store.asked == []


async def test_many_waiters_share_one_question(store: SlowStore) -> None:
    async with answering(store) as waiting:
        waiters = [asyncio.create_task(waiting.terminal(f"id-{n}", pushed_here=True)) for n in range(500)]
        await wait_until(lambda: store.asked, "the store was asked")
        store.on_push([record(f"id-{n}") for n in range(500)])
        await asyncio.gather(*waiters)

    assert len(store.asked) == 1
    assert len(store.asked[0]) == 500


async def test_very_many_waiters_are_asked_for_in_portions(store: SlowStore) -> None:
    store.keep(*(record(f"id-{n}") for n in range(2500)))

    async with answering(store) as waiting:
        await asyncio.gather(*(waiting.terminal(f"id-{n}", pushed_here=True) for n in range(2500)))

    assert [len(ids) for ids in store.asked] == [1000, 1000, 500]


async def test_a_push_that_answers_before_the_question_saves_it(store: SlowStore) -> None:
    store.gate.clear()

    async with answering(store) as waiting:
        first = asyncio.create_task(waiting.terminal("first", pushed_here=True))
        await wait_until(lambda: store.asked, "the store was asked")
        second = asyncio.create_task(waiting.terminal("second", pushed_here=True))
        await turns()
        store.on_push([record("first"), record("second")])
        await asyncio.gather(first, second)
        store.gate.set()
        await turns()

    assert store.asked == [["first"]]


async def test_several_may_wait_for_the_same(store: SlowStore) -> None:
    async with answering(store) as waiting:
        waiters = [asyncio.create_task(waiting.terminal("me", pushed_here=True)) for _ in range(3)]
        await turns()
        waiters[0].cancel()
        await turns()
        store.on_push([record("me")])

        assert [(await each).id for each in waiters[1:]] == ["me", "me"]


async def test_a_cancelled_waiter_is_forgotten(store: SlowStore) -> None:
    async with answering(store) as waiting:
        waiter = asyncio.create_task(waiting.terminal("me", pushed_here=False))
        await wait_until(lambda: store.asked, "the store was asked")
        assert store.listening
        assert store.watched == ["me"]

        waiter.cancel()
        await asyncio.wait({waiter})

        assert not waiting._listeners
        assert not store.listening
        assert store.watched == []


async def test_only_what_is_pushed_elsewhere_is_watched(store: SlowStore) -> None:
    async with answering(store) as waiting, waiting.records(["here", "there"], elsewhere=["there"]):
        assert store.watched == ["there"]

    assert store.watched == []


async def test_an_unreachable_store_is_asked_again(store: SlowStore, caplog: pytest.LogCaptureFixture) -> None:
    store.errors = [StorageError("locked"), StorageError("locked")]
    store.keep(record("me"))

    async with answering(store) as waiting:
        assert (await waiting.terminal("me", pushed_here=True)).id == "me"

    assert "reading awaited results failed, trying again: locked" in caplog.text


async def test_all_states_on_the_way_can_be_followed(store: SlowStore) -> None:
    store.keep(record("me", "PROGRESS", b"1"))

    async with answering(store) as waiting, waiting.records(["me", "you"]) as records:
        first = await records.get()
        store.on_push([record("me", "PROGRESS", b"2"), record("you"), record("me")])
        rest = [await records.get() for _ in range(3)]

    assert [(each.id, each.state, each.body) for each in (first, *rest)] == [
        ("me", "PROGRESS", b"1"),
        ("me", "PROGRESS", b"2"),
        ("you", "SUCCESS", b""),
        ("me", "SUCCESS", b""),
    ]


async def test_a_slow_reader_misses_the_oldest_and_never_the_last(store: SlowStore) -> None:
    async with answering(store) as waiting, waiting.records(["me"], size=3) as records:
        store.on_push([*(record("me", "PROGRESS", str(n).encode()) for n in range(10)), record("me")])

        assert [(await records.get()).body for _ in range(3)] == [b"8", b"9", b""]


async def test_the_same_id_twice_is_collected_and_forgotten(store: SlowStore) -> None:
    async with answering(store) as waiting:
        async with waiting.records(["me", "me"]):
            pass

        assert not waiting._listeners


@pytest.mark.parametrize("kind", ["terminal", "records"])
async def test_closing_tells_everybody_who_waits(store: SlowStore, kind: str) -> None:
    """An app that shuts down while requests await results must not leave them hanging."""

    async def wait(waiting: Waiting) -> None:
        if kind == "terminal":
            await waiting.terminal("me", pushed_here=True)
        else:
            async with waiting.records(["me"], size=1) as records:
                while True:
                    await records.get()

    async with answering(store) as waiting:
        waiter = asyncio.create_task(wait(waiting))
        await wait_until(lambda: store.asked, "the store was asked")

    with pytest.raises(OperationalError, match="closed while a result was awaited"):
        async with asyncio.timeout(2):
            await waiter
    with pytest.raises(OperationalError, match="closed"):
        await wait(waiting)


async def test_a_record_is_had_although_watching_for_it_cannot_be_ended() -> None:
    class Failing(SlowStore):
        async def unwatch(self, task_id: str) -> None:
            raise OperationalError("nobody answers")

    store = Failing()
    store.keep(record("a"))
    async with answering(store) as waiting:
        assert (await waiting.terminal("a", pushed_here=False)).state == states.SUCCESS


async def test_what_nobody_pushes_is_looked_for_again_and_again_and_ever_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aiotq.results.waiting._FIRST_POLL", 0.002)
    monkeypatch.setattr(SlowStore, "is_polled", True)
    store = SlowStore()
    loop = asyncio.get_running_loop()
    async with answering(store) as waiting:
        began = loop.time()
        got = asyncio.create_task(waiting.terminal("a", pushed_here=True))
        await wait_until(lambda: len(store.asked) >= 6, "it was looked for six times")
        assert loop.time() - began > 0.8 * 0.002 * sum(
            1.5**n for n in range(5)
        )  # each pause longer than the one before
        store.keep(record("a"))

        assert (await got).state == states.SUCCESS
