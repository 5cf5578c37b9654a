"""What a user may rely on, `aiotq.__all__` and the reference page of the app, is compared with what is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest

import aiotq
from aiotq import AioTQ, AsyncResult, Signature
from aiotq.tasks.options import DECLARABLE
from aiotq.testing import Ran, Sent, TestWorker

PAGE: Final = (Path(__file__).parents[2] / "docs" / "reference" / "app.md").read_text()

app = AioTQ("names", broker="memory://")


@app.task
async def add(x: int, y: int) -> int:
    return x + y


#: What is there for the inside: the names that are promised have no others beside them but these.
INSIDE: Final = {
    "AioTQ": set[str](),
    "Task": {
        *("be_one_of", "check", "declare", "declared", "fn", "handlers", "of", "parameter", "parameters", "running"),
        *("called", "is_coroutine", "runs_in", "shared", "room_for"),
        *("bound", "check_keys", "dependencies", "is_strict", "call_parameters", "rebuilding", "returned_shape"),
    },
    "Signature": {"as_part", "called_with", "fields", "sender", "text", "when_failed"},
    "AsyncResult": {
        *(
            "awaited",
            "document",
            "elsewhere",
            "failure",
            "first",
            "may_be_unknown",
            "queue_sent_to",
            "why_in",
            "why_in",
        ),
        *("reply_to", "see", "seen", "tell"),
    },
}
THERE: Final[dict[str, Any]] = {
    "AioTQ": app,
    "Task": add,
    "Signature": Signature("names.add"),
    "AsyncResult": AsyncResult[Any]("id", app),
}


@pytest.mark.parametrize("kind", THERE)
def test_the_page_has_all_public_names_and_no_others(kind: str) -> None:
    section = PAGE.partition(f"\n## {kind}\n")[2].partition("\n## ")[0]
    promised = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    options = DECLARABLE | {"bind"} if kind == "Task" else set[str]()  # documented with the options
    there_are = {name for name in dir(THERE[kind]) if not name.startswith("_")} - options - INSIDE[kind]

    assert len(promised) == len(set(promised)) > 10
    assert set(promised) == there_are


#: Words for what is inside, which a user need not know: numbers of promises, and parts.
INTERNAL: Final = re.compile(r"\b(P\d+|envelopes?|ledgers?|intake|committer|completer|codec|joins?)\b")


def test_docstrings_have_no_words_of_the_inside() -> None:
    public = [getattr(aiotq, name) for name in aiotq.__all__]
    public += [TestWorker, Ran, Sent, *map(type, (app.admin, app.control, app.control.inspect(), app.events))]
    said: list[tuple[str, str]] = []
    for each in public:
        names = [name for name in dir(each) if not name.startswith("_")] if isinstance(each, type) else []
        found = [(str(each), each.__doc__)] + [(name, getattr(each, name).__doc__) for name in names]
        kind = str(getattr(each, "__name__", each))
        inside = INSIDE.get(kind, set())
        said += [(f"{kind}.{name}", text) for name, text in found if text and name not in inside]

    assert len(said) > 500
    assert [(name, word[0]) for name, text in said if (word := INTERNAL.search(text))] == []


def test_what_an_app_is_made_of_can_t_be_replaced_by_mistake() -> None:
    with pytest.raises(AttributeError):
        setattr(app, "conf", {})  # noqa: B010 (type checkers refuse it)


def test_a_subclass_of_an_app_may_have_a_method_of_its_own_for_each_name() -> None:
    class Loud(AioTQ):
        def load_tasks(self) -> str:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
            return "loud"

    assert Loud("loud", broker="memory://").load_tasks() == "loud"


def test_every_public_name_is_there() -> None:
    missing = [name for name in aiotq.__all__ if not hasattr(aiotq, name)]

    assert missing == []


def test_public_names_are_sorted_and_named_once() -> None:
    """In the order in which `ruff check --fix` puts them: CONSTANTS, Classes, then functions."""

    assert list(aiotq.__all__) == sorted(set(aiotq.__all__), key=kind_then_name)


def kind_then_name(name: str) -> tuple[int, str]:
    constant = len(name) > 1 and name.isupper()
    return (0 if constant else 1 if name[0].isupper() else 2), name
