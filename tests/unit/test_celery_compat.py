"""What `celery_compat` changes: the default queue, what is encoded, and the form of results."""

from __future__ import annotations

import dataclasses
import enum
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
import pytest

from aiotq import AioTQ
from aiotq.core.inside import core_of
from aiotq.core.settings import Settings
from aiotq.exceptions import EncodeError, InvalidSetting, MaxRetriesExceededError, TaskRevokedError
from aiotq.results import Record
from aiotq.results.celery_records import CELERYS, children_of, completed, record_of

# Settings


def test_celerys_default_queue_is_celery() -> None:
    assert Settings({"celery_compat": True}).task_default_queue == "celery"
    assert Settings({"celery_compat": True}).copy().task_default_queue == "celery"
    assert Settings().task_default_queue == "default"


@pytest.mark.parametrize(
    "settings",
    [
        {"celery_compat": True, "task_default_queue": "default"},
        {"task_default_queue": "default", "celery_compat": True},
    ],
)
def test_a_default_queue_that_is_named_stays(settings: dict[str, Any]) -> None:
    assert Settings(settings).task_default_queue == "default"
    assert Settings(settings).copy().task_default_queue == "default"


def test_taken_back_it_changes_nothing() -> None:
    settings = Settings({"celery_compat": True})

    settings.celery_compat = False

    assert settings.task_default_queue == "default"


def test_settings_that_celery_could_not_live_with_are_refused_when_the_app_starts() -> None:
    with pytest.raises(InvalidSetting, match="'result_compression' must be None when celery_compat is set"):
        Settings({"celery_compat": True, "result_compression": "zlib"}).freeze("test")


# What is encoded


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: int


def encoded(value: Any, name: str = "json", **settings: Any) -> bytes:
    app = AioTQ("x", broker="memory://", celery_compat=True, **settings)
    return core_of(app).serializers.encode(core_of(app).serializers.to_send(name, app.conf.accept_content), value, "it")


def test_what_celery_knows_is_tagged_as_celery_does() -> None:
    key = UUID(int=7)
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    value = {"a": (1, (2,)), "b": [moment, date(2026, 1, 2), time(3, 4), Decimal("1.5"), key, b"x", b"\xff"]}

    assert orjson.loads(encoded(value)) == {
        "a": [1, [2]],
        "b": [
            {"__type__": "datetime", "__value__": "2026-01-02T03:04:05+00:00"},
            {"__type__": "date", "__value__": "2026-01-02"},
            {"__type__": "time", "__value__": "03:04:00"},
            {"__type__": "decimal", "__value__": "1.5"},
            {"__type__": "uuid", "__value__": {"hex": key.hex}},
            {"__type__": "bytes", "__value__": "x"},
            {"__type__": "base64", "__value__": "/w=="},
        ],
    }


@pytest.mark.parametrize("value", [{1, 2}, frozenset(), timedelta(1), Colour.RED, Point(1)])
def test_what_celery_does_not_know_is_refused(value: Any) -> None:
    with pytest.raises(EncodeError, match=r"Celery reads \(celery_compat\): send plain data"):
        encoded([value])


def test_what_celery_would_take_for_a_tag_is_refused() -> None:
    with pytest.raises(EncodeError, match="is a tag to Celery"):
        encoded({"__type__": 1, "__value__": 2})


def test_in_msgpack_celery_knows_no_tags() -> None:
    assert encoded((1, b"x"), "msgpack") == b"\x92\x01\xc4\x01x"
    with pytest.raises(EncodeError, match="Celery reads"):
        encoded([datetime(2026, 1, 1, tzinfo=UTC)], "msgpack")


# Results


def codec_round(state: str, result: Any, **more: Any) -> tuple[dict[str, Any], Any]:
    """Return the document of an outcome, and the outcome that is read from it."""
    codec = core_of(AioTQ("x", broker="memory://", celery_compat=True)).codec
    body = codec.encode("id", state, result, done_at=1.0, **more)
    return orjson.loads(body), codec.decode(Record("id", state, body, codec.content_type, 0.0))


def test_a_document_has_all_that_celery_looks_for() -> None:
    document, read = codec_round("SUCCESS", (1, 2), children=["a", "b"], parent_id="p")

    assert document == {
        "task_id": "id",
        "status": "SUCCESS",
        "result": [1, 2],
        "traceback": None,
        "children": [[["a", None], None], [["b", None], None]],
        "date_done": "1970-01-01T00:00:01+00:00",
        "parent_id": "p",
    }
    assert read.children == ("a", "b")


@pytest.mark.parametrize("error", [TaskRevokedError("revoked"), MaxRetriesExceededError("too many")])
def test_exceptions_that_both_have_keep_their_type(error: Exception) -> None:
    document, read = codec_round("FAILURE", error)

    assert document["result"]["exc_module"] == "celery.exceptions"
    assert type(read.result) is type(error)


def test_a_value_that_looks_like_an_exception_is_left_alone() -> None:
    value = {"exc_type": "TaskRevokedError", "exc_module": "aiotq.exceptions"}

    assert completed({"status": "SUCCESS", "result": value})["result"] == value


@pytest.mark.parametrize(
    ("written", "ids"),
    [
        (None, ()),
        ("x", ()),
        ([], ()),
        (["a"], ("a",)),
        ([["a", None]], ("a",)),
        ([[["a", None], None], [["b", [["a", None], None]], None]], ("a", "b")),
        ([[["group", None], [[["a", None], None], [["b", None], None]]]], ("a", "b")),
        ([[["group", None], []]], ()),
        ([7, {}, [], [None, None], [[], None], ["a", "b", "c"]], ()),
    ],
)
def test_celerys_children_are_read(written: object, ids: tuple[str, ...]) -> None:
    assert children_of(written) == ids


def test_what_stands_at_celerys_key_is_a_record() -> None:
    assert record_of("a", b'{"status": "SUCCESS", "result": 1}', 5.0) == Record(
        "a", "SUCCESS", b'{"status": "SUCCESS", "result": 1}', CELERYS, 5.0
    )
    assert record_of("a", b"[]", 5.0) is None
