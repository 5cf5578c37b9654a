"""What the dashboard's pages are made of: words, charts, forms, tracebacks, drawings, and colours that can be read."""

from __future__ import annotations

import re
import traceback
from itertools import product
from pathlib import Path
from typing import Any, Final

import pytest

import aiotq
from aiotq import AioTQ, states
from aiotq.graph.builder import GraphBuilder, Place
from aiotq.results.shown_arguments import ArgumentsShown
from aiotq.web.dashboard import charts, words
from aiotq.web.dashboard.drawing import draw
from aiotq.web.dashboard.forms import BadForm, Form
from aiotq.web.dashboard.parameters import arguments_of, fields_of, signature_of
from aiotq.web.dashboard.tracebacks import read_traceback

STYLE: Final = Path(aiotq.__file__).parent / "web" / "dashboard" / "static" / "style.css"
SURFACES: Final = ("bg", "panel", "sunk", "raised", "hover")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, words.NOTHING),
        (0.0, "0 ms"),
        (0.0004, "0.4 ms"),
        (0.4, "400 ms"),
        (3.1, "3.1 s"),
        (59.96, "1 m 00 s"),
        (211, "3 m 31 s"),
        (4_920, "1 h 22 m"),
        (525_600, "6 d 2 h"),
    ],
)
def test_durations_are_said_with_two_units_at_most(seconds: float | None, said: str) -> None:
    assert words.duration(seconds) == said


def test_times_are_said_from_now() -> None:
    assert [words.ago(1000.0, at) for at in (1000.0, 958.0, 1024.0, 0.0)] == [
        "now",
        "42 s ago",
        "in 24 s",
        "17 min ago",
    ]
    assert words.full(1e18).startswith("9999-12-31")


@pytest.mark.parametrize("largest", [0, 1, 3, 7, 12, 99, 2_339, 1e6])
def test_scales_begin_at_nothing_have_round_labels_and_reach_the_largest(largest: float) -> None:
    axis = charts.axis(largest)

    assert axis.top >= largest
    assert axis.labels[-1] == 0
    assert axis.labels[0] == axis.top
    assert 2 <= len(axis.labels) <= 5


def test_a_line_has_a_gap_where_nothing_is_known() -> None:
    assert charts.lines([1.0, 2.0, None, 4.0, 4.0], 4.0) == ["0.0,75.0 1.0,50.0", "3.0,0.0 4.0,0.0"]
    assert len(charts.bands([1.0, 1.0, None, 1.0, 1.0], [2.0, 2.0, None, 2.0, 2.0], 4.0)) == 2


def test_a_form_gives_the_arguments_that_a_signature_takes() -> None:
    app = AioTQ("forms", broker="memory://")

    @app.task(bind=True)
    async def send(
        self: Any,
        /,
        to: str,
        count: int,
        urgent: bool = False,
        extra: dict[str, int] | None = None,
        api_token: str = "",
        anything: Any = None,
        **more: Any,
    ) -> None: ...

    shown, signature = ArgumentsShown(["token"]), signature_of(send)
    before = {"to": "x", "count": 3, "api_token": "secret", "urgent": True}
    fields = {each.name: each for each in fields_of(signature, before, shown)}
    assert "secret" not in str(fields)
    assert fields["api_token"].is_hidden
    assert fields["urgent"].is_on

    form = Form(
        [("a-to", "y"), ("a-count", " 4 "), ("a-extra", '{"a": 1}'), ("a-anything", "word"), ("more-kwargs", "")]
    )
    assert arguments_of(signature, form, before, shown) == (
        [],
        {"to": "y", "count": 4, "urgent": False, "extra": {"a": 1}, "api_token": "secret", "anything": "word"},
    )
    for name, text, complaint in (
        ("count", "four", "whole number"),
        ("count", "", "must be given"),
        ("extra", "{", "JSON"),
    ):
        with pytest.raises(BadForm, match=complaint):
            arguments_of(signature, Form([("a-to", "y"), ("a-count", "1"), (f"a-{name}", text)]), {}, shown)


def test_a_traceback_has_the_users_frames_open_and_others_folded() -> None:
    text = ""
    try:
        Path("/nowhere/at all").read_text(encoding="utf-8")
    except OSError as error:
        text = "".join(traceback.format_exception(error))

    found = read_traceback(text)

    assert [part.is_own for part in found.parts] == [True, False]
    assert found.parts[0].frames[0].name == "test_a_traceback_has_the_users_frames_open_and_others_folded"
    assert "read_text" in found.parts[0].frames[0].code
    assert found.error.startswith("FileNotFoundError")
    assert read_traceback("no traceback at all").error == "no traceback at all"


def test_a_drawing_folds_what_ended_well_and_says_what_is_not_sent_yet() -> None:
    builder = GraphBuilder()
    first = builder.call("first", "shop.split")
    group = builder.group("pages", Place(after=first), size=9)
    for number in range(9):
        builder.call(f"page-{number}", "shop.<b>read</b>", Place(inside=group))
    builder.call("last", "shop.merge", Place(after=group))
    for call in builder.calls:
        is_done = call not in {"page-8", "last"}
        builder.tell(call, states.SUCCESS if is_done else states.PENDING, None)

    drawn = draw(builder.graph(), lambda call: f"/tasks/{call}", "page-8", {"first": 0.25}, unfolds=False)
    whole = draw(builder.graph(), lambda call: f"/tasks/{call}", None, {}, unfolds=True)

    assert (drawn.ended, drawn.total) == (9, 11)
    assert drawn.counts == {"ok": 9, "ready": 1, "plan": 1}
    assert "8 &lt;b&gt;read" in drawn.svg
    assert "<b>" not in drawn.svg
    assert "g-node ready sel" in drawn.svg
    assert (drawn.steps[0].words, drawn.steps[0].more) == ("shop.split", "250 ms")
    assert drawn.svg.count("Succeeded · 250 ms") == 3  # in the node, its title and its label
    assert whole.svg.count("<a ") == 11
    assert "style=" not in whole.svg


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_words_can_be_read_on_every_surface_that_they_stand_on(theme: int) -> None:
    """WCAG 2.2 AA: 4.5:1 for words, 3:1 for the edges of controls and the fills of charts."""
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", STYLE.read_text())
    colours = {name: pair[theme] for name, *pair in found}
    pairs = [*product(("ink", "soft", "accent", "ok", "run", "retry", "bad", "dead", "idle"), SURFACES)]
    pairs += [(name, f"{name}-wash") for name in ("run", "retry", "bad", "dead", "ok", "accent")]
    pairs += [("accent-ink", "accent"), ("ink", "bad-wash"), ("ink", "accent-wash"), ("soft", "accent-wash")]

    assert {
        f"{a} on {b}": round(contrast(colours[a], colours[b]), 2)
        for a, b in pairs
        if contrast(colours[a], colours[b]) < 4.5
    } == {}
    edges = [
        *product(("line-2",), ("panel", "sunk")),
        ("c-ok", "panel"),
        ("c-run", "panel"),
        ("bad", "panel"),
        ("retry", "panel"),
    ]
    assert {
        pair: contrast(colours[pair[0]], colours[pair[1]])
        for pair in edges
        if contrast(colours[pair[0]], colours[pair[1]]) < 3
    } == {}
