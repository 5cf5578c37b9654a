"""The laws of the canvas by example, each where it once was broken or easily is, and what holds of the values alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Final

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiotq import AioTQ, Canvas, chain, group
from aiotq.canvas import as_canvas, as_form, chord
from aiotq.exceptions import CallError, EncodeError

from .agreeing import disagreement_here, disagreements
from .conftest import MakeApp
from .specs import Adds, Call, Chain, Chord, Chunked, Fails, Group, Mapped, Replaces, Spec, Workflow
from .tasks import Tasks
from .workflows import workflows


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def fails(label: str, allow_failure: Any = "fail", **more: Any) -> Call:
    return Call(label, does=Fails(), allow_failure=allow_failure, **more)


def told(label: str) -> tuple[Spec, ...]:
    return (Call(label, kind="told_all"),)


#: What is compared with the reference, by the behaviour that it shows. The name says what must be so.
EXAMPLES: Final[dict[str, Spec]] = {
    "an empty group gives the next step an empty list": Chain((Call("a"), Group(()), Call("b"))),
    "a chain that ends with an empty group is run to its end": Chain((Call("a"), Group(()))),
    "an empty group at its end does not hide that a member failed": Chord(
        Group((Chain((fails("a"), Group(()))), Call("b"))), Call("c")
    ),
    "a skipped step behind an empty group passes on the empty list": Chain((Group(()), fails("a", "skip"), Call("b"))),
    "a skipped step that takes nothing passes on what came before it": Chain(
        (Call("a"), fails("b", "skip", is_immutable=True), Call("c"))
    ),
    "so it does behind a group": Chain((Group((Call("a"),)), fails("b", "skip", is_immutable=True), Call("c"))),
    "a first step that is skipped gives the next one nothing": Chain((fails("a", "skip"), Call("b"))),
    "a replaced step that is skipped passes on what it was given itself": Chain(
        (Call("a"), Call("b", does=Replaces(Chain((Call("c"), fails("d")))), allow_failure="skip"), Call("f"))
    ),
    "its replacement may fail anywhere": Chain(
        (Call("a"), Call("b", does=Replaces(Chain((fails("c"), Call("d")))), allow_failure="skip"), Call("f"))
    ),
    "a chord behind a failed step is prevented and fails nobody": Chain(
        (
            fails("a"),
            Chord(Group((Call("b"), Call("c", errlinks=told("e")))), Call("d", errlinks=told("f"))),
            Call("g"),
        )
    ),
    "members that are prevented with their header are not gone on without": Chain(
        (
            fails("a"),
            Group((Call("b", allow_failure="continue"), Call("c", allow_failure="skip"))),
            Call("d"),
            Call("f"),
        )
    ),
    "what is said of a prevented chain does not count and of the chain it is in does": Chain(
        (
            Chain(
                (
                    fails("a"),
                    Chain((Call("b"), Group((Call("c"), Call("d")))), allow_failure="continue"),
                    Call("f"),
                ),
                allow_failure="continue",
            ),
            Call("g"),
        )
    ),
    "a chain that goes on gives the next step the exception of its group": Chain(
        (Chain((Call("a"), Group((fails("b"), Call("c")))), allow_failure="continue"), Call("d"))
    ),
    "of a member that ends with a group each place has the exception": Chord(
        Group((Chain((fails("a"), Group((Call("b"), Call("c")))), allow_failure="continue"), Call("d"))), Call("f")
    ),
    "a member that ends with a group is left out by its places": Group(
        (Chain((Call("a"), Group((fails("b"), Call("c")))), allow_failure="skip"), Call("d"))
    ),
    "a chord error names the step that failed and not one behind it": Chord(
        Group((Chain((fails("a"), Call("b"), Call("c"))), Call("d"))), Call("f")
    ),
    "an added member that may be skipped is left out": Chord(
        Group((Call("a", does=Adds(fails("b", "skip"))), Call("c"))), Call("d")
    ),
    "an added chain that may be skipped is left out": Chord(
        Group((Call("a", does=Adds(Chain((Call("b"), fails("c")), allow_failure="skip"))), Call("d"))), Call("f")
    ),
    "a member is added to the chord from the first step of a chain": Chord(
        Group((Chain((Call("a", does=Adds(Call("b"))), Call("c"))), Call("d", does=Adds(Call("f"))))), Call("g")
    ),
    "a group that takes a task's place becomes its list": Chord(
        Group((Call("a", does=Replaces(Group((Call("b"), Call("c"))))), Call("d"))), Call("f")
    ),
    "an empty group takes a task's place": Chain((Call("a", does=Replaces(Group(()))), Call("b"))),
    "a replacement is replaced in a group": Chord(
        Group((Call("a", does=Replaces(Call("b", does=Replaces(Chord(Group((Call("c"),)), Call("d")))))), Call("f"))),
        Call("g"),
    ),
    "a task with links is replaced by a chord whose header fails": Call(
        "a",
        does=Replaces(Chord(Group((fails("b"), Call("c"))), Call("d"))),
        links=(Call("l"),),
        errlinks=told("e"),
    ),
    "chunks and maps are members like others": Chord(
        Group((Chunked("k", 5, 2), Mapped("m", 3), Mapped("n", 2, fails_at=1, allow_failure="continue"))), Call("a")
    ),
    "nine chords behind one another": Chain(
        tuple(step for n in range(9) for step in (Group((Call(f"a{n}"), Call(f"b{n}"))), Call(f"c{n}")))
    ),
    "a body that can't run is followed by nothing": Chain(
        (Group((fails("a"), fails("b"))), Call("c", errlinks=told("e")), Call("d", errlinks=told("f")), Call("g"))
    ),
    "a failed header fails each first call of a body that is a group": Chain(
        (Group((fails("a"),)), Group((Call("b", errlinks=told("e")), Call("c"))), Call("d", errlinks=told("f")))
    ),
    "error callbacks of a chain are those of each step but called once": Chain(
        (Call("a"), fails("b"), Call("c")), errlinks=told("e")
    ),
}


@pytest.mark.parametrize("inline", [4096, 0], ids=["carried", "behind joins"])
async def test_examples_come_to_what_the_laws_say(
    make_app: MakeApp, inline: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the rest of a chain waits; all of them at once, the report names those that came to something else."""
    monkeypatch.setattr("aiotq.canvas.planner.INLINE", inline)
    app = make_app()
    tasks = Tasks(app)
    sent = {name: Workflow(spec) for name, spec in EXAMPLES.items()}

    async with app, app.worker():
        found = await disagreements(app, tasks, list(sent.values()))
        reports = [f"{name}: {each}" for name, workflow in sent.items() for each in found if each.workflow == workflow]

    assert not reports, "\n\n".join(reports)


async def test_examples_that_are_applied_here_come_to_the_same(make_app: MakeApp) -> None:
    app = make_app()
    tasks = Tasks(app)

    async with app:
        found = [
            f"{name}: {each}"
            for number, (name, spec) in enumerate(EXAMPLES.items())
            for each in await disagreement_here(tasks, Workflow(spec), f"w{number}")
        ]

    assert not found, "\n\n".join(found)


# What can't be done, and is said


async def test_a_chain_that_is_a_step_can_not_be_skipped(make_app: MakeApp) -> None:
    app = make_app()
    tasks = Tasks(app)
    spec = Chain((Chain((Call("a"), Call("b")), allow_failure="skip"), Call("c")))

    async with app:
        with pytest.raises(CallError, match="can be left by allow_failure"):
            await tasks.built(spec, tasks.story("w")).delay()


async def test_an_exception_that_a_task_returns_is_no_value(make_app: MakeApp) -> None:
    app = make_app()

    @app.task
    async def give_back() -> Exception:
        return ValueError("no")

    async with app, app.worker():
        with pytest.raises(EncodeError, match="raise it, or return plain data"):
            await (await give_back.delay()).get(timeout=10)


async def test_a_task_outside_of_a_header_adds_to_no_chord(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where its chain goes on behind a join, which is no chord's."""
    monkeypatch.setattr("aiotq.canvas.planner.INLINE", 0)
    app = make_app()
    tasks = Tasks(app)
    spec = Chain((Call("a", does=Adds(Call("b"))), Call("c")))

    async with app, app.worker():
        handle = await tasks.built(spec, tasks.story("w")).delay()
        with pytest.raises(CallError, match="not in the header of a chord"):
            await handle.get(timeout=10)


# The values alone


def built(workflow: Workflow) -> Canvas[Any]:
    tasks = Tasks(AioTQ("values", broker="memory://"))
    return tasks.built(workflow.spec, tasks.story("w"))


@settings(max_examples=40, deadline=None)
@given(workflows())
def test_a_canvas_comes_back_from_its_form_as_json(workflow: Workflow) -> None:
    form = orjson.loads(orjson.dumps(as_form(built(workflow))))

    assert orjson.loads(orjson.dumps(as_form(as_canvas(form)))) == form


@settings(max_examples=40, deadline=None)
@given(st.lists(workflows(depth=2), min_size=3, max_size=3))
def test_chains_are_associative(three: list[Workflow]) -> None:
    a, b, c = map(built, three)

    assert chain(chain(a, b), c) == chain(a, chain(b, c)) == chain(a, b, c) == (a | b) | c == a | (b | c)


@settings(max_examples=40, deadline=None)
@given(st.lists(workflows(depth=2), min_size=1, max_size=3), workflows(depth=2))
def test_what_follows_a_group_is_the_body_of_a_chord(members: list[Workflow], body: Workflow) -> None:
    header, follows = group(map(built, members)), built(body)

    assert header | follows == chord(header, chain(follows))
    assert chain() | header | follows == header | follows
