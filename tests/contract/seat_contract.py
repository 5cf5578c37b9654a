"""What every results store keeps of tasks with a `max_concurrency`: who sits, who waits, and who is told."""

from __future__ import annotations

from aiotq.results import Permit, ResultStore
from aiotq.results.base import SEAT_KEPT

from .harness import StoreHarness


def seat(number: int, *, name: str = "few", limit: int = 2, attempt: int = 0) -> Permit:
    return Permit((f"{number}", attempt), name, limit, float(number))


async def told(store: ResultStore, *left: Permit, seeking: tuple[Permit, ...] = (), holder: str = "me") -> list[str]:
    """Leave seats and seek others; return who is told of a free one."""
    return [each.key[0] for each in await store.hand_over_permits(left, seeking, holder, {"few": 2})]


class SeatContract:
    """How many runs of a task there are at once."""

    async def test_no_more_sit_than_there_are_seats_whoever_asks(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()

        first = await store.acquire_permits([seat(0), seat(1), seat(2)], "me", 100.0)
        later = await other.acquire_permits([seat(3), seat(0, name="many")], "you", 100.0)

        assert [bool(waiting) for waiting in (*first, *later)] == [False, False, True, True, False]

    async def test_who_sits_may_ask_again(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.acquire_permits([seat(0), seat(1)], "me", 100.0)

        assert list(await store.acquire_permits([seat(0), seat(1)], "me", 100.0)) == [0, 0]
        assert list(await store.acquire_permits([seat(0)], "you", 100.0)) == [1]

    async def test_who_waited_longest_is_told_of_a_free_seat_which_is_kept_for_it(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        await store.acquire_permits([seat(0), seat(1)], "me", 100.0)
        assert await told(store, seeking=(seat(5, attempt=1), seat(3), seat(4))) == []

        assert await told(store, seat(0)) == ["3"]

        assert list(await other.acquire_permits([seat(9)], "you", 100.0)) == [4]
        assert list(await other.acquire_permits([seat(3)], "you", 100.0)) == [0]
        assert await told(store, seat(1)) == ["4"]
        (last,) = await other.hand_over_permits([seat(3)], (), "you", {"few": 2})
        assert last == seat(5, attempt=1)

    async def test_who_begins_to_wait_is_told_of_what_became_free_meanwhile(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.acquire_permits([seat(0), seat(1)], "me", 100.0)
        assert await told(store, seat(0)) == []

        assert await told(store, seeking=(seat(2), seat(3))) == ["2"]

    async def test_only_who_sits_can_leave(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.acquire_permits([seat(0), seat(1)], "me", 100.0)

        assert await told(store, seat(0), seeking=(seat(2),), holder="you") == []
        assert await told(store, seat(0)) == ["2"]
        assert await told(store, seat(0)) == []

    async def test_what_is_kept_for_one_that_is_gone_is_the_next_ones(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        await store.acquire_permits([seat(0), seat(1)], "me", 100.0)
        await told(store, seeking=(seat(2), seat(3)))
        assert await told(store, seat(0)) == ["2"]

        assert await told(store, seat(2), holder="") == ["3"]
        assert await told(store, seat(1)) == []

    async def test_seats_of_the_dead_are_free_when_their_leases_end(self, results: StoreHarness) -> None:
        store, _ = await results.connect()
        store.renew_permits(
            [seat(9)], "me", 1.0
        )  # nobody has it; the server is found now, which may take as long as a lease
        await store.acquire_permits([seat(0)], "dead", 0.4)
        await store.acquire_permits([seat(1)], "me", 0.4)
        await told(store, seeking=(seat(2),))
        store.renew_permits([seat(1)], "me", 100.0)
        await results.pass_time(0.45)

        assert await told(store) == ["2"]
        assert list(await store.acquire_permits([seat(3)], "me", 100.0)) == [2]
        store.renew_permits([seat(0)], "dead", 100.0)  # it is too late
        assert list(await store.acquire_permits([seat(2)], "me", 100.0)) == [0]

    async def test_who_was_told_and_did_not_come_is_told_again(self, results: StoreHarness) -> None:
        if results.clock is None:
            return  # as long as that
        store, _ = await results.connect()
        await store.acquire_permits([seat(0), seat(1)], "me", 100.0)
        await told(store, seeking=(seat(2),))
        assert await told(store, seat(0)) == ["2"]
        assert await told(store) == []

        await results.pass_time(SEAT_KEPT + 1)

        assert await told(store) == ["2"]

    async def test_nothing_asked_is_nothing_done(self, results: StoreHarness) -> None:
        store, _ = await results.connect()

        assert list(await store.acquire_permits([], "me", 1.0)) == []
        assert list(await store.hand_over_permits([], [], "me", {})) == []
        store.renew_permits([], "me", 1.0)
