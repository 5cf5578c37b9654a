"""What every ledger keeps of tasks with a `max_concurrency`: who has a permit, who waits, and who is woken."""

from __future__ import annotations

from aiotq.core.values import replace
from aiotq.results import Permit
from aiotq.results.permits import RESERVED
from aiotq.testing.contracts.harness import Kept, KeptHarness


def permit(number: int, *, name: str = "few", limit: int = 2, attempt: int = 0) -> Permit:
    return Permit((f"{number}", attempt), name, limit, float(number))


async def woken(store: Kept, *released: Permit, waiting: tuple[Permit, ...] = (), holder: str = "me") -> list[str]:
    """Release permits and wait for others; return who is woken for a free one."""
    return [each.key[0] for each in await store.ledger.hand_over_permits(released, waiting, holder, {"few": 2})]


class PermitContract:
    """How many runs of a task there are at once."""

    async def test_no_more_are_taken_than_there_are_whoever_asks(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()

        first = await store.ledger.acquire_permits([permit(0), permit(1), permit(2)], "me", 100.0)
        later = await other.ledger.acquire_permits([permit(3), permit(0, name="many")], "you", 100.0)

        assert [bool(waiting) for waiting in (*first, *later)] == [False, False, True, True, False]

    async def test_who_has_one_may_ask_again(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.acquire_permits([permit(0), permit(1)], "me", 100.0)

        assert list(await store.ledger.acquire_permits([permit(0), permit(1)], "me", 100.0)) == [0, 0]
        assert list(await store.ledger.acquire_permits([permit(0)], "you", 100.0)) == [1]

    async def test_a_message_whose_holder_died_has_its_permit_again(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.acquire_permits([permit(0), permit(1)], "dead", 100.0)
        again = replace(permit(1), is_again=True)

        assert list(await store.ledger.acquire_permits([permit(2), again], "me", 100.0)) == [1, 0]
        assert list(await store.ledger.acquire_permits([permit(2)], "me", 100.0)) == [1]

    async def test_who_waited_longest_is_woken_for_a_free_one_which_is_reserved_for_it(
        self, results: KeptHarness
    ) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        await store.ledger.acquire_permits([permit(0), permit(1)], "me", 100.0)
        assert await woken(store, waiting=(permit(5, attempt=1), permit(3), permit(4))) == []

        assert await woken(store, permit(0)) == ["3"]

        assert list(await other.ledger.acquire_permits([permit(9)], "you", 100.0)) == [4]
        assert list(await other.ledger.acquire_permits([permit(3)], "you", 100.0)) == [0]
        assert await woken(store, permit(1)) == ["4"]
        (last,) = await other.ledger.hand_over_permits([permit(3)], (), "you", {"few": 2})
        assert last == permit(5, attempt=1)

    async def test_who_begins_to_wait_is_woken_for_what_became_free_meanwhile(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.acquire_permits([permit(0), permit(1)], "me", 100.0)
        assert await woken(store, permit(0)) == []

        assert await woken(store, waiting=(permit(2), permit(3))) == ["2"]

    async def test_only_who_has_one_can_release_it(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.acquire_permits([permit(0), permit(1)], "me", 100.0)

        assert await woken(store, permit(0), waiting=(permit(2),), holder="you") == []
        assert await woken(store, permit(0)) == ["2"]
        assert await woken(store, permit(0)) == []

    async def test_what_is_reserved_for_one_that_is_gone_is_the_next_ones(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        await store.ledger.acquire_permits([permit(0), permit(1)], "me", 100.0)
        await woken(store, waiting=(permit(2), permit(3)))
        assert await woken(store, permit(0)) == ["2"]

        assert await woken(store, permit(2), holder="") == ["3"]
        assert await woken(store, permit(1)) == []

    async def test_permits_of_the_dead_are_free_when_their_leases_end(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        store.ledger.renew_permits(
            [permit(9)], "me", 1.0
        )  # nobody has it; the server is found now, which may take as long as a lease
        await store.ledger.acquire_permits([permit(0)], "dead", 0.4)
        await store.ledger.acquire_permits([permit(1)], "me", 0.4)
        await woken(store, waiting=(permit(2),))
        store.ledger.renew_permits([permit(1)], "me", 100.0)
        await results.pass_time(0.45)

        assert await woken(store) == ["2"]
        assert list(await store.ledger.acquire_permits([permit(3)], "me", 100.0)) == [2]
        store.ledger.renew_permits([permit(0)], "dead", 100.0)  # it is too late
        assert list(await store.ledger.acquire_permits([permit(2)], "me", 100.0)) == [0]

    async def test_who_was_woken_and_did_not_come_is_woken_again(self, results: KeptHarness) -> None:
        if results.clock is None:
            return  # as long as that
        store, _ = await results.connect()
        await store.ledger.acquire_permits([permit(0), permit(1)], "me", 100.0)
        await woken(store, waiting=(permit(2),))
        assert await woken(store, permit(0)) == ["2"]
        assert await woken(store) == []

        await results.pass_time(RESERVED + 1)

        assert await woken(store) == ["2"]

    async def test_nothing_asked_is_nothing_done(self, results: KeptHarness) -> None:
        store, _ = await results.connect()

        assert list(await store.ledger.acquire_permits([], "me", 1.0)) == []
        assert list(await store.ledger.hand_over_permits([], [], "me", {})) == []
        store.ledger.renew_permits([], "me", 1.0)
