"""Settings of routing: what routes and queues may be, and what a worker consumes of them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from aiotq import AioTQ, Binding, Exchange, Queue
from aiotq.core.inside import core_of
from aiotq.core.settings import from_environment, from_object
from aiotq.exceptions import InvalidOption, InvalidSetting, SettingsError

from .test_routing import make_app, queues, to_feeds, waits

# Bad settings


@pytest.mark.parametrize(
    ("routes", "error"),
    [
        (5, 'a mapping, a function, "module:function" or a list of these, not 5'),
        ("feeds", r"""the path of a router \("module:function"\), or a mapping of names to queues, not 'feeds'"""),
        (["proj:"], r"the path of a router .* at \[0\], not 'proj:'"),
        ([{"a": "b"}, 5], r'"module:function" or a list of these at \[1\], not 5'),
        ({5: "feeds"}, "a task's name, a glob or a compiled regex of text at a key of task_routes, not 5"),
        ({"": "feeds"}, "a task's name, a glob or a compiled regex of text at a key of task_routes, not ''"),
        ({re.compile(b"x"): "feeds"}, "a compiled regex of text"),
        ({"feed.*": 5}, r"a queue's name, a mapping of options or None at \['feed.\*'\], not 5"),
        ({"feed.*": ""}, r"a queue's name at \['feed.\*'\], not ''"),
        ({"a": {"queue": 5}}, r"a queue's name at \['a'\]\['queue'\], not 5"),
        ({"a": {"que": "x"}}, r"an option that a route can have \(.*queue.*\) at \['a'\]\['que'\], not 'x'"),
        ({"a": {"task_id": "x"}}, r"an option that a route can have"),
        ({"a": {5: "x"}}, r"an option's name at a key of \['a'\], not 5"),
        ({"a": {"priority": 11}}, r"a whole number from 0 to 9 at \['a'\]\['priority'\], not 11"),
        ({"a": {"exchange": 5}}, r"the name of an exchange; .* at \['a'\]\['exchange'\], not 5"),
        ({"a": {"routing_key": 5}}, r"at \['a'\]\['routing_key'\], not 5"),
        ({"a": {"exchange_type": "topic"}}, "beside the name of an exchange"),
        ({"a": {"exchange": "x", "exchange_type": "headers"}}, "'direct', 'topic' or 'fanout'"),
        ([("a", 5)], r"at \[0\]\['a'\], not 5"),
        ([[("a", "x"), 5]], r"a pair of name and route at \[0\]\[1\], not 5"),
        ([{"a": "x"}, {re.compile("b.c"): {"priority": "high"}}], r"at \[1\]\['b.c'\]\['priority'\], not 'high'"),
        (waits, "a plain function, which decides without waiting, not <function waits"),
    ],
)
def test_routes_that_cannot_be_used_are_refused_when_they_are_set(routes: Any, error: str) -> None:
    app = AioTQ("proj", broker="memory://")

    with pytest.raises(InvalidSetting, match=f"^setting 'task_routes' must be .*{error}") as caught:
        app.conf.task_routes = routes

    assert caught.value.name == "task_routes"
    assert app.conf.task_routes == ()


@pytest.mark.parametrize(
    "path", ["no.such.module:route", f"{__name__}:missing", f"{__name__}:NOW", f"{__name__}:waits"]
)
async def test_a_router_that_cannot_be_had_is_an_error_when_the_app_connects(path: str) -> None:
    app = make_app(task_routes=[path])

    with pytest.raises(InvalidSetting, match=r"^setting 'task_routes' must be .* at \[0\], not '"):
        await core_of(app).connection()


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("feeds", "a list of names and Queue values, not 'feeds'"),
        ({"feeds": {}}, "a list of names and Queue values"),
        (["a", 5], r"a name or an aiotq.Queue at \[1\], not 5"),
        (["a", ""], r"a name or an aiotq.Queue at \[1\], not ''"),
        (["a", Queue("a")], r"a queue named once at \[1\] .*, not 'a'"),
        (
            [Queue("a", Exchange("x", "topic")), Queue("b", Exchange("x"))],
            r"the one type of exchange 'x' at \[1\], not 'direct'",
        ),
    ],
)
def test_queues_that_cannot_be_declared_are_refused_when_they_are_set(given: Any, error: str) -> None:
    app = AioTQ("proj", broker="memory://")

    with pytest.raises(InvalidSetting, match=f"^setting 'task_queues' must be {error}"):
        app.conf.task_queues = given


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Queue(""), "a queue's name must be a string"),
        (lambda: Queue("a", 5), "queue 'a': exchange must be a name or an Exchange, not 5"),  # type: ignore[arg-type]
        (lambda: Queue("a", "x", 5), "queue 'a': routing_key must be a string"),  # type: ignore[arg-type]
        (lambda: Queue("a", bindings=["x"]), "queue 'a': bindings must be a list of Binding"),  # type: ignore[arg-type]
        (lambda: Binding(""), "a binding: exchange must be a name or an Exchange, not ''"),
        (lambda: Exchange(""), "an exchange's name must be a string"),
        (lambda: Exchange("x", "headers"), "exchange 'x': type must be 'direct', 'topic' or 'fanout', not 'headers'"),
    ],
)
def test_values_that_cannot_be_are_refused_when_they_are_made(make: Any, error: str) -> None:
    with pytest.raises(InvalidOption, match=error):
        make()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("worker_queue_weights", 5),
        ("worker_queue_weights", {"a": 0}),
        ("worker_queue_weights", {"a": 1001}),
        ("worker_queue_weights", {"a": True}),
        ("worker_queue_weights", {5: 1}),
        ("worker_queue_order", "random"),
        ("task_default_exchange_type", "headers"),
        ("worker_unknown_task_timeout", -1),
    ],
)
def test_other_settings_of_routing_are_checked(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"^setting '{name}' must be "):
        setattr(AioTQ("proj").conf, name, value)


def test_the_environment_has_simple_forms() -> None:
    found = from_environment(
        {
            "AIOTQ_TASK_QUEUES": "hi, lo",
            "AIOTQ_TASK_ROUTES": f"proj.add=hi, feed.*=lo,{__name__}:to_feeds",
            "AIOTQ_WORKER_QUEUE_WEIGHTS": "hi:3,lo:1",
            "AIOTQ_WORKER_QUEUE_ORDER": "strict",
        }
    )
    app = make_app(**found)

    assert app.conf.worker_queue_weights == {"hi": 3, "lo": 1}
    assert [queue.name for queue in app.conf.task_queues] == ["hi", "lo"]
    assert queues(app) == ["hi"]
    assert queues(app, "feed.x") == ["lo"]
    with pytest.raises(InvalidSetting, match="queues with their weights, as hi:3,lo:1, not 'hi'"):
        from_environment({"AIOTQ_WORKER_QUEUE_WEIGHTS": "hi"})


def test_an_object_may_have_a_function_as_its_routes() -> None:
    class Config:
        task_routes = staticmethod(to_feeds)

        def method(self) -> None: ...

    assert from_object(Config) == {"task_routes": to_feeds}


# Which queues a worker consumes from


@pytest.mark.parametrize(
    ("settings", "options", "expected"),
    [
        ({}, {}, ("default",)),
        ({"task_queues": ["a", "b"]}, {}, ("a", "b")),
        ({"task_queues": ["a", Queue("b"), "c"]}, {"exclude_queues": ["b"]}, ("a", "c")),
        ({"task_queues": ["a", "b"]}, {"queues": ["x", "a", "x"]}, ("x", "a")),
        ({"task_queues": ["a", "b"]}, {"queues": ["x", "a"], "exclude_queues": ["x"]}, ("a",)),
    ],
)
def test_a_worker_consumes_from_what_is_declared_or_chosen(
    settings: dict[str, Any], options: dict[str, Any], expected: tuple[str, ...]
) -> None:
    assert make_app(**settings).worker(**options).queues == expected


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"queues": ["feds"]}, "a worker: queue 'feds' is not in task_queues: did you mean 'feeds'?"),
        ({"exclude_queues": ["feds"]}, "queue 'feds' can't be excluded: there is none: did you mean 'feeds'?"),
        ({"exclude_queues": ["feeds", "other"]}, "all queues are excluded .*: a worker needs at least one"),
        ({"exclude_queues": "feeds"}, "a worker's queues are a list of names"),
        ({"queue_weights": {"feeds": 0}}, "a queue's weight is a whole number from 1 to 1000: 'feeds': 0"),
        ({"queue_weights": {"feeds": "3"}}, "a queue's weight is a whole number from 1 to 1000: 'feeds': '3'"),
    ],
)
def test_queues_that_a_worker_cannot_have_are_refused(options: dict[str, Any], error: str) -> None:
    app = make_app(task_queues=["feeds", "other"], task_create_missing_queues=False)

    with pytest.raises(InvalidOption, match=error):
        app.worker(**options)
