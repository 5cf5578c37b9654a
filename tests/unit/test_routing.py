"""Where calls go: every form of a route, the order of precedence, what an exchange reaches, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from aiotq import AioTQ, Binding, Exchange, Queue
from aiotq.core.clock import SystemClock
from aiotq.core.inside import core_of
from aiotq.exceptions import CallError, InvalidOption, QueueNotFound
from aiotq.wire.message import Envelope

NOW = 1_700_000_000.0


class StoppedClock(SystemClock):
    def time(self) -> float:
        return NOW


def make_app(**settings: Any) -> AioTQ:
    app = AioTQ("proj", broker="memory://", clock=StoppedClock(), **settings)

    @app.task(name="proj.add")
    async def add(x: int) -> int:
        return x

    @app.task(name="proj.own", queue="own", priority=7)
    async def own(x: int) -> int:
        return x

    @app.task(name="proj.shared", exchange="media", routing_key="media.video")
    async def shared(x: int) -> int:
        return x

    return app


def sent(app: AioTQ, name: str = "proj.add", /, **options: Any) -> list[Envelope]:
    """The envelopes of a call of `name`."""
    task = app.tasks.get(name, name)
    calls: Any = options
    envelopes = core_of(app).builder.envelopes(task, (1,), {}, calls, reply_to="here")
    return list(envelopes)


def queues(app: AioTQ, name: str = "proj.add", /, **options: Any) -> list[str]:
    return [envelope.queue for envelope in sent(app, name, **options)]


def to_feeds(name: str, args: Any, kwargs: Any, options: Mapping[str, Any], task: Any = None, **_: Any) -> Any:
    return "feeds" if name == "proj.add" else None


class OldRouter:
    def route_for_task(self, name: str, args: Any = None, kwargs: Any = None) -> Any:
        return {"queue": "old", "priority": 1} if name == "proj.add" else None


def fails(name: str, *_: Any, **__: Any) -> Any:
    raise ValueError(f"no place for {name}")


async def waits(*_: Any, **__: Any) -> Any:
    return "feeds"


# Forms


@pytest.mark.parametrize(
    "routes",
    [
        {"proj.add": "feeds"},
        {"proj.add": {"queue": "feeds"}},
        {"proj.add": Queue("feeds")},
        {"proj.add": {"queue": Queue("feeds")}},
        {"proj.*": "feeds"},
        {"proj.a?d": "feeds"},
        {"proj.[ab]*": "feeds"},
        {re.compile(r"proj\.(add|sub)"): "feeds"},
        {"proj.*": "other", "proj.add": "feeds"},
        {"other.*": "other", "*.add": "feeds", "proj.*": "last"},
        {"proj.add": None, "proj.*": "other"} | {"proj.add": "feeds"},
        [("proj.add", "feeds")],
        [("other.*", "other"), (re.compile("proj"), {"queue": "feeds"}), ("proj.*", "last")],
        ([("other.*", "other"), ["proj.*", "feeds"]],),
        [{"other": "x"}, {"proj.add": "feeds"}, {"proj.*": "last"}],
        [{"proj.add": None}, {"proj.*": "feeds"}],
        to_feeds,
        [to_feeds, {"proj.*": "last"}],
        [lambda *_, **__: None, to_feeds],
        (f"{__name__}:to_feeds",),
        f"{__name__}.to_feeds",
        [{"proj.own": "x"}, f"{__name__}:to_feeds"],
    ],
)
def test_a_route_has_many_forms(routes: Any) -> None:
    app = make_app(task_routes=routes)

    assert queues(app) == ["feeds"]
    assert queues(app) == ["feeds"], "a decision that is remembered is the same"


@pytest.mark.parametrize("router", [OldRouter(), OldRouter, f"{__name__}:OldRouter", [OldRouter()]])
def test_a_router_may_be_an_object_with_route_for_task(router: Any) -> None:
    (envelope,) = sent(make_app(task_routes=router))

    assert (envelope.queue, envelope.priority) == ("old", 1)


def test_a_router_sees_the_call() -> None:
    seen: list[Any] = []

    def look(name: str, args: Any, kwargs: Any, options: Any, task: Any = None) -> None:
        seen.append((name, args, kwargs, options, task))

    app = make_app(task_routes=[look])

    assert queues(app, countdown=5) == ["default"]
    assert queues(app, "by.name") == ["default"]
    assert seen == [
        ("proj.add", (1,), {}, {"countdown": 5}, app.tasks["proj.add"]),
        ("by.name", (1,), {}, {}, None),
    ]


def test_no_route_is_the_default_queue() -> None:
    assert queues(make_app()) == ["default"]
    assert queues(make_app(task_default_queue="main", task_routes={"other": "x"})) == ["main"]
    assert queues(make_app(task_routes={"proj.add": {}})) == ["default"]


# Precedence


@pytest.mark.parametrize(
    ("name", "options", "queue", "priority"),
    [
        ("proj.add", {}, "routed", 2),
        ("proj.add", {"queue": "asked"}, "asked", 2),
        ("proj.add", {"priority": 9}, "routed", 9),
        ("proj.add", {"priority": 0}, "routed", 0),
        ("proj.own", {}, "own", 7),
        ("proj.own", {"queue": "asked"}, "asked", 7),
        ("proj.own", {"queue": "asked", "priority": 1}, "asked", 1),
    ],
)
def test_the_call_comes_before_the_task_and_that_before_the_routes(
    name: str, options: dict[str, Any], queue: str, priority: int
) -> None:
    app = make_app(task_routes={"proj.*": {"queue": "routed", "priority": 2}}, task_default_priority=3)

    (envelope,) = sent(app, name, **options)

    assert (envelope.queue, envelope.priority) == (queue, priority)


def test_a_route_says_other_options_too() -> None:
    app = make_app(
        task_routes={"proj.*": {"serializer": "msgpack", "expires": 60, "ignore_result": True, "shadow": "x"}}
    )

    (envelope,) = sent(app, expires=5)

    assert envelope.message.content_type == "application/x-msgpack"
    assert envelope.message.expires == NOW + 5
    assert envelope.message.shadow == "x"
    assert envelope.message.ignore_result
    assert envelope.queue == "default"


def test_who_names_the_exchange_or_the_queue_decides_and_the_key_may_come_from_above() -> None:
    app = make_app(
        task_queues=[Queue("videos", "media", "media.video"), Queue("images", "media", "media.image"), "default"],
        task_routes={"proj.add": {"exchange": "media", "routing_key": "media.image"}},
    )

    assert queues(app) == ["images"]
    assert queues(app, routing_key="media.video") == ["videos"]
    assert queues(app, queue="default") == ["default"]
    assert queues(app, "proj.shared") == ["videos"]
    assert queues(app, "proj.shared", routing_key="media.image") == ["images"]
    assert queues(app, "proj.shared", queue="default") == ["default"]


# Exchanges

MEDIA = Exchange("media", "topic")
ALL = Exchange("all", "fanout")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"exchange": "media", "routing_key": "a.video"}, ["videos", "audit"]),
        ({"exchange": "media", "routing_key": "video"}, ["audit"]),
        ({"exchange": "media", "routing_key": "b.c.image"}, ["images", "audit"]),
        ({"exchange": "media", "routing_key": "image"}, ["images", "audit"]),
        ({"exchange": "media", "routing_key": ""}, ["audit"]),
        ({"exchange": "all"}, ["videos", "here"]),
        ({"exchange": "all", "routing_key": "whatever"}, ["videos", "here"]),
        ({"exchange": "", "routing_key": "here"}, ["here"]),
        ({"exchange": "here", "routing_key": "here"}, ["here"]),
        ({"exchange": "here", "routing_key": "there"}, ["there"]),
        ({"queue": "videos"}, ["videos"]),
        ({"queue": "videos", "routing_key": "x.video"}, ["videos"]),
        ({"queue": "here", "routing_key": "no matter"}, ["here"]),
        ({"queue": "made", "routing_key": "no matter"}, ["made"]),
        ({"queue": "made", "exchange": "made", "routing_key": "made"}, ["made"]),
        ({"exchange": "made"}, ["made"]),
        ({"queue": "here", "exchange": "all"}, ["videos", "here"]),
        ({"queue": "there", "exchange": "here"}, ["there"]),
    ],
)
def test_an_exchange_reaches_the_queues_bound_to_it(options: dict[str, Any], expected: list[str]) -> None:
    app = make_app(
        task_queues=[
            Queue("videos", bindings=(Binding(MEDIA, "*.video"), Binding(ALL))),
            Queue("images", MEDIA, "#.image"),
            Queue("audit", "media", "#"),
            Queue("here", bindings=(Binding("all"), Binding("here", "here"))),
            Queue("there", "here", "there"),
        ]
    )

    assert queues(app, **options) == expected


@pytest.mark.parametrize(
    ("pattern", "key", "fits"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("*", "", False),
        ("#", "", True),
        ("#", "a.b.c", True),
        ("a.#", "a", True),
        ("a.#", "ab", False),
        ("#.c", "a.b.c", True),
        ("a.#.c", "a.c", True),
        ("a.#.c", "a.b.b.c", True),
        ("*.#.*", "a", False),
        ("*.#.*", "a.b", True),
        ("a.*.#", "a.b", True),
        ("a+", "aa", False),
    ],
)
def test_a_topic_pattern_is_words_stars_and_hashes(pattern: str, key: str, fits: bool) -> None:
    app = make_app(task_queues=[Queue("bound", Exchange("x", "topic"), pattern), Queue("rest", "x", "#")])

    assert queues(app, exchange="x", routing_key=key) == (["bound", "rest"] if fits else ["rest"])


def test_defaults_of_exchange_and_key() -> None:
    app = make_app(
        task_queues=["default", Queue("feeds", routing_key="feed.#"), Queue("tasks", routing_key="task.#")],
        task_default_exchange="tasks",
        task_default_exchange_type="topic",
        task_default_routing_key="task.default",
    )

    assert queues(app) == ["default"], "who says nothing goes to the default queue, and to no other"
    assert queues(app, routing_key="feed.import") == ["feeds"]
    assert queues(app, exchange="tasks") == ["tasks"]
    assert queues(app, queue="feeds", routing_key="feed.import") == ["feeds"]


def test_each_further_queue_gets_a_copy_with_an_id_of_its_own_and_without_result() -> None:
    app = make_app(task_queues=[Queue("a", ALL), Queue("b", ALL), Queue("c", ALL)])

    first, *copies = sent(app, exchange="all", task_id="me", headers={"x": 1}, countdown=5, priority=9)
    again = sent(app, exchange="all", task_id="me")

    assert [each.queue for each in (first, *copies)] == ["a", "b", "c"]
    assert (first.message.id, first.message.reply_to, first.message.ignore_result) == ("me", "here", False)
    assert all(each.message.ignore_result and each.message.reply_to is None for each in copies)
    assert all(each.message.headers == {"x": 1} and each.due == NOW + 5 and each.priority == 9 for each in copies)
    assert len({each.message.id for each in (first, *copies)}) == 3
    assert [each.message.id for each in again] == [each.message.id for each in (first, *copies)], "sent twice it is one"


# What goes nowhere


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"exchange": "nowhere", "routing_key": "x"}, "no queue is bound to exchange 'nowhere'"),
        ({"exchange": "medla", "routing_key": "x"}, "exchange 'medla': did you mean 'media'?"),
        ({"exchange": "media", "routing_key": "video"}, "no queue is bound to topic exchange 'media' for .*'video'"),
        ({"exchange": "media"}, "topic exchange 'media' needs a routing_key"),
        ({"exchange": "videos", "routing_key": "x.video"}, "no queue is bound to exchange 'videos'"),
        ({"exchange": ""}, "exchange '' takes a queue's name as routing_key, not None"),
        (
            {"queue": "videos", "routing_key": "x.image"},
            r"bound with '\*\.video', which routing_key 'x.image' does not",
        ),
        ({"queue": "b", "exchange": "media", "routing_key": "x.video"}, "queue 'b' is not bound to topic exchange"),
        ({"routing_key": "x.video"}, "routing_key 'x.video' needs an exchange: say exchange=, or set task_default"),
        ({"exchange": 5}, "option exchange must be the name of an exchange; its type is declared in task_queues"),
        ({"exchange": MEDIA}, "option exchange must be the name of an exchange; its type is declared in task_queues"),
        ({"routing_key": 5}, "option routing_key must be a string of at most 255 characters, not 5"),
        ({"routing_key": "x" * 256}, "option routing_key must be a string of at most 255 characters"),
        ({"queue": Queue("a")}, "option queue must be a string"),
    ],
)
def test_a_call_that_would_go_nowhere_is_an_error(options: dict[str, Any], error: str) -> None:
    app = make_app(task_queues=[Queue("videos", MEDIA, "*.video"), "a", "b"])

    with pytest.raises(InvalidOption, match=f"proj.add: .*{error}"):
        queues(app, **options)


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"task_queues": ["default", "feeds"]}, {"queue": "feds"}),
        ({"task_queues": ["default", "feeds"], "task_routes": {"proj.*": "feds"}}, {}),
        ({"task_queues": ["feeds"], "task_default_queue": "feds"}, {}),
        ({"task_queues": ["feeds", "default"]}, {"exchange": "", "routing_key": "feds"}),
    ],
)
def test_a_queue_that_is_not_declared_is_an_error_if_none_are_to_be_made(
    settings: dict[str, Any], options: dict[str, Any]
) -> None:
    app = make_app(task_create_missing_queues=False, **settings)

    with pytest.raises(QueueNotFound, match="queue 'feds' is not in task_queues: did you mean 'feeds'") as e:
        queues(app, **options)

    assert (e.value.queue, e.value.suggestion) == ("feds", "feeds")
    assert queues(app, queue="feeds") == ["feeds"]


def test_without_declared_queues_the_default_one_is_there() -> None:
    app = make_app(task_create_missing_queues=False)

    assert queues(app) == ["default"]
    with pytest.raises(QueueNotFound, match="queue 'x' is not in task_queues: there are 'default'"):
        queues(app, queue="x")


@pytest.mark.parametrize(
    ("router", "error"),
    [
        (fails, r"the router task_routes \(fails\) failed with ValueError: no place for proj.add"),
        (lambda *_, **__: 5, r"must return a queue's name, a mapping of options or None, not 5"),
        (lambda *_, **__: {"priority": 10}, r"must return a whole number from 0 to 9 at \['priority'\], not 10"),
        ([{"x": "y"}, fails], r"the router task_routes\[1\] \(fails\) failed"),
        (
            lambda *_, **__: {"exchange": "video", "exchange_type": "topic"},
            "no queue is bound to exchange 'video'|video",
        ),
    ],
)
def test_a_router_that_fails_is_an_error_of_the_call_with_its_place(router: Any, error: str) -> None:
    app = make_app(task_routes=router, task_create_missing_queues=False)

    with pytest.raises(CallError, match=error):
        queues(app)
