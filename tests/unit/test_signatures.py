"""Signatures, chains, groups and chords as values: made, completed, joined by `|`, compared, printed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest

from aiotq import AioTQ, Canvas, Chain, Chord, Group, Signature, chain, chord, group, signature
from aiotq.canvas import Chunks
from aiotq.canvas.signature import _default_sender
from aiotq.exceptions import CallError, InvalidOption

app = AioTQ("proj", broker="memory://")


@app.task(name="add")
async def add(x: int, y: int, *, debug: bool = False) -> int:
    return x + y


@app.task(name="mul")
async def mul(x: int, y: int) -> int:
    return x * y


@app.task(name="xsum")
async def xsum(numbers: list[int]) -> int:
    return sum(numbers)


def anything(given: object) -> Any:
    """Return what a type checker would not let through."""
    return given


# Signatures


def test_a_signature_is_made_in_several_ways() -> None:
    made = Signature[Any]("add", (2,), {"y": 3}, {"queue": "hi"})

    assert add.signature((2,), {"y": 3}, queue="hi") == made
    assert add.subtask((2,), {"y": 3}, queue="hi") == made
    assert add.s(2, y=3).set(queue="hi") == made
    assert add.options(queue="hi").s(2, y=3) == made
    assert app.signature("add", (2,), {"y": 3}, queue="hi") == made
    assert signature("add", (2,), {"y": 3}, queue="hi") == made
    assert signature(made) is made
    assert signature(made, (1,)) == made.clone((1,))


def test_arguments_given_later_come_first_and_keywords_over_the_earlier_ones() -> None:
    partial = add.s(2, debug=True)

    assert partial.clone((8,), {"debug": False}) == add.s(8, 2, debug=False)
    assert partial == add.s(2, debug=True), "it is not changed"


def test_an_immutable_signature_takes_options_and_no_arguments() -> None:
    fixed = add.si(2, 2)

    assert fixed.immutable
    assert fixed.clone((8,), {"debug": True}) is fixed
    assert fixed.clone((8,), queue="hi").options == {"queue": "hi"}
    assert fixed != add.s(2, 2)


def test_options_set_later_win() -> None:
    assert add.s(1).set(queue="hi", priority=1).set(priority=9).options == {"queue": "hi", "priority": 9}
    assert add.s(1).set(task_id="x").id == "x"
    assert add.s(1).id is None


def test_callbacks_are_kept_once_and_in_order() -> None:
    linked = add.s(1).link(add.s(2)).link(mul.s(3), add.s(2)).link_error(xsum.s()).on_error(mul.si(1, 1))

    assert linked.options == {"link": [add.s(2), mul.s(3)], "link_error": [xsum.s(), mul.si(1, 1)]}
    assert add.s(1).set(link=add.s(2)).link(mul.s(3)).options == {"link": [add.s(2), mul.s(3)]}


def test_calling_a_signature_calls_the_task_here() -> None:
    coroutine = add.s(2)(8)

    assert coroutine.cr_frame.f_locals["x"] == 8
    coroutine.close()


@pytest.mark.parametrize(
    ("canvas", "text"),
    [
        (lambda: add.s(2, 2), "add(2, 2)"),
        (lambda: add.s(2, debug=True), "add(2, debug=True)"),
        (add.s, "add()"),
        (lambda: add.s(4, 4) | mul.s(8), "add(4, 4) | mul(8)"),
        (chain, "chain()"),
        (lambda: group(add.s(i, i) for i in range(2)), "group([add(0, 0), add(1, 1)])"),
        (lambda: group([]), "group([])"),
        (lambda: chord([add.s(1, 1)], xsum.s()), "%xsum([add(1, 1)])"),
        (lambda: group(add.s(1, 1)) | xsum.s() | mul.s(2), "%xsum([add(1, 1)]) | mul(2)"),
        (lambda: group(add.s(1, 1)) | group(xsum.s()), "group([add(1, 1)]) | group([xsum()])"),
        (lambda: xsum.map([[1], [2]]), "[xsum(x) for x in [[1], [2]]]"),
        (lambda: add.starmap([(1, 2)]), "[add(*x) for x in [(1, 2)]]"),
        (lambda: add.chunks([(1, 2), (3, 4)], 1), "group([[add(*x) for x in [(1, 2)]], [add(*x) for x in [(3, 4)]]])"),
        (
            lambda: chain(add.s(1, 1), chain(mul.s(1), mul.s(2)).allow_failure("continue")),
            "add(1, 1) | (mul(1) | mul(2))",
        ),
    ],
)
def test_they_are_printed_as_one_would_write_them(canvas: Callable[[], Canvas[Any]], text: str) -> None:
    assert repr(canvas()) == text


# JoinChanges them by |


def test_a_chain_is_flat_whatever_it_is_made_of() -> None:
    a, b, c = add.s(1, 1), add.s(2), add.s(3)

    assert chain(chain(a, b), c) == chain(a, chain(b, c)) == a | b | c == (a | b) | c == a | (b | c)
    assert chain([a, b, c]) == chain(iter([a, b, c])) == Chain((a, b, c))
    assert chain(a) == Chain((a,))
    assert chain(a) | b == chain(chain(a), b) == a | b
    assert chain() | a == a | chain() == a
    assert chain() == Chain(())


def test_what_follows_a_group_is_its_chords_body() -> None:
    header, body, then = group(add.s(1, 1), add.s(2, 2)), xsum.s(), mul.s(2)

    assert (
        header | body == chord(header, body) == chord(header.tasks, body) == chain(header, body) == Chord(header, body)
    )
    assert header | body | then == chord(header, body | then) == chord(header, body) | then == header | (body | then)
    assert header | group(then) == chord(header, group(then))
    assert header | chord([body], then) == chord(header, chord([body], then))
    assert header | header | body == chord(header, chord(header, body))


def test_what_goes_before_a_group_is_a_step_before_it() -> None:
    a, members, body = add.s(1, 1), group(add.s(1), add.s(2)), xsum.s()

    assert a | members == Chain((a, members))
    assert a | members | body == Chain((a, chord(members, body))) == a | (members | body) == a | chord(members, body)
    assert a | add.s(2) | members == Chain((a, add.s(2), members))
    assert (a | members) | (body | a) == Chain((a, chord(members, body | a)))
    assert chord([a], body) | members == chord([a], body | members)


def test_a_part_with_a_policy_of_its_own_stays_one() -> None:
    two = chain(add.s(1), add.s(2)).allow_failure("continue")
    counted = chord([add.s(1, 1)], xsum.s()).allow_failure("continue")

    assert add.s(1, 1) | two | mul.s(2) == Chain((add.s(1, 1), two, mul.s(2)))
    assert counted | mul.s(2) == Chain((counted, mul.s(2)))


def test_only_canvases_are_joined() -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        _ = add.s(1) | 5  # type: ignore[operator]


# Composites


def test_a_composites_parts_may_be_given_one_by_one_or_as_an_iterable() -> None:
    tasks = (add.s(1, 1), add.s(2, 2))

    assert group(*tasks) == group(tasks) == group(list(tasks)) == group(iter(tasks)) == Group(tasks)
    assert chord(group(*tasks), xsum.s()) == chord(list(tasks), xsum.s())
    assert len(group(*tasks)) == 2
    assert group(add.s(1, 1)).tasks == (add.s(1, 1),)
    assert group(add.s(1, 1) | add.s(2)).tasks == (add.s(1, 1) | add.s(2),)
    assert group(group(add.s(1, 1))).tasks == (group(add.s(1, 1)),)


def test_further_arguments_are_for_the_first_calls() -> None:
    assert (add.s(4) | mul.s(8)).clone((4,)) == add.s(4, 4) | mul.s(8)
    assert group(add.s(1), add.s(2)).clone((10,)) == group(add.s(10, 1), add.s(10, 2))
    assert chord([add.s(1)], xsum.s()).clone((10,)) == chord([add.s(10, 1)], xsum.s())
    assert (group(add.s(1)) | xsum.s() | mul.s(2)).clone((10,), {"debug": True}) == (
        group(add.s(10, 1, debug=True)) | xsum.s() | mul.s(2)
    )


@pytest.mark.parametrize(
    ("canvas", "expected"),
    [
        # a chain: its first task's; how its result is known, and what follows that, is its last's
        (chain(add.s(1, 1), add.s(2)).set(countdown=3), chain(add.s(1, 1).set(countdown=3), add.s(2))),
        (chain(add.s(1, 1), add.s(2)).set(task_id="x"), chain(add.s(1, 1), add.s(2).set(task_id="x"))),
        (chain(add.s(1, 1), add.s(2)).link(mul.s(2)), chain(add.s(1, 1), add.s(2).link(mul.s(2)))),
        (chain(add.s(1, 1), add.s(2)).set(link=mul.s(2)), chain(add.s(1, 1), add.s(2).set(link=mul.s(2)))),
        (
            chain(add.s(1, 1), add.s(2)).link_error(xsum.s()),
            chain(add.s(1, 1).link_error(xsum.s()), add.s(2).link_error(xsum.s())),
        ),
        # a group: each member's
        (
            group(add.s(1, 1), add.s(2, 2)).set(countdown=3),
            group(add.s(1, 1).set(countdown=3), add.s(2, 2).set(countdown=3)),
        ),
        (group(add.s(1, 1)).set(link_error=xsum.s()), group(add.s(1, 1).link_error(xsum.s()))),
        (group(add.s(1, 1)).set(task_id="x"), Group((add.s(1, 1),), "x")),
        (
            group(add.s(1, 1), add.s(2, 2).allow_failure("skip")).allow_failure("continue"),
            group(add.s(1, 1).allow_failure("continue"), add.s(2, 2).allow_failure("skip")),
        ),
        # a chord: where it starts to its header, what follows it to its body, the rest to both
        (chord([add.s(1, 1)], xsum.s()).set(countdown=3), chord([add.s(1, 1).set(countdown=3)], xsum.s())),
        (chord([add.s(1, 1)], xsum.s()).link(mul.s(2)), chord([add.s(1, 1)], xsum.s().link(mul.s(2)))),
        (chord([add.s(1, 1)], xsum.s()).set(link=mul.s(2)), chord([add.s(1, 1)], xsum.s().set(link=mul.s(2)))),
        (chord([add.s(1, 1)], xsum.s()).set(task_id="x"), chord([add.s(1, 1)], xsum.s().set(task_id="x"))),
        (
            chord([add.s(1, 1)], xsum.s()).set(priority=3),
            chord([add.s(1, 1).set(priority=3)], xsum.s().set(priority=3)),
        ),
        (chord([add.s(1, 1)], xsum.s()).on_error(mul.s(2)), chord([add.s(1, 1)], xsum.s().on_error(mul.s(2)))),
    ],
)
def test_options_of_a_composite_go_to_the_tasks_they_concern(canvas: Canvas[Any], expected: Canvas[Any]) -> None:
    assert canvas == expected


def test_error_callbacks_of_a_chord_are_its_headers_too_if_a_setting_says_so() -> None:
    both = AioTQ("both", broker="memory://", task_allow_error_cb_on_chord_header=True)
    work, body = both.signature("work"), both.signature("body")

    assert chord([work], body).on_error(mul.s(2)) == chord([work.on_error(mul.s(2))], body.on_error(mul.s(2)))


def test_chunks_are_a_group_of_starmaps() -> None:
    chunks = add.chunks(((i, i) for i in range(5)), 2)

    parts = cast("tuple[Signature[Any], ...]", chunks.tasks)
    assert [part.args for part in parts] == [([(0, 0), (1, 1)],), ([(2, 2), (3, 3)],), ([(4, 4)],)]
    assert isinstance(chunks, Chunks)
    assert type(chunks.group()) is Group
    assert chunks.group().tasks == chunks.tasks


# Values


def test_equal_ones_are_equal_whoever_sends_them_and_copies_too() -> None:
    canvas = chain(add.s(1, 1), group(mul.s(2), mul.s(3).set(queue="hi")), xsum.s()).link(add.s(1))

    assert signature("add", (1, 1)) == add.s(1, 1)
    assert copy.copy(canvas) == canvas
    assert add.s(1) != add.s(2) != mul.s(2)
    whole: Canvas[Any] = group(add.s(1))
    assert whole != chain(add.s(1))
    assert add.s(1) != add.s(1).allow_failure("skip")


def test_they_know_their_app() -> None:
    assert add.s(1).app is app
    assert (signature("other") | add.s(1)).app is app
    assert group(signature("other"), chord([signature("other")], add.s())).app is app
    assert signature("other").app is None


def test_without_an_app_there_is_nobody_to_send_them() -> None:
    senders = _default_sender[:]
    _default_sender.clear()
    try:
        with pytest.raises(CallError, match=r"other\(\) belongs to no app: create an AioTQ first"):
            _ = signature("other").sync
    finally:
        _default_sender[:] = senders


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: group(add.s(1, 1)).link(mul.s(2)),
            CallError,
            r"group\(\[add\(1, 1\)\]\) has no single end to link to",
        ),
        (lambda: group(add.s(1, 1)).set(link=mul.s(2)), CallError, "use group | task"),
        (lambda: chain(add.s(1, 1), group(add.s(1))).link(mul.s(2)), CallError, "has no single end"),
        (lambda: group(add.s(1, 1), anything(5)), CallError, "a group consists of signatures .* not of 5"),
        (lambda: chain(add.s(1, 1), anything("add")), CallError, "a chain consists of signatures .* not of 'add'"),
        (lambda: chord([anything(print)], xsum.s()), CallError, "a chord's header consists of signatures"),
        (lambda: chord([add.s(1, 1)], anything(xsum.name)), CallError, "a chord's body is a signature, not 'xsum'"),
        (lambda: add.s(1).link(anything(5)), InvalidOption, "option link must be a signature or a list of them, not 5"),
        (lambda: add.s(1).link_error(anything("add")), InvalidOption, "option link_error must be a signature"),
        (
            lambda: add.s(1).allow_failure(anything("ignore")),
            InvalidOption,
            "must be one of 'fail', 'skip', 'continue', not 'ignore'",
        ),
        (lambda: add.chunks([], 0), CallError, "chunks hold a whole number of items, 1 or more, not 0"),
        (lambda: add.chunks([], True), CallError, "not True"),
        (xsum.map([[1]]), CallError, "is called item by item: send it, or use apply"),
        (lambda: chain().clone((1,)), CallError, "an empty chain has nothing to call"),
        (lambda: chain().link(add.s(1)), CallError, "an empty chain has nothing to call"),
        (lambda: signature({"task": 5}), CallError, "a signature's task is a name, not 5"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()
