"""Every setting once: its name, type, default and meaning. Unknown names and wrong types are errors.

Values come, each over the one before, from the defaults here, `app.config_from_object`, the environment
(`AIOTQ_` and the name in capitals) and the arguments of `AioTQ`. When the app starts they are frozen.
"""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, cast

from ..exceptions import InvalidSetting, SettingsFrozen, UnknownSetting
from .schedules import seconds_apart

ENVIRONMENT_PREFIX: Final = "AIOTQ_"
#: Names the app for the command line; it has our prefix and is no setting.
APP_VARIABLE: Final = "AIOTQ_APP"
EXCHANGE_TYPES: Final = ("direct", "topic", "fanout")


@dataclass(slots=True)
class _Values:
    """The settings as typed attributes; each is followed by its meaning."""

    broker_url: str = "sqlite:///aiotq.db"
    "Where messages are kept: `sqlite:///relative.db`, `sqlite:////absolute.db`, `redis://host:6379/0`, `amqp://host`."
    result_backend: str | None = None
    "Where results are kept; None: the broker's own place, or `rpc://` where it has none. `disabled://` keeps none."
    celery_compat: bool = False
    "Share queues and results with Celery: queues in RabbitMQ as it declares them, results in Redis as it keeps them."

    include: tuple[str, ...] = ()
    "Modules a worker imports before it starts, so that their tasks are registered."
    timezone: str = "UTC"
    "The zone of an `eta` that names none."

    task_default_queue: str = "default"
    "The queue of calls that nothing else sends elsewhere; with `celery_compat` it is `celery` unless set."
    task_queues: tuple[Any, ...] = ()
    "The queues there are: names and `Queue` values; also what a worker consumes from unless told otherwise."
    task_routes: Any = ()
    "Where tasks go by their names: a mapping, a function, `module:function`, or a list of these."
    task_create_missing_queues: bool = True
    "False: a call to a queue that is not in `task_queues` is an error."
    task_default_exchange: str | None = None
    "The exchange of queues and routing keys that name none; None: each queue has one of its own name."
    task_default_exchange_type: str = "direct"
    "`direct`, `topic` or `fanout`."
    task_default_routing_key: str | None = None
    "The routing key of calls that name an exchange and no key."
    task_default_priority: int = 4
    "0 to 9, 9 first; the default leaves room on both sides."
    task_serializer: str = "json"
    "How arguments are encoded: `json`, `msgpack`, `yaml`, or one that was registered."
    task_compression: str | None = None
    "How encoded arguments are compressed: `zlib`, `bzip2`, `lzma`, `brotli`, `zstd`, or one that was registered."
    result_serializer: str = "json"
    "How results are encoded."
    result_compression: str | None = None
    "How encoded results are compressed."
    accept_content: tuple[str, ...] = ("json", "msgpack")
    "Serializers (names or content types) that are decoded; anything else goes to the dead letters."
    security_key: str | None = None
    "A secret that signs every message; unsigned and wrongly signed ones go to the dead letters."
    security_previous_keys: tuple[str, ...] = ()
    "Secrets that others may still sign with, while all change over to a new `security_key`."
    task_annotations: Any = ()
    "Options of tasks by their names or patterns, in place of what they declare; or objects and functions that say."
    task_acks_late: bool = True
    "True: a task is acknowledged with its result (at least once). False: before it runs (at most once)."
    task_ignore_result: bool = False
    "Keep no results unless a task or call says otherwise."
    task_track_started: bool = False
    "Store the state STARTED when a task begins."
    task_soft_time_limit: float | None = None
    "Seconds after which `SoftTimeLimitExceeded` is raised in a task."
    task_time_limit: float | None = None
    "Seconds after which a task is stopped and fails."
    task_always_eager: bool = False
    "Run calls where they are made, with no broker and no worker: for tests (better ones: `aiotq.testing`)."
    task_eager_propagates: bool = False
    "Raise what a task that runs so, or by `apply`, fails with, where it was called."
    task_store_eager_result: bool = False
    "With `task_always_eager`: store results, for those who ask for them by id."
    task_max_deliveries: int = 3
    "Deaths of workers that one task may be charged with before it goes to the dead letters."
    task_default_rate_limit: str | None = None
    'Starts of each task that says nothing else, in all workers together: `"100/m"`.'
    task_reject_on_worker_lost: bool = False
    "True: a task whose child process died is handed back and may run again. False: it fails."
    task_store_errors_even_if_ignored: bool = False
    "Keep failures although results are ignored."
    task_message_max_size: int = 4 * 1024 * 1024
    "Bytes of one encoded call; larger ones are refused at the call, and dead-lettered when they arrive."
    task_publish_timeout: float = 5.0
    "Seconds a call may take to be accepted by the broker."
    task_publish_retry: bool = True
    "False: a call is not sent again if the broker does not answer, unless it says so itself (`retry`)."
    task_publish_retry_policy: Any = None
    "As the calling option `retry_policy`; None: again and again, as long as `task_publish_timeout` allows."
    task_publish_pending: int = 10_000
    "Calls that may wait to be sent in one process before further ones wait at the door."

    task_allow_error_cb_on_chord_header: bool = False
    "Whether an error callback of a chord is that of the tasks in its header too."
    join_timeout: float = 604_800.0
    "Seconds that a chord waits for its next member to end before it fails."

    result_expires: float = 86_400.0
    "Seconds a result is kept."
    result_max_size: int = 16 * 1024 * 1024
    "Bytes of one encoded result; a larger one makes its task fail."
    result_extended: bool = False
    "Keep with a result how its task was called: arguments, retries, queue."
    result_exception_types: tuple[str, ...] = ()
    "Exceptions (`module.Name`) that may be imported to raise a remote failure with its own type."

    worker_concurrency: int = 100
    "Coroutine tasks that run at the same time in one worker."
    worker_threads: int = 8
    "Plain functions that run at the same time in one worker."
    worker_processes: int | None = None
    'Child processes for `run="process"` tasks; None: one a core.'
    worker_prefetch: int = 0
    "Deliveries a worker may hold beyond what it can start."
    worker_queue_weights: Mapping[str, int] = field(default_factory=dict[str, int])
    'How much is taken from a queue, against 1 from those not named: `{"hi": 3}`.'
    worker_queue_order: str = "fair"
    "`fair`: queues take turns. `strict`: nothing of a queue while one before it has anything, for ever if it must be."
    worker_unknown_task_timeout: float = 300.0
    "Seconds for which a worker hands on a task that it does not know, before it goes to the dead letters."
    worker_lease: float = 15.0
    "Seconds after its last heartbeat at which a worker counts as dead."
    worker_grace: float = 30.0
    "Seconds that running tasks may go on after a stop was asked for."
    worker_loop_lag: float = 1.0
    "Seconds for which a task may block the loop before the watchdog names it in the log."
    worker_max_tasks_per_child: int | None = None
    "Tasks after which a child process is replaced."

    worker_log_format: str = "text"
    "What `aiotq worker` logs: `text` for people, `json` for machines, one object a line."
    worker_uvloop: bool = False
    "Run `aiotq worker` on uvloop's event loop (the extra `aiotq[uvloop]`)."

    dead_letter_expires: float = 30 * 86_400.0
    "Seconds a dead letter is kept."

    amqp_queue_type: str = "quorum"
    "RabbitMQ: the type of queues, `quorum` or `classic`; those that exist keep theirs."
    amqp_park_after: float = 900.0
    "RabbitMQ: seconds after which the message of a running task is put aside; less than half of `consumer_timeout`."


_TYPES: Final[dict[str, Any]] = typing.get_type_hints(_Values)
_DEFAULTS: Final = _Values()
NAMES: Final = tuple(field.name for field in fields(_Values))
#: What Celery's clients can read, which see no content type on a result in Redis.
_FOR_CELERY: Final[Mapping[str, object]] = {"result_serializer": "json", "result_compression": None}
#: Celery's settings whose names are near to none of ours, and what stands for them here.
_RENAMED: Final[Mapping[str, str]] = {
    "imports": "include",
    "worker_prefetch_multiplier": "worker_prefetch",
    "worker_soft_shutdown_timeout": "worker_grace",
}
#: The default of `task_default_queue` with `celery_compat`.
_CELERYS_QUEUE: Final = "celery"
_POSITIVE: Final = frozenset(
    name
    for name in NAMES
    if _TYPES[name] in (float, float | None) or (name.startswith("worker_") and _TYPES[name] in (int, int | None))
) | {"task_max_deliveries", "task_message_max_size", "task_publish_pending", "result_max_size"}
#: Characters of a queue's name, as everywhere.
_LONGEST_NAME: Final = 255
#: Settings that are not to be shown.
SECRETS: Final = frozenset({"security_key", "security_previous_keys"})
_MAY_BE_ZERO: Final = frozenset({"worker_prefetch", "worker_grace", "worker_unknown_task_timeout"})
_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "task_default_exchange_type": EXCHANGE_TYPES,
    "worker_queue_order": ("fair", "strict"),
    "amqp_queue_type": ("quorum", "classic"),
    "worker_log_format": ("text", "json"),
}
#: What checks a value that is more than a plain one, and returns it in the form in which it is kept.
Check = Callable[[object], object]


class Settings(_Values):
    """An app's configuration (`app.conf`): attributes checked when set, frozen when the app starts.

    `checks` are those of settings whose form a room above this one knows.
    """

    __slots__ = ("_checks", "_frozen_by", "_is_queue_named")
    _checks: Mapping[str, Check]
    _frozen_by: str | None
    _is_queue_named: bool

    def __init__(self, values: Mapping[str, Any] | None = None, *, checks: Mapping[str, Check] | None = None) -> None:
        object.__setattr__(self, "_checks", checks or {})
        object.__setattr__(self, "_frozen_by", None)
        object.__setattr__(self, "_is_queue_named", False)
        for name in NAMES:
            object.__setattr__(self, name, getattr(_DEFAULTS, name))
        self.update(values or {})

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _TYPES:
            raise unknown(name)
        if self._frozen_by is not None:
            raise SettingsFrozen(f"setting {name!r} can't be changed: {self._frozen_by}")
        check = self._checks.get(name)
        object.__setattr__(self, name, _checked(name, value) if check is None else check(value))
        if name == "task_default_queue":
            object.__setattr__(self, "_is_queue_named", True)
        elif name == "celery_compat" and not self._is_queue_named:
            queue = _CELERYS_QUEUE if self.celery_compat else _DEFAULTS.task_default_queue
            object.__setattr__(self, "task_default_queue", queue)

    def update(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Set several settings.

        Raises:
            UnknownSetting, InvalidSetting: one of them can't be set; those before it are.
        """
        for name, value in {**(values or {}), **more}.items():
            setattr(self, name, value)

    def copy(self) -> Settings:
        """Return the same settings, free to be changed."""
        fresh = Settings(checks=self._checks)
        for name in NAMES:
            object.__setattr__(fresh, name, getattr(self, name))
        object.__setattr__(fresh, "_is_queue_named", self._is_queue_named)
        return fresh

    def freeze(self, reason: str) -> None:
        """Refuse further changes, because of `reason`.

        Raises:
            InvalidSetting: settings contradict each other.
        """
        if self.celery_compat:
            for name, needed in _FOR_CELERY.items():
                if (given := getattr(self, name)) != needed:
                    raise InvalidSetting(name, given, f"{needed} when celery_compat is set")
        soft, hard = self.task_soft_time_limit, self.task_time_limit
        if soft is not None and hard is not None and soft > hard:
            raise InvalidSetting("task_soft_time_limit", soft, f"at most the task_time_limit of {hard:g} s")
        object.__setattr__(self, "_frozen_by", reason)

    @property
    def is_frozen(self) -> bool:
        """Whether the app is in use."""
        return self._frozen_by is not None

    def as_dict(self) -> dict[str, Any]:
        """Return every setting with its value."""
        return {name: getattr(self, name) for name in NAMES}


def unknown(name: str) -> UnknownSetting:
    """Return the error for a setting called `name`, with the nearest that exists."""
    near = [_RENAMED[name.lower()]] if name.lower() in _RENAMED else difflib.get_close_matches(name.lower(), NAMES, n=1)
    return UnknownSetting(name, near[0] if near else None)


def from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings in `environment`: `AIOTQ_WORKER_CONCURRENCY=20`, lists separated by commas.

    Raises:
        UnknownSetting, InvalidSetting: a variable with our prefix can't be used.
    """
    found: dict[str, Any] = {}
    for variable, text in environment.items():
        if variable.startswith(ENVIRONMENT_PREFIX) and variable != APP_VARIABLE:
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
            if name not in _TYPES:
                raise (
                    unknown(variable)
                    if unknown(name).suggestion is None
                    else UnknownSetting(variable, ENVIRONMENT_PREFIX + str(unknown(name).suggestion).upper())
                )
            found[name] = _parsed(name, text)
    return found


def from_object(source: object, namespace: str = "") -> dict[str, Any]:
    """Return the settings in a mapping, or among the attributes of a module, class or object.

    With `namespace="AIOTQ"` only names beginning with `AIOTQ_` count (as in a Django settings module). Without, every
    public attribute that is a plain value counts; modules, functions and classes in it don't.

    Raises:
        UnknownSetting: one of them is no setting.
    """
    items: dict[str, Any]
    if isinstance(source, Mapping):
        items = {str(name): value for name, value in cast("Mapping[Any, Any]", source).items()}
    else:
        items = {
            name: getattr(source, name)
            for name in dir(source)
            if not name.startswith("_")
            and not isinstance(getattr(source, name), types.ModuleType)
            and (not callable(getattr(source, name)) or name.lower().endswith(("task_routes", "task_annotations")))
            and type(getattr(source, name)).__module__ != "__future__"  # from __future__ import annotations
        }
    if namespace:
        prefix = namespace.rstrip("_") + "_"
        items = {name.removeprefix(prefix): value for name, value in items.items() if name.startswith(prefix)}
    settings = {name.lower(): value for name, value in items.items()}
    for name in settings:
        if name not in _TYPES:
            raise unknown(name)
    return settings


def _checked(name: str, given: Any) -> Any:
    shown: object = given
    expected = _TYPES[name]
    if expected is Any or typing.get_origin(expected) is Mapping:
        return given
    if typing.get_origin(expected) is tuple:
        items = list(cast("list[Any]", given)) if isinstance(given, (list, tuple, set, frozenset)) else [None]
        if not items and name == "accept_content":
            raise InvalidSetting(name, shown, "a list with at least one serializer")
        if all(isinstance(item, str) for item in items):
            return tuple(items)
        raise InvalidSetting(name, shown, "a list of strings")
    allowed: tuple[type, ...] = typing.get_args(expected) or (expected,)
    accepted = (*allowed, int) if float in allowed else allowed
    if not isinstance(given, accepted) or (isinstance(given, bool) and bool not in allowed):
        raise InvalidSetting(name, given, _words(allowed))
    number: Any = given
    if isinstance(given, float) and not math.isfinite(given):
        raise InvalidSetting(name, given, "a finite number")
    if name in _POSITIVE and given is not None and (number < 0 or (number == 0 and name not in _MAY_BE_ZERO)):
        raise InvalidSetting(name, given, "0 or more" if name in _MAY_BE_ZERO else "more than 0")
    if name in _CHOICES and given not in _CHOICES[name]:
        raise InvalidSetting(name, given, " or ".join(map(repr, _CHOICES[name])))
    _check_form(name, given)
    if name == "timezone" and given != _DEFAULTS.timezone:
        from zoneinfo import ZoneInfo  # noqa: PLC0415  # 3 ms of everybody's start, for few

        try:
            ZoneInfo(str(given))
        except (OSError, ValueError, KeyError) as exc:
            raise InvalidSetting(name, given, "a zone of the IANA database") from exc
    return float(number) if float in allowed and isinstance(number, int) else given


def _check_form(name: str, given: Any) -> None:
    """Raise `InvalidSetting` if a value of the right type is none that `name` can have."""
    if name == "task_default_queue" and not (0 < len(given) <= _LONGEST_NAME and given.isprintable()):
        raise InvalidSetting(name, given, f"a string of 1 to {_LONGEST_NAME} printable characters")
    if name == "task_default_priority" and not 0 <= given <= 9:
        raise InvalidSetting(name, given, "0 to 9")
    if name == "task_default_rate_limit" and given is not None:
        try:
            seconds_apart(str(given))
        except ValueError as exc:
            raise InvalidSetting(name, given, 'a rate such as "100/m"') from exc


def _parsed(name: str, text: str) -> Any:
    expected = _TYPES[name]
    if typing.get_origin(expected) is tuple:
        return tuple(item.strip() for item in text.split(",") if item.strip())
    if name == "task_routes":
        return _parsed_routes(text)
    if name == "worker_queue_weights":
        return _parsed_weights(text)
    allowed = typing.get_args(expected) or (expected,)
    if type(None) in allowed and text.lower() in {"", "none", "null"}:
        return None
    try:
        if bool in allowed:
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]
        if float in allowed:
            return float(text)
        if int in allowed:
            return int(text)
    except (KeyError, ValueError) as exc:
        raise InvalidSetting(name, text, _words(allowed)) from exc
    return text


def _parsed_routes(text: str) -> Any:
    """Return what `feed.*=feeds,proj.add=hi` says; a part without `=` is the path of a router."""
    parts = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    return [(name.strip(), queue.strip()) if is_pair else name for name, is_pair, queue in parts]


def _parsed_weights(text: str) -> dict[str, int]:
    """Return what `hi:3,lo:1` says."""
    parts = [part.strip().rpartition(":") for part in text.split(",") if part.strip()]
    if not all(queue and weight.isdecimal() for queue, _, weight in parts):
        raise InvalidSetting("worker_queue_weights", text, "queues with their weights, as hi:3,lo:1")
    return {queue: int(weight) for queue, _, weight in parts}


def _words(allowed: tuple[type, ...]) -> str:
    names = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", type(None): "None"}
    return " or ".join(names[kind] for kind in allowed)
