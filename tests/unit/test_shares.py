"""Calls with keys take turns: the order, its bound, and what says whose a call is."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotq import AioTQ, Fair
from aiotq.core.inside import core_of
from aiotq.exceptions import InvalidOption, InvalidSetting
from aiotq.transport.shares import Lane
from aiotq.wire.message import Message
from aiotq.wire.shares import HEADER, share_of

COSTS = {"a": 1.0, "b": 0.25, "c": 2.0, "d": 1.0}


@given(st.lists(st.one_of(st.sampled_from("abcd"), st.none()), max_size=120))
def test_no_key_starves(steps: list[str | None]) -> None:
    """A step adds a call of a key, or takes the next one."""
    lane: Lane[tuple[str, int]] = Lane()
    taken, waiting, number = Counter[str](), Counter[str](), 0
    seen: dict[int, tuple[int, Counter[str]]] = {}  # of each call: its place among those of its key, what was taken

    for step in [*steps, *[None] * len(steps)]:
        if step is not None:
            waiting[step] += 1
            number += 1
            seen[number] = waiting[step], taken.copy()
            lane.add((step, number), (step, COSTS[step]))
        elif len(lane):
            key, call = lane.pop()
            place, before = seen.pop(call)
            for other in taken.keys() - {key}:
                assert taken[other] - before[other] <= 1 + place * COSTS[key] / COSTS[other]
            assert taken[key] - before[key] == place - 1  # those of a key come in their order
            taken[key] += 1
            waiting[key] -= 1
    assert not seen


def test_a_flood_of_one_key_among_ten_thousand_holds_up_nobody() -> None:
    lane: Lane[str] = Lane()
    for _ in range(100_000):
        lane.add("flood", ("flood", 1.0))
    for n in range(9_999):
        lane.add(f"{n}", (f"{n}", 1.0))

    first = [lane.pop() for _ in range(20_000)]

    assert len({each for each in first if each != "flood"}) == 9_999


@pytest.mark.parametrize(
    "header", [["key"], "key", ["key", "1"], ["", 1.0], [7, 1.0], ["key", 0], ["key", float("nan")]]
)
def test_what_is_no_share_makes_a_plain_message(header: object) -> None:
    assert share_of(Message("id", "task", b"", headers={HEADER: header})) is None


def test_a_call_says_whose_it_is_and_what_it_costs() -> None:
    app = AioTQ(broker_url="memory://", task_fair_weights={"acme": 4, "b": 0.5})

    @app.task(fair_key="tenant")
    async def render(tenant: str, page: int = 0) -> None: ...

    @app.task(fair_key=Fair(by=lambda tenant, **_: tenant, weights=lambda tenant: 10 if tenant == "acme" else 1))
    async def export(tenant: str) -> None: ...

    builder = core_of(app).builder
    calls = (render, ("acme", 1)), (render, ("b",)), (render, ("c",)), (export, ("acme",))
    made = [builder.envelope(task, args, {}, {}, reply_to=None) for task, args in calls]
    made.append(builder.envelope(render, ("acme", 3), {}, {"fair_key": Fair("page")}, reply_to=None))
    shares = [share_of(each.message) for each in made]

    found = [share for share in shares if share is not None]
    assert sorted(cost for _, cost in found) == [0.1, 0.25, 1.0, 1.0, 2.0]
    assert len({key for key, _ in found}) == 4  # both tasks' calls for acme have one key


def test_a_key_that_can_t_be_is_refused_where_it_is_said() -> None:
    app = AioTQ(broker_url="amqp://localhost")

    async def render(tenant: str) -> None: ...

    with pytest.raises(InvalidOption, match="'tennant', which is none of its parameters"):
        app.task(fair_key="tennant")(render)
    with pytest.raises(InvalidOption, match="a parameter's name, a tuple of them, a function, or a Fair"):
        app.task(fair_key=3)(render)  # type: ignore[call-overload]
    with pytest.raises(InvalidOption, match=r"from 0\.001 to 1000"):
        Fair("tenant", weights={"acme": 0})
    with pytest.raises(InvalidSetting, match=r"from 0\.001 to 1000"):
        AioTQ(task_fair_weights={"acme": -1})


def test_a_call_is_refused_where_the_broker_keeps_no_turns() -> None:
    app = AioTQ(broker_url="amqp://localhost")

    @app.task(fair_key="tenant")
    async def render(tenant: str) -> None: ...

    with pytest.raises(InvalidOption, match="fair_key needs a broker that keeps calls by their keys"):
        core_of(app).builder.envelopes(render, ("acme",), {}, {}, reply_to=None)
