"""Permits of killed workers: none is lost, and there are never more runs than seats (P1, P2, P3)."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from . import apps
from .harness import Chaos

SEATS = 3


def runs(chaos: Chaos, of: Collection[str] | None = None) -> Iterator[tuple[float, float]]:
    """When each run began and ended, of all or of these calls; it ended with its process at the latest."""
    killed = {death.worker: death.time for death in chaos.deaths}
    ended = {(fact.id, fact.worker): fact.time for fact in chaos.seen("end")}
    for fact in chaos.seen("start"):
        if of is not None and fact.id not in of:
            continue
        end = ended.get((fact.id, fact.worker), killed.get(fact.worker))
        assert end is not None, f"{fact.id} began in {fact.worker} and never ended"
        yield fact.time, end


def most_at_once(spans: Iterator[tuple[float, float]]) -> int:
    changes = sorted(change for began, ended in spans for change in ((began, 1), (ended, -1)))
    now = most = 0
    for _, step in changes:
        now += step
        most = max(most, now)
    return most


async def test_seats_of_killed_workers_are_filled_again_and_never_twice(chaos: Chaos) -> None:
    count = 60
    async with chaos.client:
        signatures = [chaos.client.signature(apps.one_of_three.name, (0.05,)) for _ in range(count)]
        sent = {result.id for result in await chaos.client.send_many(signatures)}
    workers = [await chaos.worker() for _ in range(2)]
    for n in range(2):
        await chaos.sees("start", count=10 * (n + 1))
        workers.pop(0).kill()
        workers.append(await chaos.worker())
    states = await chaos.all_ended(sent)

    assert {states[task_id] for task_id in sent} == {"SUCCESS"}
    assert len(states) == count
    chaos.nothing_is_lost(sent)
    chaos.only_the_killed_run_again()
    assert most_at_once(runs(chaos)) <= SEATS
