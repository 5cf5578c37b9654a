"""Random workflows come to what the laws say: the same value, calls, ends and callbacks as the reference's.

`AIOTQ_CANVAS_EXAMPLES` multiplies how many are run, and takes another seed than the usual one: for long runs.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from random import Random
from typing import Final

import pytest

from aiotq import AioTQ

from .agreeing import Disagreement, disagreement_here, disagreements, smallest
from .conftest import MakeApp
from .plain_specs import headers_have_errlinks
from .specs import Workflow
from .tasks import Tasks
from .workflows import examples

#: How many workflows each pair runs: some seconds of each.
COUNTS: Final = {"memory": 2500, "ordered": 500, "sqlite": 300, "redis": 500, "postgres": 150, "rabbitmq": 200}
#: Bytes of a chain's rest that travel in a message: as few make steps wait behind joins that otherwise would not.
SHORT: Final = 300
_TIMES: Final = int(os.environ.get("AIOTQ_CANVAS_EXAMPLES", "1"))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Tasks fail by the thousand here; each would be shown with its traceback."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.timeout(150 * _TIMES)
@pytest.mark.parametrize("pair", COUNTS)
async def test_random_workflows_come_to_what_the_reference_says(pair: str, make_app: MakeApp) -> None:
    await all_agree(make_app(), COUNTS[pair])


@pytest.mark.timeout(150 * _TIMES)
async def test_it_makes_no_difference_where_the_rest_of_a_chain_waits(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiotq.canvas.planner.INLINE", SHORT)

    await all_agree(make_app(), 500, seed=30)


async def test_error_callbacks_of_chords_are_their_headers_too_if_the_setting_says_so(make_app: MakeApp) -> None:
    headers_have_errlinks.set(True)  # in this test's own context

    await all_agree(make_app(task_allow_error_cb_on_chord_header=True), 300, seed=50)


async def test_what_is_applied_here_comes_to_the_same(make_app: MakeApp) -> None:
    """But for snoozes, which nobody waits for here."""
    app = make_app()
    tasks = Tasks(app)
    found: list[Disagreement] = []
    async with app:
        for number, workflow in enumerate(examples(600, 60)):
            if "snooze" not in repr(workflow):
                found += await disagreement_here(tasks, workflow, f"w{number}")

    assert not found, "\n".join(map(str, found[:3]))


async def all_agree(app: AioTQ, count: int, seed: int = 20) -> None:
    """Run random workflows; fail with the smallest that comes to something else than the reference says."""
    seed = seed if _TIMES == 1 else Random().randrange(1 << 32)
    print(f"seed: {seed}")
    tasks = Tasks(app)
    async with app, app.worker(concurrency=100, threads=8):
        found = [
            each
            for part in range(_TIMES)
            for each in await disagreements(app, tasks, examples(count, seed + part), names=f"w{part}x")
        ]
        if found:
            numbers = iter(range(1_000_000))

            async def run(workflow: Workflow) -> Disagreement | None:
                again = await disagreements(app, tasks, [workflow], names=f"s{next(numbers)}x")
                return again[0] if again else None

            first = await smallest(found[0], run)
            pytest.fail(f"{len(found)} workflows came to something else; the first, made smaller:\n{first}", False)
