"""What can't be is refused where it is said, with the option's name and value, and nothing is sent."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from aiotq import AioTQ, Snooze, signature
from aiotq.exceptions import AioTQError, CallError, InvalidArguments, InvalidOption

NOON = datetime(2027, 5, 1, 12, tzinfo=UTC)
#: Clocks in Berlin went from 2:00 to 3:00.
SKIPPED = datetime(2027, 3, 28, 2, 30)  # it has no zone: that is the point


async def add(x: int, y: int = 0) -> int:
    return x + y


async def told(request: Any, exc: Any, traceback: Any) -> None: ...


async def told_of_id(task_id: str) -> None: ...


def make() -> AioTQ:
    app = AioTQ("proj", broker="memory://", timezone="Europe/Berlin")
    for function in (add, told, told_of_id):
        app.task(name=function.__name__)(function)
    return app


def s(name: str, *args: Any) -> Any:
    return signature(name, args)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"countdown": "5"}, "add: option countdown must be seconds or a timedelta, not '5'"),
        ({"countdown": float("nan")}, "add: option countdown must be seconds or a timedelta, not nan"),
        ({"countdown": 1e12}, "option countdown: 1000000000000.0 is beyond the end of the calendar"),
        ({"eta": NOON, "countdown": 1}, "add: give eta or countdown, not both"),
        ({"eta": 5}, "add: option eta must be a datetime, not 5"),
        ({"eta": SKIPPED}, "option eta: 2027-03-28 02:30:00 does not exist in Europe/Berlin"),
        ({"expires": SKIPPED}, "option expires: 2027-03-28 02:30:00 does not exist in Europe/Berlin"),
        ({"expires": "0"}, "add: option expires must be seconds, a timedelta or a datetime, not '0'"),
        ({"priority": 11}, "add: option priority must be a whole number from 0 to 9, not 11"),
        ({"priority": True}, "add: option priority must be a whole number from 0 to 9, not True"),
        ({"rate_limit": "fast"}, "unknown option 'rate_limit': it belongs to the task, as in @app.task(rate_limit=…)"),
        ({"serializer": "jsn"}, "unknown serializer 'jsn': did you mean 'json'?"),
        ({"serializer": "pickle"}, "to use it add 'pickle' to the setting accept_content"),
        ({"compression": "gzp"}, "unknown compression 'gzp': did you mean 'gzip'?"),
        ({"queue": ""}, "add: option queue must be a string of 1 to 255 printable characters, not ''"),
        ({"routing_key": "a"}, "add: routing_key 'a' needs an exchange"),
        ({"time_limit": 0}, "add: option time_limit must be seconds, more than 0"),
        (
            {"soft_time_limit": 2, "time_limit": 1},
            "add: soft_time_limit (2 s) must not be longer than time_limit (1 s)",
        ),
        ({"retry_policy": {"max": 1}}, "add: option retry_policy must be a mapping with some of max_retries"),
        ({"headers": {"a": object()}}, "add: option headers['a'] can't be serialized as json"),
        ({"link": "add"}, "option link must be a signature or a list of them, not 'add'"),
        ({"link": [s("add"), 5]}, "option link must be a signature or a list of them, not 5"),
        ({"link_error": add}, "option link_error must be a signature or a list of them, not <function add"),
        ({"link": s("add", 1, 2)}, "add: link add(1, 2) can't be called: add(x: 'int', y: 'int' = 0)"),
        ({"link": s("add") | s("add", 1, 2)}, "too many positional arguments"),
        ({"link": s("add").link(s("add", 1, 2))}, "add: link add(1, 2) can't be called"),
        ({"link_error": s("told", 1)}, "add: link_error told(1) can't be called"),
        ({"link_error": s("told_of_id", 1)}, "add: link_error told_of_id(1) can't be called"),
    ],
)
async def test_an_impossible_call_is_refused_and_nothing_is_sent(options: dict[str, Any], error: str) -> None:
    app = make()

    async def signed(*call: Any, **options: Any) -> Any:
        return await app.tasks["add"].signature(*call, **options).apply_async()

    async def named(*call: Any, **options: Any) -> Any:
        return await app.send_task("add", *call, **options)

    async with app:
        for send in (app.tasks["add"].apply_async, named, signed):
            with pytest.raises(AioTQError) as caught:
                await send((1,), **options)
            assert error in str(caught.value)
        assert await app.admin.queues() == []


@pytest.mark.parametrize(
    "options",
    [
        {"link": s("elsewhere.add", 1, 2, 3)},  # another program's task
        {"link": [s("add", 1), s("add")], "link_error": [s("told"), s("told_of_id")]},
        {"link": signature("add", (1, 2), immutable=True)},
    ],
)
async def test_callbacks_that_could_be_called_are_taken(options: dict[str, Any]) -> None:
    app = make()

    async with app:
        assert (await app.tasks["add"].apply_async((1,), **options)).id


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"countdown": "1"}, "add.retry: option countdown must be seconds or a timedelta, not '1'"),
        ({"eta": NOON, "countdown": 1}, "add.retry: give eta or countdown, not both"),
        ({"eta": "soon"}, "add.retry: option eta must be a datetime, not 'soon'"),
        ({"max_retries": "3"}, "add.retry: max_retries must be a whole number, 0 or more, not '3'"),
        ({"max_retries": -1}, "add.retry: max_retries must be a whole number, 0 or more, not -1"),
        ({"exc": "failed"}, "add.retry: exc must be an exception, not 'failed'"),
        ({"args": "ab"}, "add.retry: args must be a list or tuple, not a str"),
        ({"kwargs": [1]}, "add.retry: kwargs must be a mapping of names to values, not a list"),
        ({"priority": 11}, "add.retry: option priority must be a whole number from 0 to 9, not 11"),
        ({"serializer": "json"}, "add.retry: unknown option 'serializer' (there are expires, headers, priority,"),
    ],
)
async def test_an_impossible_retry_is_refused(how: dict[str, Any], error: str) -> None:
    app = make()

    @app.task(name="add.again", bind=True)
    async def again(self: Any) -> None:
        raise self.retry(**how)

    with pytest.raises((InvalidOption, InvalidArguments)) as caught:
        await again.apply(throw=True)

    assert str(caught.value).replace("add.again", "add").startswith(error)


async def test_a_retry_of_a_thread_can_not_have_a_hard_limit() -> None:
    @make().task(name="again", bind=True)
    def again(self: Any) -> None:
        raise self.retry(time_limit=5)

    with pytest.raises(InvalidOption, match=r"again\.retry runs in a thread, which can't be stopped"):
        await again.apply(throw=True)


@pytest.mark.parametrize("what", ["retry", "replace", "update_state", "add_to_chord"])
async def test_what_only_a_running_task_can_do_is_refused_elsewhere(what: str) -> None:
    task = make().tasks["add"]
    arguments: Sequence[Any] = {"retry": (), "update_state": ("HALF",)}.get(what, (s("add"),))

    with pytest.raises(CallError, match=rf"add\.{what}: .*(no task runs here|not in the header of a chord)"):
        made = getattr(task, what)(*arguments)
        await made


@pytest.mark.parametrize("seconds", [-1, "5", None, float("nan"), 1e12])
def test_a_snooze_has_seconds(seconds: Any) -> None:
    with pytest.raises(ValueError, match="Snooze needs seconds from 0 to ten years, not "):
        Snooze(seconds)
