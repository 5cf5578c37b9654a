"""A worker dies at every await of the way of a delivery in turn, for a workflow of each shape (P3).

Whatever is running then runs again, and that is all that does; another worker brings the workflow to its end.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from aiotq import AioTQ
from aiotq.core.inside import core_of
from aiotq.testing.contracts.harness import JumpingClock

from .agreeing import differences_in_calls, differences_in_ends
from .conftest import PAIRS
from .dying import LEASE, Life, Mortal
from .reference import expected
from .specs import Adds, Call, Chain, Chord, Fails, Group, Replaces, Spec, Workflow
from .tasks import Tasks


def told(label: str) -> tuple[Spec, ...]:
    return (Call(label, kind="told_all"),)


SHAPES: Final[dict[str, Spec]] = {
    "chain": Chain((Call("a"), Call("b", links=(Call("l"),)), Call("c"))),
    "chain that fails": Chain((Call("a"), Call("b", does=Fails(), errlinks=told("e")), Call("c"))),
    "chord": Chord(Group((Call("a"), Call("b"), Call("c", before=("retry",)))), Call("d", links=(Call("l"),))),
    "chord that fails": Chain(
        (Group((Call("a"), Call("b", does=Fails(), errlinks=told("e")))), Call("c", errlinks=told("f")), Call("d"))
    ),
    "chord of chains and chords": Chord(
        Group((Chain((Call("a"), Call("b"))), Chord(Group((Call("c"), Call("d"))), Call("f")))),
        Chain((Call("g"), Group((Call("h"), Call("i"))), Call("j"))),
    ),
    "goes on after failures": Chain(
        (
            Group((Call("a", does=Fails(), allow_failure="continue"), Call("b", does=Fails(), allow_failure="skip"))),
            Call("c", does=Fails(), allow_failure="skip"),
            Call("d", does=Fails(), allow_failure="continue", errlinks=told("e")),
            Call("f"),
        )
    ),
    "replaced by a chord": Chord(
        Group(
            (Call("a", does=Replaces(Chord(Group((Call("b"), Call("c"))), Call("d"))), links=(Call("l"),)), Call("f"))
        ),
        Call("g"),
    ),
    "grows": Chord(Group((Call("a", does=Adds(Chain((Call("b"), Call("c"))))), Call("d"))), Call("f")),
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("inline", [4096, 0], ids=["", "rests behind joins"])
@pytest.mark.parametrize("pair", ["memory", "ordered"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_a_workflow_reaches_its_end_wherever_its_worker_dies(
    shape: str, pair: str, inline: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("aiotq.canvas.planner.INLINE", inline)
    clock = JumpingClock()
    broker, backend = PAIRS[pair](tmp_path)
    app = AioTQ("canvas", broker=broker, backend=backend, clock=clock)
    tasks = Tasks(app)
    deaths = 0
    async with app:
        for last in itertools.count(1):
            died = await _dies(app, tasks, clock, SHAPES[shape], last)
            deaths += died
            if not died:
                break
    assert deaths > 10


async def _dies(app: AioTQ, tasks: Tasks, clock: JumpingClock, spec: Spec, last: int) -> bool:
    """Run a workflow whose worker dies at its `last` await; return whether it came to that."""
    workflow = Workflow(spec)
    connection = await core_of(app).connection()
    story = tasks.story(f"w{last}")
    await tasks.built(spec, story).delay()
    life = Life(last)
    mortal = Mortal(app, connection, f"mortal{last}", story, life)
    working = asyncio.create_task(mortal.work())
    dying = asyncio.create_task(life.died.wait())
    await asyncio.wait({working, dying}, return_when=asyncio.FIRST_COMPLETED)
    dying.cancel()
    if not life.died.is_set():
        await working
    repeatable = mortal.uncommitted

    clock.jump(LEASE + 1)
    heir = Mortal(app, connection, f"heir{last}", story, Life())
    consumer = connection.broker.consumer(f"reclaiming{last}", ["default"], lease=LEASE)
    await (await consumer.__aenter__()).reclaim()
    await heir.work()
    while any(queue.ready or queue.delayed for queue in await app.admin.queues()):
        clock.jump(LEASE + 1)  # a claim of the dead, by the store's own clock, may have ended later
        await heir.work()

    wanted = expected(workflow)
    why = [*differences_in_calls(story, wanted, repeatable), *await differences_in_ends(app, story, wanted)]
    why += [f"{queue.leased} deliveries are held" for queue in await app.admin.queues() if queue.leased]
    working.cancel()
    await asyncio.wait({working})
    assert not why, f"died at await {last}: " + "\n  ".join(why)
    return life.died.is_set()
