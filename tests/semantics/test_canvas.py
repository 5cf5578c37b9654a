"""Workflows, as Celery's documentation composes them: each runs on every broker, and eagerly, to the same value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from aiotq import AioTQ, Canvas, Task, chain, chord, group, signature
from aiotq.canvas.outcome import Replace
from aiotq.core.inside import core_of
from aiotq.exceptions import CallError, InvalidArguments, InvalidOption

from .canvas_tasks import Kit
from .conftest import MakeApp, Run

#: Name -> what to run (with arguments given later, if any), and its value.
EXAMPLES: Final[dict[str, Callable[[Kit], tuple[Any, ...]]]] = {
    # "Next steps" and the reference of the module
    "a signature": lambda k: (k.add.s(2, 2), 4),
    "a signature with options": lambda k: (k.add.signature((2, 2), countdown=0), 4),
    "a partial signature": lambda k: (k.add.s(2), 10, 8),
    "a keyword that is said again later": lambda k: (k.add.s(2, 2, debug=True).clone(kwargs={"debug": False}), 4),
    "a signature by name": lambda k: (signature("add", (2, 2)) | k.mul.s(2), 8),
    "a group of a generator": lambda k: (group(k.add.s(i, i) for i in range(4)), [0, 2, 4, 6]),
    "a group of a list": lambda k: (group([k.add.s(2, 2), k.add.s(4, 4)]), [4, 8]),
    "a group of arguments": lambda k: (group(k.add.s(2, 2), k.add.s(4, 4)), [4, 8]),
    "a partial group": lambda k: (group(k.add.s(i) for i in range(3)), [10, 11, 12], 10),
    "a chain": lambda k: (chain(k.add.s(2, 2), k.add.s(4)), 8),
    "a chain of a chain": lambda k: (chain(k.add.s(4, 4) | k.mul.s(8)), 64),
    "a partial chain": lambda k: (chain(k.add.s(4) | k.mul.s(8)), 64, 4),
    "a chain of a generator": lambda k: (chain(k.add.s(i) for i in range(10)), 48, 3),
    "a chord": lambda k: (chord((k.add.s(i, i) for i in range(10)), k.xsum.s()), 90),
    "a group and a task": lambda k: (group(k.add.s(i, i) for i in range(10)) | k.xsum.s(), 90),
    "a task and a group": lambda k: (k.add.s(2, 2) | group(k.add.s(i) for i in range(3)), [4, 5, 6]),
    # the guide to the canvas
    "immutable steps": lambda k: (k.add.s(2, 2) | k.add.si(4, 4) | k.add.si(8, 8), 16),
    "a map": lambda k: (k.xsum.map([list(range(10)), list(range(100))]), [45, 4950]),
    "a starmap": lambda k: (k.add.starmap(zip(range(3), range(3), strict=True)), [0, 2, 4]),
    "chunks": lambda k: (k.add.chunks([(i, i) for i in range(5)], 2), [[0, 2], [4, 6], [8]]),
    "chunks as a group": lambda k: (k.add.chunks([(i, i) for i in range(3)], 2).group(), [[0, 2], [4]]),
    "chunks and a task": lambda k: (k.add.chunks([(i, i) for i in range(3)], 2).group() | k.echo.s(), [[[0, 2], [4]]]),
    "a map and a task": lambda k: (k.xsum.map([[1, 2], [3]]) | k.xsum.s(), 6),
    "a map in a chain takes nothing more": lambda k: (k.add.s(1, 1) | k.xsum.map([[1], [2]]), [1, 2]),
    "a task, a group, a task": lambda k: (k.add.s(1, 1) | group(k.add.s(1), k.add.s(2)) | k.xsum.s(), 7),
    "a chord whose body goes on": lambda k: (chord([k.add.s(1, 1)], k.xsum.s() | k.add.s(10)), 12),
    "a chord and a task": lambda k: (chord([k.add.s(1, 1), k.add.s(2, 2)], k.xsum.s()) | k.add.s(10), 16),
    "a chord with a keyword for its body": lambda k: (chord([k.add.s(1, 1)], k.echo.s(y=1)), [[2], {"y": 1}]),
    "a group after a group": lambda k: (
        group(k.add.s(1, 1), k.add.s(2, 2)) | group(k.xsum.s(), k.echo.s()),
        [6, [[2, 4]]],
    ),
    # what is empty, or one
    "an empty group": lambda _: (group([]), []),
    "a group of one": lambda k: (group([k.add.s(1, 1)]), [2]),
    "a group of one and a task": lambda k: (group([k.add.s(1, 1)]) | k.echo.s(), [[2]]),
    "a chord with an empty header": lambda k: (chord([], k.xsum.s()), 0),
    "an empty group in a chain": lambda k: (k.add.s(1, 1) | group([]) | k.echo.s(), [[]]),
    "an empty chain in a chain": lambda k: (chain() | k.add.s(1, 1) | chain([]), 2),
    "a chain of one": lambda k: (chain(k.add.s(1, 1)), 2),
    # in one another
    "groups in a group": lambda k: (group(k.add.s(1, 1), group(k.add.s(2, 2), group([]))), [2, [4, []]]),
    "chains in a group": lambda k: (group(k.add.s(1, 1) | k.add.s(1), k.add.s(5, 5)), [3, 10]),
    "a chord in a group": lambda k: (group(chord([k.add.s(1, 1)], k.xsum.s()), k.add.s(5, 5)), [2, 10]),
    "a chord in a header": lambda k: (chord([chord([k.add.s(1, 1)], k.xsum.s()), k.add.s(1, 2)], k.xsum.s()), 5),
    "a nested group in a header": lambda k: (
        chord([group(k.add.s(1, 1), k.add.s(2, 2)), k.add.s(3, 3)], k.echo.s()),
        [[[2, 4], 6]],
    ),
    "a chain that ends with a group in a header": lambda k: (
        chord([k.add.s(1, 1) | group(k.add.s(1), k.add.s(2)), k.add.s(3, 3)], k.echo.s()),
        [[[3, 4], 6]],
    ),
    "a group as the body": lambda k: (chord([k.add.s(1, 1)], group(k.xsum.s(), k.echo.s())), [2, [[2]]]),
    "a chord as the body": lambda k: (
        chord([k.add.s(1, 1)], chord([k.xsum.s(), k.echo.s()], k.echo.s())),
        [[2, [[2]]]],
    ),
    "chords one after the other": lambda k: (
        chain(group(k.add.si(i, i) for i in range(3)) | k.xsum.s() for _ in "123"),
        6,
    ),
    "a partial chord": lambda k: (group(k.add.s(1), k.add.s(2)) | k.xsum.s(), 23, 10),
    "retries and snoozes": lambda k: (group(k.flaky.s(1), k.dozy.s(2) | k.add.s(1)) | k.xsum.s(), 4),
    # failures that are dealt with
    "a member that is skipped": lambda k: (group(k.add.s(1, 1), k.fail.s().allow_failure("skip")) | k.echo.s(), [[2]]),
    "all members skipped": lambda k: (group(k.fail.s(), k.fail.s()).allow_failure("skip") | k.echo.s(), [[]]),
    "a step that is skipped": lambda k: (k.add.s(1, 1) | k.fail.s().allow_failure("skip") | k.add.s(1), 3),
    "a first step that is skipped": lambda k: (k.fail.s().allow_failure("skip") | k.echo.s(1), [1]),
    "a group as a skipped member": lambda k: (
        group(k.add.s(1, 1), group(k.add.s(2, 2), k.fail.s().allow_failure("skip"))) | k.echo.s(),
        [[2, [4]]],
    ),
    "a chain as a skipped member": lambda k: (
        group(k.add.s(1, 1), (k.fail.s() | k.add.s(1)).allow_failure("skip")) | k.echo.s(),
        [[2]],
    ),
}


@pytest.mark.parametrize("example", EXAMPLES)
async def test_an_example_run_here_has_the_documented_value(example: str) -> None:
    kit = Kit(AioTQ("semantics", broker="memory://"))
    canvas, value, *args = EXAMPLES[example](kit)

    assert await (await canvas.apply(args)) == value
    assert await (await canvas.clone(args).apply(throw=True)) == value


async def test_the_examples_have_the_documented_values(kit: Kit, app: AioTQ) -> None:
    """All in flight at once, on one worker."""
    async with app, app.worker(concurrency=50):
        results = {}
        for name, example in EXAMPLES.items():
            canvas, value, *args = example(kit)
            results[name] = value, await canvas.delay(*args)

        values = {name: (value, await result.get(timeout=20)) for name, (value, result) in results.items()}

    assert {name: got for name, (_, got) in values.items()} == {name: value for name, (value, _) in values.items()}


async def test_a_chord_is_begun_with_its_header_and_called_with_its_body(kit: Kit, run: Run) -> None:
    result = await chord(kit.add.s(i, i) for i in range(3))(kit.echo.s(), y=1)

    assert await result.get(timeout=10) == [[0, 2, 4], {"y": 1}]


async def test_a_huge_group_and_a_long_chain_end(kit: Kit, run: Run) -> None:
    assert await run(group(kit.add.s(i, i) for i in range(300)) | kit.xsum.s()) == 89_700
    assert await run(chain(kit.add.s(0, 0), *(kit.add.s(1) for _ in range(100)))) == 100


async def test_a_workflow_twenty_deep_ends(kit: Kit, run: Run) -> None:
    nested: Canvas[Any] = kit.add.si(1, 1)
    for _ in range(20):
        nested = chord([nested, kit.add.si(0, 1)], kit.xsum.s())

    assert await run(nested) == 22


async def test_a_callback_is_called_with_the_value_and_its_own_arguments(kit: Kit, run: Run) -> None:
    result = await kit.add.apply_async((2, 2), link=kit.note_task.s(16))

    assert await result.get(timeout=10) == 4
    assert await kit.has_noted(1) == [(4, 16)]


async def test_callbacks_are_a_list_and_may_be_immutable_or_workflows(kit: Kit, run: Run) -> None:
    await kit.add.apply_async(
        (2, 2), link=[kit.note_task.s("a"), kit.note_task.si("b"), kit.add.s(1) | kit.note_task.s("c")]
    )

    assert sorted(await kit.has_noted(3), key=str) == [("b",), (4, "a"), (5, "c")]


async def test_a_chords_callback_is_its_bodys_and_a_chains_its_last_steps(kit: Kit, run: Run) -> None:
    await run(chord([kit.add.s(1, 1)], kit.xsum.s()).link(kit.note_task.s("chord")))
    await run(chain(kit.add.s(1, 1), kit.add.s(5)).link(kit.note_task.s("chain")))

    assert sorted(await kit.has_noted(2)) == [(2, "chord"), (7, "chain")]


async def test_a_callback_that_cannot_be_sent_is_nobody_elses_concern(
    kit: Kit, app: AioTQ, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """Who called did not know the callback's task, or it would have been refused there."""
    stranger = make_app()
    async with stranger, app, app.worker():
        result = await stranger.send_task(kit.add.name, (1, 1), link=signature("xsum", ("too", "many")))
        assert await result.get(timeout=10) == 2
    assert "callback xsum('too', 'many') can't be sent" in caplog.text


@pytest.mark.parametrize(
    ("canvas", "error", "words"),
    [
        (lambda k: chain(), CallError, "an empty chain has nothing to call"),
        (lambda k: group(k.add.s(1, 1), chain()), CallError, "an empty chain"),
        (lambda k: chord([chain()], k.xsum.s()), CallError, "an empty chain"),
        (lambda k: k.add.s(1), InvalidArguments, "missing a required argument: 'y'"),
        (lambda k: k.add.s(1, 1) | k.add.s(1, 1), InvalidArguments, "too many positional arguments"),
        (lambda k: k.add.s(1, 1) | k.add.si(1), InvalidArguments, "missing a required argument: 'y'"),
        (lambda k: k.add.s(1, 1).link(k.xsum.s(1, 2)), InvalidArguments, "add: link xsum(1, 2) can't be called: xsum("),
        (lambda k: k.add.s(1, 1) | k.add.s(1).set(que="hi"), InvalidOption, "add: unknown option 'que'"),
        (lambda k: group(k.add.s(1, 1)) | k.add.s(1).set(priority=10), InvalidOption, "option priority must be"),
        (lambda k: group(k.add.s(1, 1).set(task_id="x"), k.add.s(1, 1).set(task_id="x")), CallError, "have the id x"),
        (
            lambda k: chain(k.add.s(1, 1), chord([k.add.s(1)], k.xsum.s()).allow_failure("skip"), k.add.s(1)),
            CallError,
            'allow_failure("skip") is for single tasks and for members of groups',
        ),
    ],
)
async def test_what_cannot_be_sent_is_refused_before_anything_is(
    kit: Kit, run: Run, canvas: Callable[[Kit], Canvas[Any]], error: type[Exception], words: str
) -> None:
    for call in ("delay", "apply"):
        with pytest.raises(error) as refused:
            await getattr(canvas(kit), call)()

        assert words in str(refused.value)


def test_code_without_a_loop_sends_workflows_and_reads_their_results(app: AioTQ) -> None:
    app.conf.update({"task_always_eager": True})
    kit = Kit(app)
    try:
        assert (kit.add.s(2, 2) | kit.mul.s(8)).sync.delay().get(timeout=5) == 32
        result = (kit.add.s(1, 1) | group(kit.add.s(1), kit.add.s(2))).sync.apply_async()
        assert result.get(timeout=5) == result.join() == [3, 4]
        assert [member.get() for member in result.results] == [3, 4]
        assert result.parent is not None
        assert result.parent.get() == 2
        assert (len(result), result.ready(), result.successful(), result.failed()) == (2, True, True, False)
        assert (result.waiting(), result.completed_count()) == (False, 2)
        result.revoke()
        result.forget()
    finally:
        core_of(app).bridge.stop()


async def test_a_request_says_how_often_its_call_was_replaced(kit: Kit, run: Run) -> None:
    @kit.app.task(bind=True)
    async def shrinks(self: Task[..., Any], x: int) -> Any:
        if x > 0:
            raise self.replace(told.si(x) | shrinks.si(x - 1))
        return self.request.replaced_task_nesting

    @kit.app.task(bind=True)
    async def told(self: Task[..., Any], x: int) -> None:
        kit.note((x, self.request.replaced_task_nesting))

    assert await run(kit.add.s(1, 1) | shrinks.si(2) | kit.echo.s()) == [2]
    assert kit.noted == [(2, 0), (1, 0)]


async def test_a_task_class_may_change_what_replaces_its_calls(kit: Kit, run: Run) -> None:
    class Doubled(Task[..., Any]):
        def on_replace(self, canvas: Canvas[Any]) -> Replace:
            return super().on_replace(canvas | kit.add.s(10))

    @kit.app.task(bind=True, base=Doubled)
    async def replaced(self: Task[..., Any], x: int) -> Any:
        return self.replace(kit.add.s(x, 1))

    assert await run(replaced.s(1)) == 12
