"""What every ledger keeps of the fleet: who is there, who went missing, and for how long that is known."""

from __future__ import annotations

from aiotq.results.fleet import Presence
from aiotq.testing.contracts.harness import Kept, KeptHarness

from ..waiting import wait_until


async def rows(store: Kept) -> dict[str, bytes]:
    return {each.key: each.row for each in await store.ledger.fleet()}


class FleetContract:
    """Rows under leases."""

    async def test_a_row_is_seen_by_all_and_the_last_one_written_counts(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        assert list(await other.ledger.fleet()) == []

        store.ledger.renew_presence("b", b"first", 100.0)
        store.ledger.renew_presence("a", b"\x00\xff", 100.0)
        store.ledger.renew_presence("b", b"second", 50.0)

        first, second = await other.ledger.fleet()
        assert isinstance(first, Presence)
        assert (first.key, first.row, second.key, second.row) == ("a", b"\x00\xff", "b", b"second")
        assert 90 < first.left <= 100
        assert 40 < second.left <= 50

    async def test_who_says_good_bye_is_gone_and_nobody_else(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        store.ledger.renew_presence("a", b"1", 100.0)
        store.ledger.renew_presence("b", b"2", 100.0)

        await store.ledger.end_presence("a")
        await store.ledger.end_presence("nobody")

        assert await rows(store) == {"b": b"2"}

    async def test_a_paused_queue_is_known_to_all_until_somebody_resumes_it(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        other, _ = await results.connect()
        assert await other.ledger.paused_queues() == {}

        assert await store.ledger.pause_queue("mail", 1000.5)
        assert await store.ledger.pause_queue("a b'\u00e9", 2000.0)
        assert not await other.ledger.pause_queue("mail", 3000.0)

        assert await other.ledger.paused_queues() == {"mail": 1000.5, "a b'\u00e9": 2000.0}

        assert await other.ledger.resume_queue("mail")
        assert not await store.ledger.resume_queue("mail")
        assert not await store.ledger.resume_queue("never")
        await results.pass_time(1.0)
        assert await store.ledger.paused_queues() == {"a b'\u00e9": 2000.0}

    async def test_who_lets_the_lease_end_is_missing_until_it_renews(self, results: KeptHarness) -> None:
        store, _ = await results.connect()
        store.ledger.renew_presence("a", b"1", 0.2)
        await results.pass_time(0.3)

        async def is_missing() -> bool:
            (found,) = await store.ledger.fleet()
            return found.left < 0

        await wait_until(is_missing, "the row is missing")
        store.ledger.renew_presence("a", b"2", 100.0)
        (found,) = await store.ledger.fleet()
        assert found.left > 0
        assert found.row == b"2"
