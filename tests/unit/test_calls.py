"""From a call to an envelope: what can't be sent or run is refused here, with its name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotq.calling.arguments import ArgumentCheck
from aiotq.calling.envelopes import EnvelopeBuilder
from aiotq.core.clock import SystemClock
from aiotq.core.settings import Settings
from aiotq.exceptions import CallError, EncodeError, InvalidArguments, InvalidOption, MessageTooLarge
from aiotq.tasks.options import CallOptions, TaskOptions, check_route_option
from aiotq.tasks.request import Request, request_of, running_request
from aiotq.tasks.task import CoroutineTask, FunctionTask, Task
from aiotq.transport.routing import Router
from aiotq.wire.content_types import standard_registry
from aiotq.wire.message import Envelope, pack, unpack

NOW: Final = 2_000_000_000.0


async def add(x: int, y: int = 1) -> int:
    return x + y


def task(fn: Callable[..., Any] = add, **declared: Any) -> Task[..., Any]:
    kind: type[Task[..., Any]] = CoroutineTask if inspect.iscoroutinefunction(fn) else FunctionTask
    return kind.of(fn, "proj.add", TaskOptions(**declared))


def build(
    callee: Task[..., Any] | str,
    *args: Any,
    conf: Any = None,
    kwargs: Any = None,
    reply_to: Any = None,
    **options: Any,
) -> Envelope:
    given: Any = options
    return builder(conf).envelope(callee, args, kwargs or {}, given, reply_to=reply_to)


def builder(conf: Any = None) -> EnvelopeBuilder:
    settings = Settings(conf or {})
    router = Router(settings, check_route_option)
    return EnvelopeBuilder(settings, standard_registry(), router, tasks={}, clock=StoppedClock())


class StoppedClock(SystemClock):
    def time(self) -> float:
        return NOW


# Arguments


def plain(x: Any, y: Any) -> None: ...
def defaults(x: Any, y: Any = 1, z: Any = 2) -> None: ...
def positional(x: Any, /, y: Any = 1) -> None: ...
def keyword(x: Any, *, y: Any, z: Any = 1) -> None: ...
def anything(*args: Any, **kwargs: Any) -> None: ...
def some(x: Any, *args: Any, y: Any = 1) -> None: ...
def named(x: Any = 1, **kwargs: Any) -> None: ...
def nothing() -> None: ...


FUNCTIONS: Final[list[Callable[..., Any]]] = [
    plain,
    defaults,
    positional,
    keyword,
    anything,
    some,
    named,
    nothing,
    functools.partial(defaults, 1),
    functools.partial(defaults, y=5),
]


@given(
    st.sampled_from(FUNCTIONS),
    st.booleans(),
    st.lists(st.none(), max_size=4),
    st.dictionaries(st.sampled_from(["x", "y", "z", "args", "kwargs", "self", "w"]), st.none(), max_size=4),
)
def test_arguments_fit_exactly_when_python_would_take_them(
    function: Callable[..., Any], bind: bool, args: list[Any], kwargs: dict[str, Any]
) -> None:
    parameters = list(inspect.signature(function).parameters.values())
    if bind:
        if not parameters or parameters[0].kind not in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        ):
            return
        parameters = parameters[1:]
    check = ArgumentCheck(function, "proj.task", skip_first=bind)

    try:
        inspect.Signature(parameters).bind(*args, **kwargs)
    except TypeError:
        with pytest.raises(InvalidArguments):
            check.check(args, kwargs)
    else:
        check.check(args, kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs", "complaint"),
    [
        ((), {}, "missing a required argument: 'x'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"x": 2}, "multiple values for argument 'x'"),
        ((1,), {"z": 2}, "got an unexpected keyword argument 'z'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_the_signature(
    args: tuple[Any, ...], kwargs: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InvalidArguments) as caught:
        build(task(), *args, kwargs=kwargs)

    assert str(caught.value).startswith("proj.add(x: ")
    assert str(caught.value).endswith(f": {complaint}")
    assert isinstance(caught.value, TypeError)


def test_a_bound_task_does_not_count_itself() -> None:
    def bound(self: Any, x: int) -> None: ...

    assert build(task(bound, bind=True), 1).message.body == b"[[1],{},{}]"
    with pytest.raises(InvalidArguments, match="too many positional"):
        build(task(bound, bind=True), 1, 2)


def test_binding_a_function_without_parameters_is_refused() -> None:
    with pytest.raises(InvalidOption, match="bind=True needs a first parameter"):
        task(nothing, bind=True)


def test_with_typing_off_or_by_name_arguments_are_not_checked() -> None:
    assert build(task(typing=False), 1, 2, 3).message.body == b"[[1,2,3],{},{}]"
    assert build("other.add", 1, 2, 3).message.body == b"[[1,2,3],{},{}]"


@pytest.mark.parametrize("args", ["ab", 5, None, {1}, {"x": 1}, (each for each in "ab")])
def test_arguments_are_a_list_or_a_tuple(args: Any) -> None:
    """A string would be taken for its letters."""
    for callee in (task(), "proj.add"):
        with pytest.raises(InvalidArguments, match=r"proj\.add: args must be a list or tuple, not a"):
            builder().envelope(callee, args, {}, {}, reply_to=None)


@pytest.mark.parametrize(
    ("args", "kwargs", "place"),
    [
        ((1, object()), {}, "proj.add: argument y"),
        (([1, {"a": object()}],), {}, "proj.add: argument x[1]['a']"),
        ((1,), {"y": object()}, "proj.add: argument y"),
    ],
)
def test_an_argument_that_cannot_be_sent_is_named(args: tuple[Any, ...], kwargs: dict[str, Any], place: str) -> None:
    with pytest.raises(EncodeError) as caught:
        build(task(), *args, kwargs=kwargs)

    assert str(caught.value).startswith(f"{place} can't be serialized as json: ")


def test_without_a_signature_an_argument_is_named_by_its_place() -> None:
    with pytest.raises(EncodeError, match="argument #1"):
        build("other.add", 1, object())
    with pytest.raises(EncodeError, match="argument #2"):
        build(task(some), 1, 2, object())


def test_arguments_too_deep_together_are_refused() -> None:
    """Each may be as deep as can be; the body adds two levels of its own."""
    deepest: Any = []
    while True:
        try:
            standard_registry().get("json").encode([deepest])
        except (TypeError, ValueError):
            break
        deepest = [deepest]

    with pytest.raises(EncodeError, match=r"proj\.add"):
        build(task(), deepest)


def test_a_call_that_is_too_large_is_refused_with_sizes() -> None:
    with pytest.raises(MessageTooLarge, match="raise the setting 'task_message_max_size'") as caught:
        build(task(), "x" * 1000, conf={"task_message_max_size": 1000})

    assert (caught.value.size, caught.value.limit) == (1012, 1000)
    assert build(task(), "x" * 988, conf={"task_message_max_size": 1000}).message.id


# Options


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("task_id", 5, "a string of 1 to 255 printable characters"),
        ("task_id", "", "a string of 1 to 255 printable characters"),
        ("task_id", "x" * 256, "a string of 1 to 255 printable characters"),
        ("task_id", "\ud800", "a string of 1 to 255 printable characters"),
        ("task_id", "a\nb", "a string of 1 to 255 printable characters"),
        ("task_id", "a\x1b[31mb", "a string of 1 to 255 printable characters"),
        ("countdown", "5", "seconds or a timedelta"),
        ("countdown", True, "seconds or a timedelta"),
        ("countdown", float("nan"), "seconds or a timedelta"),
        ("countdown", float("inf"), "seconds or a timedelta"),
        ("eta", 5, "a datetime"),
        ("eta", "2030-01-01", "a datetime"),
        ("eta", None, "a datetime"),
        ("expires", "60", "seconds, a timedelta or a datetime"),
        ("expires", True, "seconds, a timedelta or a datetime"),
        ("expires", float("nan"), "seconds, a timedelta or a datetime"),
        ("expires", float("inf"), "seconds, a timedelta or a datetime"),
        ("queue", "", "a string of 1 to 255 printable characters"),
        ("queue", b"hi", "a string of 1 to 255 printable characters"),
        ("queue", "x" * 256, "a string of 1 to 255 printable characters"),
        ("queue", "\udfff", "a string of 1 to 255 printable characters"),
        ("queue", "a\0b", "a string of 1 to 255 printable characters"),
        ("priority", 10, "a whole number from 0 to 9"),
        ("priority", -1, "a whole number from 0 to 9"),
        ("priority", 4.0, "a whole number from 0 to 9"),
        ("priority", True, "a whole number from 0 to 9"),
        ("serializer", 5, "a serializer's name"),
        ("ignore_result", 1, "true or false"),
        ("ignore_result", None, "true or false"),
        ("headers", [("a", 1)], "a mapping with string keys"),
        ("headers", {1: 2}, "a mapping with string keys"),
        ("soft_time_limit", 0, "seconds, more than 0, at most ten years"),
        ("soft_time_limit", float("inf"), "seconds, more than 0, at most ten years"),
        ("soft_time_limit", 315_360_001, "seconds, more than 0, at most ten years"),
        ("time_limit", -1, "seconds, more than 0, at most ten years"),
        ("time_limit", "5", "seconds, more than 0, at most ten years"),
        ("time_limit", float("nan"), "seconds, more than 0, at most ten years"),
        ("time_limit", 315_360_001, "seconds, more than 0, at most ten years"),
        ("time_limit", 2**70, "seconds, more than 0, at most ten years"),
        ("shadow", 5, "a string of 1 to 255 printable characters"),
        ("shadow", "x" * 256, "a string of 1 to 255 printable characters"),
        ("shadow", "\ud800", "a string of 1 to 255 printable characters"),
        ("shadow", "a\x7fb", "a string of 1 to 255 printable characters"),
        ("publish_timeout", 0, "seconds, more than 0, at most ten years"),
        ("publish_timeout", float("inf"), "seconds, more than 0, at most ten years"),
    ],
)
def test_an_option_with_an_impossible_value_is_refused(option: str, value: object, expected: str) -> None:
    for callee in (task(), "other.add"):
        with pytest.raises(InvalidOption) as caught:
            build(callee, 1, **{option: value})

        assert f"option {option} must be {expected}, not " in str(caught.value)


def test_an_unknown_option_is_refused_with_what_to_do_instead() -> None:
    for option, hint in {
        "count_down": "did you mean 'countdown'?",
        "xyz": "(there are add_to_parent, ",
        "producer": "leave it out; the app manages its connections",
        "root_id": "leave it out; it is set from the task that makes the call",
        "retries": "a call that is sent begins at 0; task.apply(…, retries=)",
        "rate_limit": "it belongs to the task, as in @app.task(rate_limit=…)",
    }.items():
        with pytest.raises(InvalidOption) as caught:
            build(task(), 1, **{option: 5})

        assert str(caught.value).startswith(f"proj.add: unknown option '{option}'")
        assert hint in str(caught.value)


def test_every_option_can_be_given() -> None:
    eta = datetime(2033, 6, 1, tzinfo=UTC)

    envelope = build(
        task(),
        1,
        reply_to="here",
        task_id="me",
        eta=eta,
        expires=60,
        queue="hi",
        priority=9,
        serializer="msgpack",
        ignore_result=False,
        headers={"trace": [1]},
        soft_time_limit=1,
        time_limit=2.5,
        shadow="other",
        publish_timeout=1,
    )

    message = envelope.message
    assert (envelope.queue, envelope.priority, envelope.due) == ("hi", 9, eta.timestamp())
    assert (message.id, message.task, message.shadow, message.reply_to) == ("me", "proj.add", "other", "here")
    assert (message.eta, message.expires, message.sent_at) == (eta.timestamp(), NOW + 60, NOW)
    assert (message.soft_time_limit, message.time_limit) == (1, 2.5)
    assert (message.content_type, message.content_encoding) == ("application/x-msgpack", "binary")
    assert message.headers == {"trace": [1]}
    assert unpack(pack(message)) == message


def test_the_set_of_options_is_all_there_is() -> None:
    assert set(CallOptions.__annotations__) == {
        "task_id",
        "countdown",
        "eta",
        "expires",
        "queue",
        "exchange",
        "routing_key",
        "priority",
        "serializer",
        "compression",
        "ignore_result",
        "headers",
        "stamps",
        "link",
        "link_error",
        "soft_time_limit",
        "time_limit",
        "shadow",
        "add_to_parent",
        "reply_to",
        "publish_timeout",
        "retry",
        "retry_policy",
        "unique",
        "debounce",
        "throttle",
        "idempotency_key",
        "fair_key",
    }


@pytest.mark.parametrize("name", ["", "x" * 256, "\ud800", "a\nb", "a\x1b[31mb"])
def test_a_name_that_no_task_can_have_is_refused(name: Any) -> None:
    with pytest.raises(CallError, match="task's name"):
        build(name)


def test_unknown_serializers_are_refused() -> None:
    with pytest.raises(InvalidOption, match="unknown serializer 'jsn': did you mean 'json'"):
        build(task(), 1, serializer="jsn")


def test_headers_that_cannot_be_sent_are_refused() -> None:
    with pytest.raises(EncodeError, match=r"proj\.add: option headers\['a'\]"):
        build(task(), 1, headers={"a": object()})
    with pytest.raises(InvalidOption, match="option headers is 50012 bytes, over the limit"):
        build(task(), 1, headers={"abcd": "x" * 50_001})


def test_headers_of_the_caller_can_change_afterwards() -> None:
    headers = {"a": 1}
    envelope = build(task(), 1, headers=headers)
    headers["a"] = object()  # type: ignore[assignment]

    assert envelope.message.headers == {"a": 1}


def test_all_options_at_their_longest_still_make_a_message() -> None:
    longest = "\N{GRINNING FACE}" * 255
    envelope = build(
        longest,
        reply_to=longest,
        task_id=longest,
        queue=longest,
        shadow=longest,
        headers={"a": "x" * (40 * 1024 - 8)},
        stamps={"a": ["x" * (8 * 1024 - 10)]},
        expires=5,
        countdown=5,
    )

    assert unpack(pack(envelope.message)) == envelope.message


def test_a_thread_has_no_hard_time_limit() -> None:
    """It can't be stopped: a limit that does nothing would be a lie."""
    assert build(task(plain, run="process"), 1, 2, time_limit=1)
    assert build(task(plain, run="thread"), 1, 2, soft_time_limit=1)
    with pytest.raises(InvalidOption, match='time_limit needs run="process"'):
        build(task(plain, run="thread"), 1, 2, time_limit=1)
    with pytest.raises(InvalidOption, match='needs an async def or run="process"'):
        task(plain, time_limit=1)


# Precedence


def message_value(name: str) -> Callable[[Envelope], Any]:
    return lambda envelope: getattr(envelope.message, name)


@pytest.mark.parametrize(
    ("option", "setting", "values", "read"),
    [
        ("queue", "task_default_queue", ("a", "b", "c"), lambda envelope: envelope.queue),
        ("priority", "task_default_priority", (0, 8, 7), lambda envelope: envelope.priority),
        ("ignore_result", "task_ignore_result", (False, True, False), message_value("ignore_result")),
        ("ignore_result", "task_ignore_result", (True, False, True), message_value("ignore_result")),
        (
            "serializer",
            "task_serializer",
            ("msgpack", "json", "msgpack"),
            lambda envelope: {"application/json": "json"}.get(envelope.message.content_type, "msgpack"),
        ),
        ("soft_time_limit", None, (3, 2, None), message_value("soft_time_limit")),
        ("time_limit", None, (3, 2, None), message_value("time_limit")),
        ("expires", None, (3, 2, None), lambda envelope: envelope.message.expires and envelope.message.expires - NOW),
    ],
)
def test_the_call_wins_over_the_task_and_the_task_over_the_settings(
    option: str, setting: str | None, values: tuple[Any, Any, Any], read: Callable[[Envelope], Any]
) -> None:
    call, declared, configured = values
    conf = {setting: configured} if setting else {}

    assert read(build(task(**{option: declared}), 1, conf=conf, **{option: call})) == call
    assert read(build(task(**{option: declared}), 1, conf=conf)) == declared
    assert read(build(task(), 1, conf=conf)) == configured
    assert read(build("other.add", 1, conf=conf)) == configured


def test_an_ignored_result_is_sent_to_nobody() -> None:
    assert build(task(), 1, reply_to="here", ignore_result=True).message.reply_to is None
    assert build(task(), 1, reply_to="here").message.reply_to == "here"


# Times


def test_a_countdown_counts_from_now() -> None:
    assert build(task(), 1, countdown=2.5).due == NOW + 2.5
    assert build(task(), 1, countdown=0).due is None


def test_eta_and_countdown_together_are_refused() -> None:
    with pytest.raises(InvalidOption, match="give eta or countdown, not both"):
        build(task(), 1, countdown=1, eta=datetime(2033, 6, 1, tzinfo=UTC))


@pytest.mark.parametrize("option", ["eta", "expires"])
def test_a_time_that_clocks_skip_is_refused(option: str) -> None:
    skipped = datetime(2033, 3, 27, 2, 30)
    conf = {"timezone": "Europe/Berlin"}

    with pytest.raises(InvalidOption, match=f"option {option}: 2033-03-27 02:30:00 does not exist in Europe/Berlin"):
        build(task(), 1, conf=conf, **{option: skipped})
    for there_is in (skipped.replace(hour=1), skipped.replace(hour=3), datetime(2033, 10, 30, 2, 30)):
        assert getattr(build(task(), 1, conf=conf, **{option: there_is}).message, option)


@pytest.mark.parametrize("option", ["eta", "expires"])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
def test_a_time_without_a_zone_is_in_the_apps(option: str, zone: str) -> None:
    time = datetime(2033, 6, 1, 12, 30)

    envelope = build(task(), 1, conf={"timezone": zone}, **{option: time})

    assert getattr(envelope.message, option) == time.replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize("option", ["eta", "expires"])
def test_a_time_with_a_zone_is_itself(option: str) -> None:
    time = datetime(2033, 6, 1, 12, 30, tzinfo=timezone(timedelta(hours=-7)))

    envelope = build(task(), 1, conf={"timezone": "Asia/Tokyo"}, **{option: time})

    assert getattr(envelope.message, option) == time.timestamp()


@given(
    st.one_of(
        st.fixed_dictionaries({"countdown": st.floats(0, allow_infinity=False)}),
        st.fixed_dictionaries({"expires": st.floats(0, exclude_min=True, allow_infinity=False)}),
        st.fixed_dictionaries({"eta": st.datetimes(timezones=st.none() | st.timezones())}),
        st.fixed_dictionaries({"expires": st.datetimes(timezones=st.none() | st.timezones())}),
        st.just({"expires": datetime.max}),
        st.just({"eta": datetime.max.replace(tzinfo=UTC)}),
        st.just({"expires": datetime.min}),
    ),
    st.sampled_from(["UTC", "Pacific/Apia", "America/New_York"]),
)
def test_a_time_that_is_accepted_can_be_read_by_the_worker(options: dict[str, Any], zone: str) -> None:
    """What no clock can show is refused at the call, and not found out where the task runs."""
    try:
        envelope = build(task(), 1, conf={"timezone": zone}, **options)
    except InvalidOption:
        return

    request = request_of(unpack(pack(envelope.message)), (1,), {})
    assert (request.eta is not None) == (envelope.message.eta is not None)


# Where the call comes from


def test_a_call_from_a_task_knows_its_parent_and_root() -> None:
    token = running_request.set(Request(id="parent", root_id="root"))
    try:
        child = build(task(), 1).message
    finally:
        running_request.reset(token)
    alone = build(task(), 1).message

    assert (child.parent_id, child.root_id) == ("parent", "root")
    assert (alone.parent_id, alone.root_id) == (None, None)
    assert request_of(alone, (), {}).root_id == alone.id


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("priority", 10),
        ("priority", "4"),
        ("queue", ""),
        ("queue", 5),
        ("serializer", 5),
        ("ignore_result", "yes"),
        ("expires", -1),
        ("soft_time_limit", 0),
        ("time_limit", "5"),
        ("acks_late", 1),
        ("track_started", "no"),
        ("run", "greenlet"),
        ("bind", 1),
        ("typing", "no"),
        ("name", 5),
        ("name", ""),
    ],
)
def test_a_declaration_with_an_impossible_value_is_refused(option: str, value: object) -> None:
    from aiotq import AioTQ  # noqa: PLC0415

    app = AioTQ("proj", broker="memory://")
    with pytest.raises(InvalidOption, match=f"option {option} must be "):
        app.task(**{option: value})(add)  # type: ignore[call-overload]
