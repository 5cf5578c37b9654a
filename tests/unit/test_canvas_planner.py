"""From canvases to messages: what a workflow costs, and that no message grows with what follows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from aiotq import AioTQ, Canvas, Signature, chain, chord, group
from aiotq.backends.memory.broker import MemoryBroker
from aiotq.backends.memory.commit import MemoryCommitter
from aiotq.canvas.planner import INLINE, NOTHING, Plan, Planner, Position
from aiotq.canvas.structure import frozen, signatures_of
from aiotq.commit import Finish
from aiotq.core.inside import core_of
from aiotq.exceptions import CallError, InvalidArguments
from aiotq.results import Join
from aiotq.wire.message import Envelope, pack_envelope

app = AioTQ("proj", broker="memory://")


@app.task(name="add")
async def add(x: int, y: int) -> int:
    return x + y


@app.task(name="xsum")
async def xsum(numbers: Any) -> Any:
    return numbers


def planned(canvas: Canvas[Any], *, has_joins: bool = True) -> Plan:
    return Planner(core_of(app).builder, has_joins=has_joins).plan(frozen(canvas), NOTHING, Position())


def messages(plan: Plan) -> Iterator[Envelope]:
    """All messages of a plan, those that joins hold too."""
    yield from plan.envelopes
    for join in plan.joins:
        yield from join.then


def sizes(plan: Plan) -> list[int]:
    return [len(pack_envelope(envelope)) for envelope in messages(plan)]


def names(envelopes: Sequence[Envelope]) -> list[str]:
    return [envelope.message.task for envelope in envelopes]


# Gates


def test_a_short_rest_travels_in_the_message() -> None:
    plan = planned(chain(add.s(1, 1), add.s(2), xsum.s()))

    assert names(plan.envelopes) == ["add"]
    assert plan.joins == ()
    (envelope,) = plan.envelopes
    assert envelope.message.step is not None
    assert len(envelope.message.step.ends) == 1


def test_a_rest_beyond_4_kb_waits_behind_a_gate() -> None:
    fits = next(n for n in range(200, 0, -1) if not planned(chain(add.s(1, 1), *[add.s(2)] * n)).joins)
    short, long = (planned(chain(add.s(1, 1), *[add.s(2)] * count)) for count in (fits, fits + 1))

    assert max(sizes(short)) <= INLINE + 1000
    assert len(long.joins) >= 1
    assert {join.size for join in long.joins} == {1}, "a gate waits for one"
    assert len(long.envelopes) == 1
    assert max(sizes(long)) <= INLINE + 1000


def test_a_task_before_a_huge_group_is_a_small_message() -> None:
    plan = planned(add.s(1, 1) | group(add.s(i) for i in range(10_000)))

    (first,) = plan.envelopes
    assert len(pack_envelope(first)) < 1000
    assert [len(join.then) for join in plan.joins] == [10_000]


def test_a_long_chain_is_no_long_message() -> None:
    plan = planned(chain(add.s(1, 1), *[add.s(1)] * 3000))

    assert len(plan.envelopes) == 1
    assert max(sizes(plan)) < 10_000


def test_large_arguments_of_later_steps_do_not_burden_the_first() -> None:
    plan = planned(chain(add.s(1, 1), add.s("x" * 100_000)))

    assert len(pack_envelope(plan.envelopes[0])) < 1000


# Depth and breadth


def in_headers(depth: int) -> Canvas[Any]:
    canvas: Canvas[Any] = add.si(1, 1)
    for _ in range(depth):
        canvas = chord([canvas, add.si(1, 1)], xsum.s())
    return canvas


def in_bodies(depth: int) -> Canvas[Any]:
    canvas: Canvas[Any] = xsum.s()
    for _ in range(depth):
        canvas = chord([xsum.s(), xsum.s()], canvas)
    return canvas.clone((1,))


def in_groups(depth: int) -> Canvas[Any]:
    canvas: Canvas[Any] = xsum.s()
    for _ in range(depth):
        canvas = xsum.s() | group(canvas, xsum.s())
    return canvas.clone((1,))


def in_chains(depth: int) -> Canvas[Any]:
    canvas: Canvas[Any] = xsum.s()
    for _ in range(depth):
        canvas = chain(xsum.s(), chain(canvas, xsum.s()).allow_failure("continue"), xsum.s())
    return canvas.clone((1,))


def tree(depth: int) -> Canvas[Any]:
    """Twice as large with each level."""
    if depth == 0:
        return xsum.si(1)
    return chord([tree(depth - 1), tree(depth - 1)], xsum.s())


@pytest.mark.parametrize("nest", [in_headers, in_bodies, in_groups, in_chains])
def test_no_message_grows_with_depth(nest: Callable[[int], Canvas[Any]]) -> None:
    shallow, deep = planned(nest(5)), planned(nest(20))

    assert max(sizes(deep)) < 10_000
    assert sum(sizes(deep)) < 8 * max(sum(sizes(shallow)), 2 * INLINE), "and all of it grows with what is in it"


def test_a_message_of_a_member_is_as_long_in_a_large_group_as_in_a_small_one() -> None:
    small, large = (planned(chord((add.s(1, 1) for _ in range(count)), xsum.s())) for count in (10, 10_000))

    assert max(sizes(large)) <= max(sizes(small)) + len("9999") - len("9") + 8
    assert len(large.envelopes) == 10_000
    assert [join.size for join in large.joins] == [10_000]


def test_a_tree_costs_what_is_in_it() -> None:
    plan = planned(tree(10))

    assert len(plan.envelopes) == 2**10
    assert len(plan.joins) == 2**10 - 1
    assert max(sizes(plan)) < 1000


def test_what_is_nested_beyond_reason_is_refused() -> None:
    canvas: Canvas[Any] = add.si(1, 1)
    for _ in range(300):
        canvas = group([canvas])

    with pytest.raises(CallError, match="nested more than 200 deep can't be sent"):
        frozen(canvas)


def test_a_long_chain_of_chords_is_planned() -> None:
    plan = planned(chain(group(add.si(1, 1), add.si(2, 2)) | xsum.s() for _ in range(90)))

    assert len(plan.envelopes) == 2
    assert max(sizes(plan)) < 10_000


# Ids


def test_all_ids_are_fixed_and_those_that_were_stay() -> None:
    canvas = frozen(chain(add.s(1, 1).set(task_id="a"), group(add.s(1), add.s(2)).set(task_id="g"), xsum.s()))

    again = frozen(canvas)
    assert again == canvas
    ids = [call.id for call in signatures_of(canvas)]
    assert None not in ids
    assert len(set(ids)) == 4
    assert planned(canvas).envelopes[0].message.id == ids[0] == "a"


@pytest.mark.parametrize(
    "canvas",
    [
        add.s(1, 1).set(task_id="x") | add.s(1).set(task_id="x"),
        group(add.s(1, 1).set(task_id="x"), add.s(1, 1) | add.s(1).set(task_id="x")),
        chord([add.s(1, 1).set(task_id="x")], xsum.s().set(task_id="x")),
    ],
)
def test_an_id_is_there_once(canvas: Canvas[Any]) -> None:
    with pytest.raises(CallError, match="two calls of one workflow have the id x"):
        frozen(canvas)


# What needs a store


def test_chains_and_links_need_no_store_that_counts_and_chords_do() -> None:
    long = chain(add.s(1, 1), *(add.s(1) for _ in range(100))).link(xsum.s())

    assert planned(long, has_joins=False).joins == ()
    assert planned(group(add.s(1, 1), add.s(1, 1)), has_joins=False).joins == ()
    with pytest.raises(CallError, match="needs a results store that all workers share, to count in"):
        planned(chord([add.s(1, 1)], xsum.s()), has_joins=False)


def test_arguments_of_what_starts_and_what_waits_are_checked() -> None:
    with pytest.raises(InvalidArguments, match="too many positional arguments"):
        planned(chord([add.s(1, 1)], add.s(1, 1)))
    with pytest.raises(InvalidArguments, match="missing a required argument"):
        planned(group(add.s(1)))
    assert planned(chord([add.s(1, 1)], add.si(1, 1)))
    assert planned(chord([add.s(1, 1)], Signature("not known here", (1, 2, 3))))


# Round trips


class Counted:
    """What reached broker and store."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sends = 0
        self.commits = 0
        send, commit = MemoryBroker.send, MemoryCommitter.commit
        counted = self

        async def counting_send(self: MemoryBroker, batch: Sequence[Envelope]) -> None:
            counted.sends += 1
            await send(self, batch)

        async def counting_commit(self: MemoryCommitter, finishes: Sequence[Finish]) -> Any:
            counted.commits += 1
            return await commit(self, finishes)

        monkeypatch.setattr(MemoryBroker, "send", counting_send)
        monkeypatch.setattr(MemoryCommitter, "commit", counting_commit)


@pytest.mark.parametrize(
    "canvas",
    [
        chain(add.s(1, 1), add.s(1)),
        chain(add.s(1, 1), *[add.s(1)] * 500),
        group(add.s(1, 1), add.s(1, 1)),
        chord([add.s(1, 1)], xsum.s()),
        chord([add.s(1, 1)] * 5000, xsum.s()),
        tree(6),
        in_headers(20),
        in_bodies(20),
        chain(group(add.si(1, 1), add.si(2, 2)) | xsum.s() for _ in range(40)),
    ],
)
async def test_a_workflow_is_sent_in_one_round_trip(canvas: Canvas[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    async with app:
        await canvas.delay()

    assert counted.sends + counted.commits == 1


def test_a_join_holds_finished_messages() -> None:
    """Completing it moves bytes: nobody needs to know a canvas for that."""
    (join,) = planned(chord([add.s(1, 1)], group(xsum.s(), xsum.s()))).joins

    assert isinstance(join, Join)
    assert names(join.then) == ["xsum", "xsum"]
    assert {envelope.message.step.awaits for envelope in join.then if envelope.message.step} == {join.id}
