"""Stamps on canvases: where they go, which win, and what can't be one. The facts are those of Celery 5.7."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, assert_type

import pytest

from aiotq import AioTQ, Canvas, Signature, StampingVisitor, Task, chain, chord, group
from aiotq.canvas import as_canvas, as_form
from aiotq.exceptions import CallError, InvalidOption

Stamps = Mapping[str, Sequence[Any]]

app = AioTQ("stamping", broker="memory://stamping")


@app.task
def add(*numbers: int) -> int:
    return sum(numbers)


class Everywhere(StampingVisitor):
    """Says something of every part."""

    def on_signature(self, sig: Signature[Any], /, **headers: Any) -> Mapping[str, Any]:
        return {"sig": sig.args[0]}

    def on_group_start(self, group: Any, /, **headers: Any) -> Mapping[str, Any]:
        return {"group": True}

    def on_chain_start(self, chain: Any, /, **headers: Any) -> Mapping[str, Any]:
        return {"chain": True}

    def on_chord_header_start(self, chord: Any, /, **headers: Any) -> Mapping[str, Any]:
        return {**(super().on_chord_header_start(chord, **headers) or {}), "header": True}

    def on_chord_body(self, chord: Any, /, **headers: Any) -> Mapping[str, Any]:
        return {"body": True}

    def on_callback(self, callback: Any, /, **headers: Any) -> Mapping[str, Any]:
        return {"callback": True}

    def on_errback(self, errback: Any, /, **headers: Any) -> Mapping[str, Any]:
        return {"errback": True}


def stamps(canvas: Canvas[Any]) -> dict[int, Stamps]:
    """Return the stamps of each call in `canvas`, callbacks too, by its first argument."""
    if not isinstance(canvas, Signature):
        return {name: each for part in canvas.parts for name, each in stamps(part).items()}
    options = canvas.options
    found: dict[int, Stamps] = {canvas.args[0]: options.get("stamps", {})}
    for callback in [*options.get("link", ()), *options.get("link_error", ())]:
        found |= stamps(callback)
    return found


def names(canvas: Canvas[Any]) -> dict[int, set[str]]:
    return {name: set(each) for name, each in stamps(canvas).items()}


def test_a_stamped_canvas_is_another_one_of_the_same_type() -> None:
    plain = add.s(1)
    stamped = plain.stamp(customer=7)

    assert_type(stamped, Signature[int])
    assert "stamps" not in plain.options
    assert stamped.options["stamps"] == {"customer": [7]}


@pytest.mark.parametrize(
    ("canvas", "where"),
    [
        (add.s(1), {1: "sig"}),
        (add.s(1).link(add.s(2)).link_error(add.s(3)), {1: "sig", 2: "sig callback", 3: "sig errback"}),
        (add.s(1) | add.s(2), {1: "sig chain", 2: "sig chain"}),
        (group(add.s(1), add.s(2)), {1: "sig group", 2: "sig group"}),
        (group(add.s(1), chain(add.s(2), add.s(3))), {1: "sig group", 2: "sig group chain", 3: "sig group chain"}),
        (
            chord([add.s(1), add.s(2)], add.s(3)),
            {1: "sig group header", 2: "sig group header", 3: "sig group header body"},
        ),
        (
            chain(add.s(1), group(add.s(2), add.s(3)), add.s(4)),
            {
                1: "sig chain",
                2: "sig chain group header",
                3: "sig chain group header",
                4: "sig chain group header body",
            },
        ),
    ],
)
def test_a_visitors_stamps_go_where_celerys_go(canvas: Canvas[Any], where: dict[int, str]) -> None:
    assert names(canvas.stamp(Everywhere(), given=1)) == {
        first: {*text.split(), "given"} for first, text in where.items()
    }


@pytest.mark.parametrize("append", [False, True])
def test_later_stamps_take_the_place_of_earlier_ones_unless_they_are_appended(append: bool) -> None:
    stamped = add.s(1).stamp(x=1, y="a").stamp(x=[2, 3], append_stamps=append)

    assert stamps(stamped) == {1: {"x": [2, 3, 1] if append else [2, 3], "y": ["a"]}}


@pytest.mark.parametrize("append", [False, True])
def test_what_comes_from_outside_wins_over_what_a_part_says(append: bool) -> None:
    class Levels(StampingVisitor):
        def on_group_start(self, group: Any, /, **headers: Any) -> Mapping[str, Any]:
            return {"level": len(group.tasks)}

    nested = group(add.s(1), group(add.s(2)))

    assert stamps(nested.stamp(Levels(), append)) == {1: {"level": [2]}, 2: {"level": [2, 1] if append else [2]}}


def test_a_visitor_sees_what_goes_onto_a_part_and_every_end() -> None:
    told: list[Any] = []

    class Curious(StampingVisitor):
        def on_signature(self, sig: Signature[Any], /, **headers: Any) -> None:
            told.append((sig.args, headers))

        def on_group_end(self, group: Any, /, **headers: Any) -> None:
            told.append(("group", headers))

        def on_chain_end(self, chain: Any, /, **headers: Any) -> None:
            told.append(("chain", headers))

    (add.s(1) | add.s(2)).stamp(Curious(), x=1)
    chord([add.s(3)], add.s(4)).stamp(Curious())

    assert told == [
        ((1,), {"x": [1]}),
        ((2,), {"x": [1]}),
        ("chain", {"x": [1]}),
        ((3,), {}),
        ("group", {}),
        ((4,), {}),
    ]


def test_what_a_visitor_does_not_name_as_stamps_are_calling_options() -> None:
    class Urgent(StampingVisitor):
        def on_group_start(self, group: Any, /, **headers: Any) -> Mapping[str, Any]:
            return {"ticket": 5, "priority": 9, "stamped_headers": ["ticket"]}

    (member,) = group(add.s(1).set(queue="q")).stamp(Urgent()).tasks

    assert isinstance(member, Signature)
    assert member.options == {"queue": "q", "priority": 9, "stamps": {"ticket": [5]}}


def test_a_form_has_stamps_as_celery_has_them_and_comes_back() -> None:
    canvas = chord([add.s(1), add.s(2).link(add.s(9))], add.s(3)).stamp(Everywhere(), x=1)

    form = as_form(canvas)

    assert form["kwargs"]["body"]["options"].items() >= {"x": [1], "body": [True]}.items()
    assert set(form["kwargs"]["body"]["options"]["stamped_headers"]) == {"sig", "group", "header", "body", "x"}
    assert as_form(as_canvas(form)) == form


@pytest.mark.parametrize("named", ["x", 5, [5], [""], ["a\n"]])
def test_a_form_whose_stamps_cannot_be_read_is_refused(named: object) -> None:
    with pytest.raises(CallError, match="stamped_headers"):
        as_canvas({**as_form(add.s(1)), "options": {"stamped_headers": named, "x": 1}})


@pytest.mark.parametrize("name", ["queue", "task_id", "stamped_headers", "", "a\nb", "x" * 256])
def test_a_stamp_with_an_impossible_name_is_refused(name: str) -> None:
    impossible: Any = {name: 1}

    with pytest.raises(InvalidOption, match="stamp"):
        add.s(1).stamp(**impossible)


def test_a_visitor_that_returns_no_mapping_is_refused() -> None:
    class Wrong(StampingVisitor):
        def on_signature(self, sig: Signature[Any], /, **headers: Any) -> Any:
            return "ticket"

    with pytest.raises(InvalidOption, match="Wrong must return a mapping of stamps, not 'ticket'"):
        add.s(1).stamp(Wrong())


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (5, "option stamps must be a mapping of names to values"),
        ({"": 1}, "option stamps must be a mapping of names to values"),
        ({"queue": "x"}, "option stamps must be .* none of them the name of a calling option, not"),
        ({"a": object()}, "option stamps"),
        ({"a": "x" * 9000}, "option stamps is 90.. bytes, over the limit of 8192"),
    ],
)
async def test_a_call_with_impossible_stamps_is_refused(given: Any, text: str) -> None:
    async with app:
        with pytest.raises(CallError, match=text):
            await add.apply_async((1,), stamps=given)


async def test_stamps_of_an_eager_call_are_seen() -> None:
    @app.task(bind=True)
    def seen(self: Task[..., Any]) -> Any:
        return self.request.stamps, self.request.stamped_headers

    assert await (await seen.s().stamp(a=1).apply()).get() == ({"a": [1]}, ("a",))
