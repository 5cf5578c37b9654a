"""Outcomes as they are stored: whatever a task raised or returned comes back, or is said clearly."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotq import exceptions, states
from aiotq.exceptions import (
    AioTQError,
    ContentDisallowed,
    DeadLettered,
    DecodeError,
    EncodeError,
    InvalidSetting,
    MessageTooLarge,
    NotRegistered,
    RemoteError,
    TaskRevokedError,
    TimeLimitExceeded,
)
from aiotq.results import Record
from aiotq.results.document import MAX_TRACEBACK, Document, DocumentCodec, RemoteTraceback, format_traceback
from aiotq.wire.content_types import standard_registry

from . import a_loaded_module as loaded

NOW = 2_000_000_000.0


def codec(
    serializer: str = "json", *, max_size: int = 1_000_000, exception_types: tuple[str, ...] = ()
) -> DocumentCodec:
    return DocumentCodec(
        standard_registry(),
        serializer=serializer,
        accept=frozenset({"json"}),
        max_size=max_size,
        exception_types=exception_types,
    )


def record(body: bytes | dict[str, Any], state: str = states.FAILURE, content_type: str = "application/json") -> Record:
    return Record("me", state, body if isinstance(body, bytes) else json.dumps(body).encode(), content_type, NOW)


def round_trip(state: str, result: Any, *, serializer: str = "json", **more: Any) -> Document:
    there = codec(serializer)
    body = there.encode("me", state, result, done_at=NOW, **more)
    return there.decode(record(body, state, there.content_type))


def came_back(error: BaseException, **more: Any) -> BaseException:
    found = round_trip(states.FAILURE, error, **more).result
    assert isinstance(found, BaseException)
    return found


both = pytest.mark.parametrize("serializer", ["json", "msgpack"])


@both
def test_a_value_comes_back_with_all_that_is_known(serializer: str) -> None:
    document = round_trip(states.SUCCESS, {"a": [1, None]}, serializer=serializer, parent_id="parent", worker="worker")

    assert (document.task_id, document.state, document.result) == ("me", "SUCCESS", {"a": [1, None]})
    assert (document.parent_id, document.worker, document.children) == ("parent", "worker", ())
    assert document.date_done is not None
    assert document.date_done.timestamp() == NOW
    assert document.as_meta() == {
        "task_id": "me",
        "status": "SUCCESS",
        "result": {"a": [1, None]},
        "traceback": None,
        "children": [],
        "date_done": "2033-05-18T03:33:20+00:00",
        "parent_id": "parent",
    }


def test_a_state_on_the_way_has_no_date() -> None:
    assert round_trip("PROGRESS", {"done": 5}).date_done is None


# Exceptions


@both
@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        ValueError(),
        ValueError(""),
        ValueError("a", 5, None, 2.5, True),
        KeyError("key"),
        ZeroDivisionError("division by zero"),
        FileNotFoundError(2, "No such file"),
        TimeoutError("slow"),
        RecursionError("deep"),
        StopIteration(5),
        loaded.Plain("x"),
        loaded.Outer.Inner("y"),
        asyncio.QueueEmpty(),
        TaskRevokedError("revoked"),
        TimeLimitExceeded("hard"),
        DeadLettered("poison"),
    ],
    ids=repr,
)
def test_an_exception_comes_back_as_it_was(serializer: str, error: Exception) -> None:
    found = came_back(error, serializer=serializer)

    assert type(found) is type(error)
    assert found.args == error.args
    assert found.__cause__ is None


@pytest.mark.parametrize(
    "error",
    [
        loaded.WithCode(5, text="it failed"),
        loaded.Doubling("x"),
        NotRegistered("proj.ad", "proj.add"),
        MessageTooLarge("the result", 5, 4, "result_max_size"),
        exceptions.PublishTimeout("me", 5, maybe_sent=True),
        RemoteError("other.Error", "text"),
    ],
    ids=repr,
)
def test_an_exception_with_a_constructor_of_its_own_comes_back_with_its_type_and_text(error: Exception) -> None:
    found = came_back(error)

    assert type(found) is type(error)
    assert str(found) == str(error)


def test_an_exception_whose_text_is_not_in_its_args_keeps_the_text() -> None:
    found = came_back(loaded.WithoutArgs(5))

    assert isinstance(found, RemoteError)
    assert (found.type_name, found.text) == (f"{loaded.__name__}.WithoutArgs", "code 5")


@pytest.mark.parametrize(
    ("argument", "seen"),
    [
        (object, "<class 'object'>"),
        (b"x", "b'x'"),
        ([1, {2}], "[1, {2}]"),
        (2**70, str(2**70)),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        ("\ud800", "?"),
        ("x" * 100_000, "x" * 4096),
        (type("Sub", (str,), {})("x"), "'x'"),
        (type("Sub", (int,), {})(5), "5"),
        (loaded.Hostile(), "<Hostile, whose repr failed: RuntimeError>"),
    ],
    ids=lambda value: str(type(value)),
)
@both
def test_arguments_that_are_no_plain_values_become_text(serializer: str, argument: object, seen: str) -> None:
    assert came_back(ValueError("a", argument), serializer=serializer).args == ("a", seen)


@pytest.mark.parametrize("error", [loaded.Hostile(), loaded.Hostile("x"), ExceptionGroup("g", [ValueError("x")])])
def test_whatever_is_raised_can_be_stored_and_read(error: Exception) -> None:
    found = came_back(error, trace=format_traceback(error))

    assert isinstance(found, (RemoteError, loaded.Hostile))


@given(st.lists(st.one_of(st.text(), st.integers(), st.floats(), st.binary(), st.none()), max_size=40))
def test_any_arguments_can_be_stored_and_read(arguments: list[Any]) -> None:
    assert isinstance(came_back(ValueError(*arguments)), ValueError)


def test_a_failure_is_stored_whatever_the_limit_for_results_is() -> None:
    error = ValueError(*["x" * 100_000] * 1000)
    body = codec(max_size=10).encode("me", states.FAILURE, error, done_at=NOW, trace="x" * MAX_TRACEBACK)

    assert len(body) < 300_000


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), loaded.Leaving(1), BaseException("x")]
)
def test_what_would_end_the_readers_process_comes_back_as_a_remote_error(error: BaseException) -> None:
    found = came_back(error)

    assert type(found) is RemoteError
    assert type(error).__name__ in found.type_name


def test_a_tasks_own_cancellation_does_not_cancel_the_reader() -> None:
    found = came_back(asyncio.CancelledError("mine"))

    assert type(found) is RemoteError
    assert str(found) == "asyncio.exceptions.CancelledError: mine"


def test_a_soft_time_limit_does_not_cancel_the_reader() -> None:
    """Inside the task it arrives as a cancellation; whoever awaits the result is not cancelled by it: a task
    group would swallow it, and `asyncio.run` would hide it."""
    found = came_back(exceptions.SoftTimeLimitInterrupt("soft"))

    assert isinstance(found, exceptions.SoftTimeLimitExceeded)
    assert not isinstance(found, asyncio.CancelledError)


@pytest.fixture
def unloaded_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An importable module that says so if it is imported."""
    name = "a_module_that_nobody_imported"
    (tmp_path / f"{name}.py").write_text("class Oops(Exception): pass\nclass NoError: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


def test_a_type_that_is_not_loaded_is_not_imported_either(unloaded_module: str) -> None:
    document = codec().decode(
        record(
            {
                "result": {"exc_type": "Oops", "exc_module": unloaded_module, "exc_message": ["a", 5]},
                "traceback": "Traceback: here",
            }
        )
    )

    error = document.result
    assert type(error) is RemoteError
    assert (error.type_name, error.text, error.traceback) == (f"{unloaded_module}.Oops", "a, 5", "Traceback: here")
    assert str(error) == f"{unloaded_module}.Oops: a, 5"
    assert unloaded_module not in sys.modules


def test_a_listed_type_is_imported_when_the_app_is_made_ready(unloaded_module: str) -> None:
    reader = codec(exception_types=(f"{unloaded_module}.Oops",))
    assert unloaded_module in sys.modules
    del sys.modules[unloaded_module]

    error = reader.decode(
        record({"result": {"exc_type": "Oops", "exc_module": unloaded_module, "exc_message": ["a"]}})
    ).result

    assert (type(error).__name__, error.args) == ("Oops", ("a",))


@pytest.mark.parametrize(
    "name", ["nowhere.Oops", "{module}.Missing", "{module}.NoError", "Oops", "", ".x", "builtins.SystemExit"]
)
def test_a_listed_type_that_is_none_is_an_error(unloaded_module: str, name: str) -> None:
    with pytest.raises(InvalidSetting, match="result_exception_types"):
        codec(exception_types=(name.format(module=unloaded_module),))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (loaded.__name__, "Missing"),
        (loaded.__name__, "Outer"),
        (loaded.__name__, "Outer.Missing"),
        (loaded.__name__, "Outer.__init__"),
        (loaded.__name__, "Leaving"),
        ("os", "system"),
        ("aiotq", "exceptions.AioTQError"),
        ("builtins", "SystemExit"),
        ("builtins", "BaseException"),
        ("builtins", "eval"),
        ("builtins", ""),
        ("", "x"),
        ("builtins", "..."),
    ],
)
def test_a_name_that_is_no_exception_is_a_remote_error_and_nothing_is_run(module: str, name: str) -> None:
    error = (
        codec().decode(record({"result": {"exc_type": name, "exc_module": module, "exc_message": ["exit()"]}})).result
    )

    assert type(error) is RemoteError
    assert error.text == "exit()"


def test_the_remote_traceback_is_the_cause() -> None:
    error = came_back(ValueError("no"), trace="Traceback (most recent call last):\n  far away\nValueError: no")

    assert isinstance(error.__cause__, RemoteTraceback)
    assert "far away" in "".join(traceback.format_exception(error))


# Tracebacks


def fail(depth: int, text: str = "no") -> None:
    if depth:
        fail_again(depth - 1, text)
    raise ValueError(text)


def fail_again(depth: int, text: str) -> None:
    fail(depth, text)


def test_a_huge_traceback_keeps_both_ends() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (ours)
        fail(400, "x" * 500_000)

    text = format_traceback(caught.value)

    assert text.startswith("Traceback (most recent call last)")
    assert "characters left out" in text
    assert len(text) < MAX_TRACEBACK + 100


@pytest.mark.parametrize("error", [loaded.Hostile("x"), ValueError("\ud800")])
def test_any_traceback_can_be_stored(error: Exception) -> None:
    text = format_traceback(error)

    assert round_trip(states.FAILURE, error, trace=text).traceback == text


# What can't be stored


@both
def test_a_value_that_cannot_be_serialized_is_named(serializer: str) -> None:
    with pytest.raises(EncodeError, match=r"^the result\['a'\]\[1\] can't be serialized as " + serializer):
        codec(serializer).encode("me", states.SUCCESS, {"a": [1, object()]}, done_at=NOW)


def test_a_value_that_is_too_large_is_refused() -> None:
    with pytest.raises(MessageTooLarge, match="raise the setting 'result_max_size'") as caught:
        codec(max_size=500).encode("me", states.SUCCESS, "x" * 500, done_at=NOW)

    assert caught.value.limit == 500
    assert caught.value.size > 500


# What can't be read


def test_results_are_read_under_the_accept_list() -> None:
    with pytest.raises(ContentDisallowed):
        codec().decode(record(b"\x80", content_type="application/x-python-serialize"))


@given(
    st.sampled_from([states.SUCCESS, states.FAILURE, states.REVOKED, "PROGRESS"]),
    st.one_of(
        st.binary(max_size=50),
        st.dictionaries(
            st.sampled_from(["task_id", "result", "traceback", "children", "date_done", "parent_id", "worker"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["exc_type", "exc_message", "exc_module", "x"]), inner)
                ),
                max_leaves=8,
            ),
        ),
    ),
)
def test_a_document_is_read_or_refused_whatever_stands_in_it(state: str, body: Any) -> None:
    try:
        document = codec().decode(record(body, state))
    except DecodeError:
        return
    assert document.state == state
    assert isinstance(document.children, tuple)
    assert document.traceback is None or isinstance(document.traceback, str)
    if state in states.EXCEPTION_STATES:
        assert isinstance(document.result, Exception)
    json.dumps(document.as_meta(), default=repr)


def test_the_tree_of_exceptions_is_what_its_docstring_shows() -> None:
    drawn = [line.split("─")[-1].split()[0] for line in (exceptions.__doc__ or "").splitlines() if "── " in line]
    there = [
        name
        for name, kind in vars(exceptions).items()
        if isinstance(kind, type) and issubclass(kind, AioTQError) and not name.startswith("_")
    ]

    assert sorted([*drawn, "AioTQError"]) == sorted(there)


def test_a_remote_failure_shows_where_it_happened_when_nobody_catches_it() -> None:
    script = """
from aiotq.results.document import DocumentCodec
from aiotq.results import Record
from aiotq.wire.content_types import standard_registry
codec = DocumentCodec(
    standard_registry(), serializer="json", accept=frozenset({"json"}), max_size=10**6, exception_types=()
)
body = codec.encode("me", "FAILURE", ValueError("no"), done_at=0, trace="  File far_away.py, line 1")
raise codec.decode(Record("me", "FAILURE", body, "application/json", 0)).result
"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stderr

    assert "far_away.py" in shown
    assert shown.rstrip().endswith("ValueError: no")
