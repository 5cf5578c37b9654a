"""The options of tasks and of calls: which values each may have, checked at the declaration or the call."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, TypeVar, cast, get_args

from ..core.values import record
from ..exceptions import InvalidOption, InvalidSetting
from ..wire.message import LONGEST_LIMIT, is_name
from .expected import (
    DEBOUNCE,
    DELAY,
    EXCEPTIONS,
    FAIR_KEY,
    NAME,
    OF_CALLS,
    SECONDS,
    THROTTLE,
    UNIQUE,
    YES_OR_NO,
    Expected,
    is_concurrency,
    is_rate,
    takes,
)
from .keys import KEYED, Debounce, Throttle, Unique, keyed_tasks
from .limits import Limit, RateLimit
from .shares import FairKey
from .streams import Stream

T = TypeVar("T", bound=Mapping[str, Any])

RunsIn = Literal["loop", "thread", "process"]


class CallOptions(TypedDict, total=False):
    """The options of one call. A call's option wins over the task's, and that over the settings. None: not given."""

    task_id: str | None
    "The id of the call. Calls with one id are one call, as long as the first is in the broker."
    countdown: float | timedelta | None
    "Seconds from now before which the task does not start. Below 0 is now."
    eta: datetime | None
    "Time before which the task does not start. Without a zone it is in the setting `timezone`."
    expires: float | timedelta | datetime | None
    "Seconds from now, or a time, after which the task does not start any more. It then ends as REVOKED."
    queue: str | None
    "The queue that gets the call."
    exchange: str | None
    "The name of an exchange to which `task_queues` binds queues. With `routing_key` it selects the queues."
    routing_key: str | None
    "Selects queues that are bound to the exchange."
    priority: int | None
    "0 to 9, 9 first."
    serializer: str | None
    "How arguments are encoded: `json`, `msgpack`, `yaml`, `pickle` or a registered serializer."
    compression: str | None
    "`zlib`, `bzip2`, `lzma`, `brotli`, `zstd` or a registered compression."
    ignore_result: bool | None
    "True: no result is stored, and awaiting it returns None at once."
    headers: Mapping[str, Any] | None
    "Headers of your own. The task reads them as `request.headers`."
    stamps: Mapping[str, Any] | None
    "Labels by which the call can be found and revoked, each with a value or a list of values. See `Canvas.stamp`."
    soft_time_limit: float | None
    "Seconds after which `SoftTimeLimitExceeded` is raised in the task."
    time_limit: float | None
    "Seconds after which the task is stopped and fails."
    shadow: str | None
    "The name shown in logs instead of the task's."
    add_to_parent: bool | None
    "False: a call made by a task is not listed among the `children` of that task's result."
    reply_to: str | None
    "The address of the process that the result is pushed to, instead of this one's."
    publish_timeout: float | None
    "Seconds that the broker has to accept the call."
    retry: bool | None
    "False: if the broker does not answer, the call is not sent again (setting `task_publish_retry`)."
    retry_policy: Mapping[str, Any] | None
    "How the call is sent again: `max_retries`, `interval_start`, `interval_step`, `interval_max`, `retry_errors`."
    unique: Unique | None
    'Of the calls with one key there is one at a time: `Unique(by="user_id")`.'
    debounce: float | Debounce | None
    "Of calls with one key in a burst the last one counts: seconds without a further one, or `Debounce(5, by=…)`."
    throttle: float | Throttle | None
    "Of calls with one key there is one in so many seconds, the first: seconds, or `Throttle(60, by=…)`."
    idempotency_key: str | None
    "Calls of a task with one such key are one call, until its result expires (setting `result_expires`)."
    fair_key: FairKey | None
    "Whose the call is: a parameter's name, a function of the arguments, or `Fair(…)`. Calls take turns by key."
    link: Any
    "A signature or a list of them. Each is called with the task's value after success."
    link_error: Any
    "The same after failure, called with request, exception and traceback. A task with one parameter gets the id only."


#: All options of a call.
CALL_OPTIONS: Final = frozenset(OF_CALLS)
#: Options that only a call that is sent can have, not one that runs in this process.
ONLY_SENT: Final = frozenset(
    {"countdown", "eta", "expires", "queue", "exchange", "routing_key", "priority", "publish_timeout"}
    | {"retry", "retry_policy", "fair_key"}
    | KEYED
)
#: Options of a single call, which a route can't have.
_OF_ONE_CALL: Final = frozenset(
    {"task_id", "eta", "reply_to", "publish_timeout", "retry", "retry_policy", "link", "link_error", "fair_key"} | KEYED
)
#: Options of a task that are kept as tuples.
TUPLES: Final = frozenset({"autoretry_for", "dont_autoretry_for", "throws"})
#: Options of a call that a retry may change.
RETRY_OPTIONS: Final = frozenset({"queue", "priority", "expires", "soft_time_limit", "time_limit", "shadow", "headers"})


def _option(expected: Expected, default: Any = None, *, factory: Callable[[], Any] | None = None) -> Any:
    """Return the field of a task's option, with the values that it may have."""
    metadata = {"expected": expected}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


# Its values are never changed, only replaced as a whole; it is not frozen since a task has the same fields, and those
# can be set anew.
@record(kw_only=True)
class Attributes:
    """The options of a task that are its attributes. None: the value of the settings."""

    bind: bool = _option(YES_OR_NO, False)
    typing: bool | None = _option(YES_OR_NO, None)
    queue: str | None = _option(NAME, None)
    exchange: str | None = _option(OF_CALLS["exchange"], None)
    routing_key: str | None = _option(OF_CALLS["routing_key"], None)
    priority: int | None = _option(OF_CALLS["priority"], None)
    serializer: str | None = _option(OF_CALLS["serializer"], None)
    compression: str | None = _option(OF_CALLS["compression"], None)
    ignore_result: bool | None = _option(YES_OR_NO, None)
    acks_late: bool | None = _option(YES_OR_NO, None)
    track_started: bool | None = _option(YES_OR_NO, None)
    expires: float | None = _option(SECONDS, None)
    soft_time_limit: float | None = _option(SECONDS, None)
    time_limit: float | None = _option(SECONDS, None)
    max_retries: int | None = _option(
        Expected(
            "a whole number, 0 or more, or None for ever", (int, type(None)), lambda given: given is None or given >= 0
        ),
        3,
    )
    default_retry_delay: float = _option(DELAY, 180.0)
    autoretry_for: tuple[type[BaseException], ...] = _option(EXCEPTIONS, ())
    dont_autoretry_for: tuple[type[BaseException], ...] = _option(EXCEPTIONS, ())
    retry_kwargs: Mapping[str, Any] = _option(
        Expected(
            "a mapping with max_retries, countdown or both",
            (Mapping,),
            lambda given: set(given) <= {"max_retries", "countdown"},
        ),
        factory=dict[str, Any],
    )
    retry_backoff: float | bool = _option(
        Expected(
            "true, false, or seconds of the first delay", (bool, int, float), lambda given: 0 <= given <= LONGEST_LIMIT
        ),
        False,
    )
    retry_backoff_max: float = _option(SECONDS, 600.0)
    retry_jitter: bool = _option(YES_OR_NO, True)
    reject_on_worker_lost: bool | None = _option(YES_OR_NO, None)
    max_deliveries: int | None = _option(Expected("a whole number, 1 or more", (int,), lambda given: given >= 1), None)
    store_errors_even_if_ignored: bool | None = _option(YES_OR_NO, None)
    throws: tuple[type[BaseException], ...] = _option(EXCEPTIONS, ())
    trail: bool = _option(YES_OR_NO, True)
    resultrepr_maxsize: int = _option(
        Expected("a number of characters, 0 or more", (int,), lambda given: given >= 0), 1024
    )
    transactional: bool = _option(YES_OR_NO, False)
    rate_limit: str | float | RateLimit | tuple[RateLimit, ...] | None = _option(
        Expected(
            'a rate such as "100/m", "5/h" or 10 (a second), a RateLimit(…), or a tuple of those',
            (str, int, float, RateLimit, tuple),
            is_rate,
        ),
        None,
    )
    unique: Unique | None = _option(UNIQUE, None)
    debounce: float | Debounce | None = _option(DEBOUNCE, None)
    throttle: float | Throttle | None = _option(THROTTLE, None)
    fair_key: FairKey | None = _option(FAIR_KEY, None)
    max_concurrency: int | Limit | tuple[Limit, ...] | None = _option(
        Expected("a whole number, 1 or more, a Limit(…), or a tuple of those", (int, Limit, tuple), is_concurrency),
        None,
    )


@record(kw_only=True)
class TaskOptions(Attributes):
    """The options that a task declares; how it runs is no attribute of it (`run` is the method of a task class)."""

    run: RunsIn | None = _option(
        Expected('"loop", "thread" or "process"', (str,), lambda given: given in get_args(RunsIn)), None
    )
    pydantic: bool = _option(YES_OR_NO, False)
    stream: Stream | None = _option(Expected("a Stream", (Stream,)), None)
    shadow_name: Callable[..., str | None] | None = _option(
        Expected(
            "a function of args, kwargs and options, or of the task and these",
            (object,),
            lambda given: callable(given) and (takes(given, 3) or takes(given, 4)),
        ),
        None,
    )


#: What the options of a task may be, except `base`, which is checked elsewhere.
_DECLARED: Final[Mapping[str, Expected]] = {
    "name": NAME,
    **{each.name: each.metadata["expected"] for each in fields(TaskOptions)},
}
#: All options of a task, except `base`, which is checked elsewhere.
DECLARABLE: Final = frozenset(_DECLARED)
#: The options that can be read and changed as attributes of the task.
READABLE: Final = frozenset(each.name for each in fields(Attributes))
#: The options for which None means the value of the settings.
_LEFT_TO_SETTINGS: Final = frozenset(each.name for each in fields(TaskOptions) if each.default is None) | {"name"}
#: Celery's options of tasks that don't exist here: why, or what to do instead.
_NOT_DECLARED: Final[Mapping[str, str]] = {
    "Strategy": 'use run="loop", "thread" or "process" to choose how a task runs',
    "acks_on_failure_or_timeout": "raise Reject() for a dead letter, Snooze() or self.retry() for a later run",
    "abstract": "leave it out; a class becomes a task only as base= or through register_task",
    "autoregister": "leave it out; only app.task, shared_task and register_task register a task",
    "backend": "all results of an app are kept in its result_backend",
    "from_config": "read settings from app.conf, and set options by name with task_annotations",
    **dict.fromkeys(("pydantic_context", "pydantic_strict"), "say it in the model's own configuration"),
    "pydantic_dump_kwargs": "leave it out; a model that a task returns arrives as that model",
    "request_stack": "leave it out; each run has its own request",
    "send_events": "leave it out; events are sent of all tasks, and only while somebody reads them",
}
#: Celery's options of calls that don't exist here: why, or what to do instead.
_NOT_CALLED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("connection", "producer", "publisher"), "leave it out; the app manages its connections"),
    **dict.fromkeys(("root_id", "parent_id"), "leave it out; it is set from the task that makes the call"),
    **dict.fromkeys(("chord", "group_id", "group_index"), "leave it out; group() and chord() set it for their members"),
    **dict.fromkeys(("logfile", "loglevel"), "leave it out; the worker decides what it logs, and where"),
    "delivery_mode": "leave it out; every message is as durable as its broker allows",
    "retries": "a call that is sent begins at 0; task.apply(…, retries=) runs one in this process as a later retry",
    "throw": "use task.apply(…, throw=), which runs the call in this process",
}


def check_declaration(options: Mapping[str, object]) -> None:
    """Check the options of `@app.task(...)`.

    Raises:
        InvalidOption: an option is unknown or has an impossible value.
    """
    for option, given in options.items():
        if option == "base" or (given is None and option in _LEFT_TO_SETTINGS):
            continue
        expected = _DECLARED.get(option)
        if expected is None:
            raise InvalidOption(f"unknown task option {option!r}{_instead_of_declaring(option)}")
        if not expected.accepts(given):
            raise InvalidOption(f"task option {option} must be {expected.words}, not {given!r}")
    retrying: Any = options.get("retry_kwargs") or {}
    for option in ("max_retries", "countdown"):
        expected = _DECLARED.get(option, DELAY)
        if option in retrying and not expected.accepts(retrying[option]):
            raise InvalidOption(
                f"task option retry_kwargs: {option} must be {expected.words}, not {retrying[option]!r}"
            )


def said(options: T) -> T:
    """Return options of a call, a `timedelta` as seconds; those that are None count as not given, as in Celery."""
    if all(given is not None and type(given) is not timedelta for given in options.values()):
        return options
    return cast(T, {option: _plain(option, given) for option, given in options.items() if given is not None})


def _plain(option: str, given: Any) -> Any:
    is_time = option in {"countdown", "expires"} and isinstance(given, timedelta)
    return given.total_seconds() if is_time else given


def check_limits(name: str, soft: float | None, hard: float | None) -> None:
    """Raise `InvalidOption` if the soft limit is longer than the hard one, and so would never be reached."""
    if soft is not None and hard is not None and soft > hard:
        raise InvalidOption(f"{name}: soft_time_limit ({soft:g} s) must not be longer than time_limit ({hard:g} s)")


def _instead_of_declaring(option: str) -> str:
    if option in _NOT_DECLARED:
        return f": {_NOT_DECLARED[option]}"
    if option in OF_CALLS:
        return f": it belongs to a call, as in task.apply_async(…, {option}=…)"
    return _nearest(option, _DECLARED)


def _instead_of_calling_with(option: str) -> str:
    if option in _NOT_CALLED:
        return f": {_NOT_CALLED[option]}"
    if option in _DECLARED:
        return f": it belongs to the task, as in @app.task({option}=…)"
    return _nearest(option, OF_CALLS)


def instead_of_declaring(option: str) -> str | None:
    """Return what to do about a task option of that name; None: it is one of ours."""
    return None if option in _DECLARED or option == "base" else _instead_of_declaring(option).lstrip(": ")


def instead_of_calling_with(option: str) -> str | None:
    """Return what to do about an option of a call; None: it is one of ours."""
    return None if option in OF_CALLS else _instead_of_calling_with(option).lstrip(": ")


def _nearest(option: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(option, known, n=1)
    return f": did you mean {near[0]!r}?" if near else f" (there are {', '.join(sorted(known))})"


def stamps_of(given: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return stamps with a list of values each, as in a message.

    Raises:
        ValueError: a stamp has an impossible name.
    """
    for name in given:
        if not is_name(name):
            raise ValueError(f"a name is {NAME.words}, not {name!r}")
    return {
        name: list(cast("Sequence[Any]", each)) if isinstance(each, (list, tuple, set, frozenset)) else [each]
        for name, each in given.items()
    }


def check_retry_policy(given: object) -> object:
    """Check the setting `task_publish_retry_policy` and return it unchanged.

    Raises:
        InvalidSetting: it can't be used.
    """
    expected = OF_CALLS["retry_policy"]
    if given is not None and not expected.accepts(given):
        raise InvalidSetting("task_publish_retry_policy", given, expected.words)
    return given


def check_route_option(option: str, given: object) -> str | None:
    """Return None if a route may have `option` with the value `given`, else what it must be, in words."""
    expected = OF_CALLS.get(option)
    if expected is None or option in _OF_ONE_CALL:
        there_are = ", ".join(sorted(OF_CALLS.keys() - _OF_ONE_CALL))
        return f"an option that a route can have ({there_are})"
    return None if expected.accepts(given) else expected.words


def check_options_here(name: str, options: Mapping[str, Any], retries: object = 0) -> None:
    """Raise `InvalidOption` if one of `options` has no meaning for a call that runs in this process.

    `retries` is the number of retries that it should seem to have had.
    """
    if type(retries) is not int or retries < 0:
        raise InvalidOption(f"{name}.apply: retries must be a whole number, 0 or more, not {retries!r}")
    for option in options:
        if option in ONLY_SENT:
            raise InvalidOption(f"{name}.apply: {option} is for calls that are sent; this one runs in this process")


def check_options(name: str, options: CallOptions, *, runs_in: RunsIn | None = None) -> None:
    """Raise `InvalidOption` if one of `options` of a call to `name` is unknown or has an impossible value."""
    for option, given in options.items():
        expected = OF_CALLS.get(option)
        if expected is None:
            raise InvalidOption(f"{name}: unknown option {option!r}{_instead_of_calling_with(option)}")
        if not expected.accepts(given):
            raise InvalidOption(f"{name}: option {option} must be {expected.words}, not {given!r}")
    if "eta" in options and "countdown" in options:
        raise InvalidOption(f"{name}: give eta or countdown, not both")
    if len(KEYED.intersection(options)) > 1:
        raise InvalidOption(f"{name}: {' and '.join(sorted(KEYED.intersection(options)))} don't go together")
    check_limits(name, options.get("soft_time_limit"), options.get("time_limit"))
    if runs_in == "thread" and "time_limit" in options:
        raise InvalidOption(
            f'{name} runs in a thread, which can\'t be stopped: time_limit needs run="process" (soft_time_limit works)'
        )


#: What a task is registered and called by.
_FIXED: Final = frozenset({"name", "run", "bind", "pydantic", "shadow_name"})

if TYPE_CHECKING:
    _Attributes = Attributes
else:  # they stand in its `__dict__`
    _Attributes = object


class Declared(_Attributes):
    """The options of a task, which are its attributes (`add.rate_limit`).

    One that is set anew holds in this process, from the task's next call or run on.
    """

    name: str
    runs_in: RunsIn
    declared: TaskOptions

    def __setattr__(self, name: str, given: Any) -> None:
        if "declared" not in self.__dict__:  # in the constructor of a class: it is no task yet
            super().__setattr__(name, given)
            return
        if name in _FIXED:
            raise InvalidOption(f"task {self.name}: {name} stands in its declaration and can't be changed later")
        if name not in READABLE:
            super().__setattr__(name, given)
            return
        check_declaration({name: given})
        wanted: Any = {name: tuple(given) if name in TUPLES else given}
        self.declare(replace(self.declared, **wanted))

    def declare(self, options: TaskOptions) -> None:
        """Be as `options` say, in place of what was declared before.

        Raises:
            InvalidOption: they don't go with each other, or with how the task runs.
        """
        if self.runs_in == "thread" and options.time_limit is not None:
            raise InvalidOption(
                f'task {self.name}: a thread can\'t be stopped, so time_limit needs an async def or run="process"'
            )
        check_limits(f"task {self.name}", options.soft_time_limit, options.time_limit)
        given = [each for each in ("unique", "debounce", "throttle") if getattr(options, each) is not None]
        if len(given) > 1:
            raise InvalidOption(f"task {self.name}: {' and '.join(given)} don't go together: a call has one key")
        if given:
            keyed_tasks.add(self.name)
        self.declared = options
        self.__dict__.update((name, getattr(options, name)) for name in READABLE)
