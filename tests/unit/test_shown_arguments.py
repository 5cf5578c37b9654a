"""Arguments as they may be shown: in short, and without secrets, whatever they are."""

from __future__ import annotations

from typing import Any

import pytest

from aiotq.core.settings import Settings
from aiotq.results.shown_arguments import MASK, MOST, ArgumentsShown

SHOWN = ArgumentsShown(Settings().masked_arguments)


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize(
    ("args", "kwargs", "names", "shown"),
    [
        ((), {}, (), ""),
        ((2, "b", None, 1.5), {"y": True}, ("x",), "2, 'b', None, 1.5, y=True"),
        ((7, "hunter2"), {}, ("user", "password"), f"7, {MASK}"),
        (
            ("hunter2",),
            {"api_key": "k", "X_Auth_TOKEN": "t", "to": "a"},
            (),
            f"'hunter2', api_key={MASK}, X_Auth_TOKEN={MASK}, to='a'",
        ),
        (({"login": {"Secret": "s", "n": 1}},), {}, ("given",), f"{{'login': {{'Secret': {MASK}, 'n': 1}}}}"),
        (([{"token": "t"}] * 2,), {}, (), f"[{{'token': {MASK}}}, {{'token': {MASK}}}]"),
        (("\ud800",), {}, (), "'\\ud800'"),
    ],
)
def test_arguments_are_shown_without_secrets(
    args: tuple[Any, ...], kwargs: dict[str, Any], names: tuple[str, ...], shown: str
) -> None:
    assert SHOWN.call(args, kwargs, names) == shown


def test_an_argument_whose_repr_fails_is_named() -> None:
    assert SHOWN.call((Hostile(),), {}).startswith("<Hostile instance at ")


def test_large_arguments_are_shown_in_short() -> None:
    text = SHOWN.call(("x" * 10_000, [1] * 10_000, 10**5000), {str(n): n for n in range(1000)})

    assert len(text) == MOST
    assert text.endswith("…")


def test_celerys_tools_are_told_no_secret_either() -> None:
    assert SHOWN.reprs((1, "hunter2"), {"token": "t"}, ("x", "password")) == (f"(1, {MASK!r})", f"{{'token': {MASK}}}")
    assert SHOWN.reprs((), {}) == ("()", "{}")
    assert ArgumentsShown(()).reprs(("hunter2",), {"token": "t"}, ("password",)) == ("('hunter2',)", "{'token': 't'}")
