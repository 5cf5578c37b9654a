"""A flow's function asks for the same things in the same order, in whatever order these came the first time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

import pytest

from aiotq import FlowContext, Signature
from aiotq.core.values import replace
from aiotq.exceptions import EventTimeout, FlowChanged, FlowError, MalformedMessage
from aiotq.flows.journal import BY_SIGNAL, MAX_SIZE, Came, Journal, Signal, generation_of, packed, unpacked, wake_of
from aiotq.flows.replay import Replay
from aiotq.wire.message import Message, attempt_apart

Function = Callable[..., Coroutine[Any, Any, Any]]

NEW = Journal(Message("f", "proj.flow", b"[]"), "default", 5)


def step(ctx: FlowContext, name: str) -> Coroutine[Any, Any, Any]:
    return ctx.step(Signature(name))


def run(function: Function, journal: Journal, arrived: Mapping[int, str] | None = None) -> Replay:
    """Run it; each step that `arrived` comes to what is said of it."""
    came = {
        number: Came(number, "due") if how == "due" else Came(number, "ended", 0, how, "", str(number).encode())
        for number, how in (arrived or {}).items()
    }

    def decode(came: Came) -> Any:
        return ValueError(came.number) if came.state == "FAILURE" else came.body.decode()

    replay = Replay(function, journal, came, decode=decode, now=100.0, make=lambda journal, number, call: ())
    replay.run((), {})
    return replay


async def branches(ctx: FlowContext) -> list[str]:
    """Chains side by side, whose next steps depend on who comes first."""
    order: list[str] = []

    async def chain(name: str, length: int) -> None:
        for number in range(length):
            value = await step(ctx, f"{name}{number}")
            order.append(value)

    async with asyncio.TaskGroup() as group:
        for name, length in (("a", 3), ("b", 2), ("c", 4)):
            group.create_task(chain(name, length))
        first, _ = await asyncio.wait(
            [asyncio.ensure_future(step(ctx, "x")), asyncio.ensure_future(step(ctx, "y"))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        order.append(await step(ctx, f"after {len(first)} {first.pop().result()}"))
    return order


@pytest.mark.parametrize("seed", range(20))
def test_what_came_in_any_order_comes_again_in_that(seed: int) -> None:
    rng = random.Random(seed)
    journal, runs = NEW, 0
    while True:
        replay = run(
            branches, journal, dict.fromkeys(rng.sample(journal.pending, min(2, len(journal.pending))), "SUCCESS")
        )
        assert replay.journal.asked[: len(journal.asked)] == journal.asked
        assert replay.journal.history[: len(journal.history)] == journal.history
        if replay.is_over:
            break
        journal, runs = unpacked(packed(replay.journal)), runs + 1

    again = run(branches, replay.journal)
    assert replay.error is None
    assert (again.value, again.steps) == (replay.value, {})
    assert len(replay.value) == 10
    assert 3 < runs < 20


def test_a_race_of_signal_and_timeout_is_decided_once_and_signals_are_taken_in_order() -> None:
    async def function(ctx: FlowContext) -> list[Any]:
        found: list[Any] = []
        for _ in range(3):
            try:
                found.append(await ctx.event("go", timeout=5))
            except EventTimeout:
                found.append(None)
        return found

    asked = run(function, NEW).journal
    assert asked.until == 105.0
    told = replace(asked, signals=(Signal("other", "", b"0"), Signal("go", "", b"1"), Signal("go", "", b"2")))
    both = run(function, told, {0: "due"})  # at the same moment: the signal was accepted
    late = run(function, both.journal, {2: "due"})

    assert [each.how for each in both.journal.history] == ["signal", "signal"]
    assert [each.name for each in both.journal.signals] == ["other"]
    assert late.value == run(function, late.journal).value == ["1", "2", None]
    assert (asked.event_for("go"), asked.event_for("other")) == (0, None)
    assert replace(asked, signals=(Signal("go", "", b"1"),)).event_for("go") is None  # it has been woken


async def steps(ctx: FlowContext, *names: str) -> None:
    for name in names:
        with suppress(Exception):  # a flow that swallows all errors
            await step(ctx, name)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("b", "a"), "has step a as number 1 of what it asks for, and the code asks for step b"),
        (("a",), "has step b as number 2 of what it asks for, and the code asks for nothing more here"),
        (("a", "c", "b"), "has step b as number 2 of what it asks for, and the code asks for step c"),
        ((), "has step a as number 1 of what it asks for, and the code asks for nothing more here"),
    ],
)
def test_changed_code_is_told_with_the_place(names: tuple[str, ...], said: str) -> None:
    journal = run(lambda ctx: steps(ctx, "a", "b", "c"), NEW).journal
    journal = run(lambda ctx: steps(ctx, "a", "b", "c"), journal, {0: "FAILURE"}).journal

    changed = run(lambda ctx: steps(ctx, *names), journal)
    added = run(lambda ctx: steps(ctx, "a", "b", "new"), journal, {1: "SUCCESS"})

    assert changed.is_over
    assert isinstance(changed.error, FlowChanged)
    assert said in str(changed.error)
    assert changed.journal == journal
    assert added.error is None


def test_what_is_put_aside_is_cancelled_and_asks_for_nothing_more() -> None:
    seen: list[str] = []

    async def function(ctx: FlowContext) -> None:
        while True:  # for ever, whoever cancels it
            try:
                await ctx.sleep(5)
            except asyncio.CancelledError:
                seen.append("cancelled")

    replay = run(function, NEW)

    assert not replay.is_over
    assert len(replay.journal.asked) == 1
    assert 0 < len(seen) <= 10


@pytest.mark.parametrize("how", ["sleep", "timeout", "future", "thread", "cancel"])
def test_a_flow_that_awaits_something_else_is_told(how: str) -> None:
    async def function(ctx: FlowContext) -> None:
        await step(ctx, "a")
        match how:
            case "sleep":
                await asyncio.sleep(1)
            case "timeout":
                async with asyncio.timeout(1):
                    await step(ctx, "b")
            case "thread":
                await asyncio.to_thread(print)
            case "future":
                await asyncio.get_running_loop().create_future()
            case _:
                raise asyncio.CancelledError

    replay = run(function, run(function, NEW).journal, {0: "SUCCESS"})

    assert replay.is_over
    assert isinstance(replay.error, FlowError)


def test_messages_that_wake_a_flow_differ_from_each_other_and_from_retries() -> None:
    journals = [
        replace(NEW, generation=generation)
        for generation in (0, generation_of(Message("f", "t", b"", attempt=attempt_apart())))
    ]
    attempts = [
        each.wake(number, way).message.attempt for each in journals for number in range(100) for way in (0, 1, 2)
    ]

    assert len({*attempts, 0}) == 601
    assert all(attempt % 1024 == 0 for attempt in attempts)
    assert wake_of(NEW.wake(3, BY_SIGNAL).message) == (0, 3, BY_SIGNAL)
    assert wake_of(NEW.message) is None
    with pytest.raises(MalformedMessage):
        unpacked(b"\x00")
    assert MAX_SIZE == 1024 * 1024
