"""P1, P2, P3: workflows whose workers, or whose broker, are killed end with their value, each call made once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any, Final

import pytest

from aiotq import AioTQ, Canvas, chain, chord, group

from ..canvas.reference import expected
from ..canvas.specs import Call, Chain, Chord, Fails, Group, Replaces, Spec, Workflow, text_of
from . import workflow_apps
from .backends import OwnPostgres, Redis
from .harness import PATIENCE, Chaos, Process

WORKFLOWS: Final = 60


def replaced(label: str) -> Call:
    """A call that does as `cell` does when it is replaced."""
    first, second, last = (Call(f"{label}{n}") for n in range(3))
    return Call(label, does=Replaces(Chain((Group((first, second)), last))))


#: Chords, chains, and all of it in one another; error callbacks are `told`.
SHAPES: Final[tuple[Spec, ...]] = (
    Chord(Group(tuple(Call(f"a{n}") for n in range(6))), Call("b")),
    Chain(tuple(Call(f"c{n}") for n in range(5))),
    Chord(
        Group((Chain((Call("a"), Call("b"))), Chord(Group((Call("c"), Call("d"))), Call("f")), Call("g"))),
        Chain((Call("h"), Group((Call("i"), Call("j"))), Call("k"))),
    ),
    Chain((Group((Call("a"), replaced("b"))), Call("c"), Group((Call("d"), Call("f"))), Call("g"))),
    Chain((Group((Call("a", does=Fails(), allow_failure="continue"), Call("b"))), Call("c"), Call("d"))),
)


def built(client: AioTQ, spec: Spec, number: int) -> Canvas[Any]:
    """Return `spec` as the `number`th workflow; the ids of its calls are their labels behind that."""
    inner = partial(built, client, number=number)
    match spec:
        case Call(label, does=does):
            how = "fails" if isinstance(does, Fails) else "is replaced" if isinstance(does, Replaces) else "returns"
            kwargs = {"label": label, "of": number, "does": how, "seconds": 0.005 * (number % 7)}
            call = client.signature(workflow_apps.cell.name, kwargs=kwargs, task_id=f"{number}.{label}")
            return call.allow_failure(spec.allow_failure).link_error(client.signature(workflow_apps.told.name))
        case Chain(steps):
            return chain(*map(inner, steps))
        case Group(members):
            return group(map(inner, members))
        case Chord(header, body):
            return chord(inner(header), inner(body))
        case _:
            raise TypeError(spec)


class Sent:
    """Workflows that were sent, and what must come of them."""

    def __init__(self, chaos: Chaos) -> None:
        self._chaos = chaos
        self._handles: list[Any] = []

    async def send(self) -> None:
        for number in range(WORKFLOWS):
            self._handles.append(await built(self._chaos.client, SHAPES[number % len(SHAPES)], number).delay())

    async def end_as_they_should(self) -> None:
        """Wait for all of them: each has its value, each failure was told once, and nothing is left."""
        for number, handle in enumerate(self._handles):
            wanted = expected(Workflow(SHAPES[number % len(SHAPES)]))
            assert await handle.get(timeout=PATIENCE) == text_of(wanted.value.value)
        await self._chaos.when(lambda standing: not standing.waiting, "nothing is left to be done")
        assert not self._chaos.backend.open_joins()
        failed = {f"{number}.a" for number in range(4, WORKFLOWS, len(SHAPES))}
        assert {fact.id for fact in self._chaos.seen("told")} == failed

    def calls(self) -> int:
        return sum(sum(expected(Workflow(SHAPES[n % len(SHAPES)])).calls.values()) for n in range(WORKFLOWS))


def worker(chaos: Chaos) -> Process:
    return chaos.start(*("-m", "aiotq", "worker", f"{workflow_apps.__name__}:app", "-c", "10"), name="worker")


@pytest.fixture
async def sent(chaos: Chaos) -> AsyncIterator[Sent]:
    """Workflows that were sent; nobody runs them yet."""
    async with chaos.client:
        sent = Sent(chaos)
        await sent.send()
        yield sent


def kills(chaos: Chaos) -> Iterator[int]:
    """Yield how many calls must have ended before each kill: from among the first to near the last."""
    for part in (0.15, 0.4, 0.65, 0.9):
        yield int(WORKFLOWS * 7 * part) + chaos.random.randrange(20)


async def test_workflows_end_once_while_their_workers_are_killed_again_and_again(chaos: Chaos, sent: Sent) -> None:
    workers = [worker(chaos), worker(chaos)]

    for count in kills(chaos):
        await chaos.sees("end", count=count)
        await asyncio.sleep(chaos.random.uniform(0, 0.02))  # a random moment is the point
        workers.pop(0).kill()
        workers.append(worker(chaos))

    await sent.end_as_they_should()
    chaos.only_the_killed_run_again()
    assert len(chaos.starts()) == sent.calls()
    chaos.backend.check()


@pytest.mark.parametrize("backend", ["redis", "own-postgres"], indirect=True)
async def test_workflows_end_once_while_their_broker_is_killed(
    chaos: Chaos, backend: Redis | OwnPostgres, sent: Sent
) -> None:
    for _ in range(2):
        worker(chaos)

    await chaos.sees("end", count=100)
    await asyncio.to_thread(backend.server.kill)
    await asyncio.to_thread(backend.server.start)

    await sent.end_as_they_should()
    starts = chaos.starts()
    assert set(starts.values()) == {1}
    assert len(starts) == sent.calls()
    chaos.backend.check()
