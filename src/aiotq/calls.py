"""From a call to an envelope: options, arguments and limits are checked here, before anything is sent."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, Protocol, TypedDict, TypeVar, get_args

from .exceptions import EncodeError, InvalidArguments, InvalidOption, MessageTooLarge
from .message import END_OF_TIME, LONGEST_LIMIT, MAX_NAME, MAX_USER_HEADERS, Envelope, Message, is_name, new_id
from .request import running_request
from .serialization import JSON, Serializer, SerializerRegistry
from .settings import Settings

T = TypeVar("T")

RunsIn = Literal["loop", "thread", "process"]


class CallOptions(TypedDict, total=False):
    """What one call may say; each wins over the task's own option and that over the settings."""

    task_id: str
    countdown: float
    "Seconds from now before which the task does not start."
    eta: datetime
    "Time before which the task does not start; without a zone it is in `timezone`."
    expires: float | datetime
    "Seconds from now, or time, after which the task is not started any more (it ends as REVOKED)."
    queue: str
    priority: int
    "0 to 9, 9 first."
    serializer: str
    ignore_result: bool
    headers: Mapping[str, Any]
    "The caller's own headers, seen as `request.headers`."
    soft_time_limit: float
    time_limit: float
    shadow: str
    "A name for logs in place of the task's."
    publish_timeout: float
    "Seconds the broker has to accept the call."


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What a declaration may say; None leaves it to the settings."""

    run: RunsIn | None = None
    bind: bool = False
    typing: bool = True
    queue: str | None = None
    priority: int | None = None
    serializer: str | None = None
    ignore_result: bool | None = None
    acks_late: bool | None = None
    track_started: bool | None = None
    expires: float | None = None
    soft_time_limit: float | None = None
    time_limit: float | None = None


class Callee(Protocol):
    """A task, as a call to it needs it."""

    @property
    def name(self) -> str: ...

    @property
    def declared(self) -> TaskOptions: ...

    @property
    def runs_in(self) -> RunsIn: ...

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None: ...

    def parameter(self, index: int) -> str: ...


class ArgumentCheck:
    """Whether arguments fit a signature, decided quickly; the slow way words the error."""

    def __init__(self, fn: Callable[..., Any], name: str, *, skip_first: bool) -> None:
        parameters = list(inspect.signature(fn).parameters.values())
        if skip_first:
            if not parameters:
                raise InvalidOption(f"task {name}: bind=True needs a first parameter for the task itself (self)")
            parameters = parameters[1:]
        self._name = name
        self._signature = inspect.Signature(parameters)
        plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self._names = [p.name for p in plain]
        self._simple = len(plain) == len(parameters) and all(p.kind is p.POSITIONAL_OR_KEYWORD for p in plain)
        self._least = sum(p.default is p.empty for p in plain)

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        if self._simple and not kwargs and self._least <= len(args) <= len(self._names):
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as exc:
            raise InvalidArguments(f"{self._name}{self._signature}: {exc}") from None

    def name_of(self, index: int) -> str:
        return self._names[index] if index < len(self._names) else f"#{index}"


def build_envelope(
    conf: Settings,
    serializers: SerializerRegistry,
    task: Callee | str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: CallOptions,
    *,
    reply_to: str | None,
    now: float,
    origin: str | None = None,
) -> Envelope:
    """Return the envelope of one call, checked: nothing that can't be sent or run gets further than this.

    Options go: the call's, the task's, the settings'.

    Raises:
        InvalidArguments, InvalidOption, EncodeError, MessageTooLarge: see `Task.delay`.
    """
    if isinstance(task, str):
        name, declared = task, _ANY_TASK
        if not is_name(name):
            raise InvalidOption(f"a task's name must be {_NAME.words}, not {name!r}")
    else:
        name, declared = task.name, task.declared
    if not isinstance(args, (list, tuple)):  # a string would be taken for its letters
        raise InvalidArguments(f"{name}: args must be a list or tuple, not a {type(args).__name__}")
    if not isinstance(task, str):
        task.check(args, kwargs)
    if options:
        check_options(task, options)
    serializer = serializers.get(options.get("serializer") or declared.serializer or conf.task_serializer)
    body = _encode_body(serializers, serializer, task, name, args, kwargs)
    if len(body) > conf.task_message_max_size:
        raise MessageTooLarge(
            f"the arguments of {name}", len(body), conf.task_message_max_size, "task_message_max_size"
        )
    ignore_result = _first(options.get("ignore_result"), declared.ignore_result, conf.task_ignore_result)
    due = _due(options, now, conf)
    parent = running_request.get()
    message = Message(
        options.get("task_id") or new_id(),
        name,
        body,
        serializer.content_type,
        serializer.content_encoding,
        None if ignore_result else reply_to,
        now,
        due,
        _wall_time("expires", options.get("expires") or declared.expires, now, conf),
        parent.root_id or parent.id,
        parent.id,
        soft_time_limit=options.get("soft_time_limit") or declared.soft_time_limit,
        time_limit=options.get("time_limit") or declared.time_limit,
        ignore_result=ignore_result,
        shadow=options.get("shadow"),
        origin=origin,
        headers=_encodable_headers(serializers, name, options.get("headers")),
    )
    return Envelope(
        message,
        options.get("queue") or declared.queue or conf.task_default_queue,
        _first(options.get("priority"), declared.priority, conf.task_default_priority),
        due,
    )


_ANY_TASK: Final = TaskOptions()


def _encode_body(
    registry: SerializerRegistry,
    serializer: Serializer,
    task: Callee | str,
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> bytes:
    body: list[Any] = [args, kwargs, {}]
    try:
        return serializer.encode(body)
    except Exception:  # whatever the serializer raises: said again with the place
        for index, value in enumerate(args):
            what = f"#{index}" if isinstance(task, str) else task.parameter(index)
            registry.encode(serializer, value, f"{name}: argument {what}")
        for key, value in kwargs.items():
            registry.encode(serializer, value, f"{name}: argument {key}")
        raise EncodeError(f"{name}: the arguments can't be serialized as {serializer.name}") from None


def _encodable_headers(
    registry: SerializerRegistry, name: str, headers: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    if not headers:
        return None
    copy = dict(headers)
    size = len(registry.encode(JSON, copy, f"{name}: option headers"))
    if size > MAX_USER_HEADERS:
        raise InvalidOption(f"{name}: option headers is {size} bytes, over the limit of {MAX_USER_HEADERS}")
    return copy


def _first(call: T | None, declared: T | None, default: T) -> T:
    if call is not None:
        return call
    return default if declared is None else declared


@dataclass(frozen=True, slots=True)
class _Expected:
    """What an option must be, for the check and for the error's words."""

    words: str
    types: tuple[type, ...]
    holds: Callable[[Any], bool] = lambda _: True

    def accepts(self, given: object) -> bool:
        if isinstance(given, bool) and bool not in self.types:
            return False
        return isinstance(given, self.types) and self.holds(given)


_NAME: Final = _Expected(f"a string of 1 to {MAX_NAME} printable characters", (str,), is_name)
_SECONDS: Final = _Expected(
    "seconds, more than 0, at most ten years", (int, float), lambda given: 0 < given <= LONGEST_LIMIT
)
_YES_OR_NO: Final = _Expected("true or false", (bool,))
_EXPECTED: Final[Mapping[str, _Expected]] = {
    "task_id": _NAME,
    "countdown": _Expected("seconds, 0 or more", (int, float), lambda given: 0 <= given < math.inf),
    "eta": _Expected("a datetime", (datetime,)),
    "expires": _Expected(
        "seconds, more than 0, or a datetime",
        (int, float, datetime),
        lambda given: isinstance(given, datetime) or 0 < given < math.inf,
    ),
    "queue": _NAME,
    "priority": _Expected("a whole number from 0 to 9", (int,), lambda given: 0 <= given <= 9),
    "serializer": _Expected("a serializer's name", (str,)),
    "ignore_result": _YES_OR_NO,
    "headers": _Expected(
        "a mapping with string keys", (Mapping,), lambda given: all(isinstance(key, str) for key in given)
    ),
    "soft_time_limit": _SECONDS,
    "time_limit": _SECONDS,
    "shadow": _NAME,
    "publish_timeout": _SECONDS,
}
_DECLARED: Final[Mapping[str, _Expected]] = {
    "name": _NAME,
    "run": _Expected('"loop", "thread" or "process"', (str,), lambda given: given in get_args(RunsIn)),
    "bind": _YES_OR_NO,
    "typing": _YES_OR_NO,
    "queue": _NAME,
    "priority": _EXPECTED["priority"],
    "serializer": _EXPECTED["serializer"],
    "ignore_result": _YES_OR_NO,
    "acks_late": _YES_OR_NO,
    "track_started": _YES_OR_NO,
    "expires": _SECONDS,
    "soft_time_limit": _SECONDS,
    "time_limit": _SECONDS,
}


def check_declaration(options: Mapping[str, object]) -> None:
    """Refuse what `@app.task(...)` can't take.

    Raises:
        InvalidOption: an option is unknown or has an impossible value.
    """
    for option, given in options.items():
        expected = _DECLARED.get(option)
        if expected is None:
            near = difflib.get_close_matches(option, _DECLARED, n=1)
            hint = f": did you mean {near[0]!r}?" if near else f" (there are {', '.join(sorted(_DECLARED))})"
            raise InvalidOption(f"unknown task option {option!r}{hint}")
        if not expected.accepts(given):
            raise InvalidOption(f"task option {option} must be {expected.words}, not {given!r}")


def check_options(task: Callee | str, options: CallOptions) -> None:
    """Raise `InvalidOption` if one of `options` is unknown, impossible, or can't be kept for `task`."""
    name = task if isinstance(task, str) else task.name
    for option, given in options.items():
        expected = _EXPECTED.get(option)
        if expected is None:
            raise InvalidOption(f"{name}: unknown option {option!r} (there are {', '.join(sorted(_EXPECTED))})")
        if not expected.accepts(given):
            raise InvalidOption(f"{name}: option {option} must be {expected.words}, not {given!r}")
    if "eta" in options and "countdown" in options:
        raise InvalidOption(f"{name}: give eta or countdown, not both")
    if (
        not isinstance(task, str)
        and task.runs_in == "thread"
        and not options.keys().isdisjoint(("time_limit", "soft_time_limit"))
    ):
        raise InvalidOption(f'{name} runs in a thread, which can\'t be stopped: time limits need run="process"')


def _due(options: CallOptions, now: float, conf: Settings) -> float | None:
    if not options:
        return None
    if (countdown := options.get("countdown")) is not None:
        return _wall_time("countdown", countdown, now, conf) if countdown > 0 else None
    return _wall_time("eta", options.get("eta"), now, conf)


def _wall_time(option: str, given: float | datetime | None, now: float, conf: Settings) -> float | None:
    if given is None:
        return None
    try:
        if isinstance(given, datetime):
            if given.tzinfo is None:
                from zoneinfo import ZoneInfo  # noqa: PLC0415  # 3 ms of everybody's start, for few

                given = given.replace(tzinfo=ZoneInfo(conf.timezone))
            time = max(given.timestamp(), 0.0)
        else:
            time = now + given
    except OverflowError:  # an int beyond all floats, or a zone's offset at the first or last day of the calendar
        time = math.inf
    if time >= END_OF_TIME:
        raise InvalidOption(f"option {option}: {given!r} is beyond the end of the calendar")
    return time
