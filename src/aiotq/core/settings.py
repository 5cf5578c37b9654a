"""All settings, each with its name, type, default and meaning. Unknown names and wrong types are errors.

A value is taken from the arguments of `AioTQ`, else from the environment (`AIOTQ_` and the name in capitals), else from
`app.config_from_object`, else from the defaults here. When the app starts, the settings are frozen.
"""

from __future__ import annotations

import difflib
import logging
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import field, fields
from datetime import timedelta
from typing import Any, Final, cast

from ..exceptions import InvalidSetting, SettingsFrozen, UnknownSetting
from .schedules import seconds_apart
from .setting_texts import parsed, words_of
from .values import record

logger = logging.getLogger("aiotq.settings")

ENVIRONMENT_PREFIX: Final = "AIOTQ_"
#: Names the app for the command line. It has our prefix but is not a setting.
APP_VARIABLE: Final = "AIOTQ_APP"
#: The variables with the dashboard's tokens: of who operates, and of who may only read.
TOKEN_VARIABLE: Final = "AIOTQ_WEB_TOKEN"
READ_TOKEN_VARIABLE: Final = "AIOTQ_WEB_READ_TOKEN"
#: What the command line reads of the environment, and is no setting.
_OF_COMMANDS: Final = frozenset({APP_VARIABLE, TOKEN_VARIABLE, READ_TOKEN_VARIABLE})
EXCHANGE_TYPES: Final = ("direct", "topic", "fanout")


@record
class _Values:
    """The settings as typed attributes, each followed by its meaning."""

    broker_url: str = "sqlite:///aiotq.db"
    "Where messages are kept: `sqlite:///relative.db`, `sqlite:////absolute.db`, `redis://host:6379/0`, `amqp://host`."
    result_backend: str | None = None
    "Where results are kept. None: with the broker's messages, or `rpc://` for RabbitMQ. `disabled://` keeps none."
    ledger: str | None = None
    "Where joins, claims, limits and schedules are kept. None: with results, else with messages, else in the process."
    outbox: str | None = None
    "The database with the outbox, from which workers send what `app.outbox(session)` left: `db+postgresql://…`."
    celery_compat: bool = False
    "Share queues and results with Celery: declare queues in RabbitMQ and store results in Redis as Celery does."

    include: tuple[str, ...] = ()
    "Modules that a worker imports before it starts, so that their tasks are registered."
    timezone: str = "UTC"
    "The time zone of an `eta` or `expires` without one."
    opentelemetry: bool = False
    "Make spans and metrics of calls and of runs, by OpenTelemetry's global providers. Needs `aiotq[otel]`."
    strict_arguments: bool = True
    "False: arguments are checked neither at the call nor in the worker, which makes no models of plain data then."

    task_default_queue: str = "default"
    "The queue of calls without another route. With `celery_compat` the default is `celery`."
    task_queues: tuple[Any, ...] = ()
    "The queues, as names and `Queue` values. A worker consumes from all of them unless it is given others."
    task_routes: Any = ()
    "Routes of tasks by name: a mapping, a function, `module:function`, or a list of these."
    task_create_missing_queues: bool = True
    "False: a call to a queue that is not in `task_queues` is an error."
    task_default_exchange: str | None = None
    "The exchange of queues and routing keys that name none. None: each queue has an exchange of its own name."
    task_default_exchange_type: str = "direct"
    "The type of `task_default_exchange`: `direct`, `topic` or `fanout`."
    task_default_routing_key: str | None = None
    "The routing key of calls that name an exchange but no key."
    task_default_priority: int = 4
    "The priority of calls without one: 0 to 9, 9 first."
    task_fair_weights: Mapping[str, float] = field(default_factory=dict[str, float])
    "How many calls of a key (`fair_key`) come for one of other keys, by the text of the key. Others have 1."
    task_serializer: str = "json"
    "The serializer of arguments: `json`, `msgpack`, `yaml`, or a registered one."
    task_compression: str | None = None
    "The compression of encoded arguments: `zlib`, `bzip2`, `lzma`, `brotli`, `zstd`, or a registered one."
    result_serializer: str = "json"
    "The serializer of results."
    result_compression: str | None = None
    "The compression of encoded results."
    accept_content: tuple[str, ...] = ("json", "msgpack")
    "Serializers (names or content types) that workers decode. Any other message becomes a dead letter."
    security_key: str | None = None
    "A secret that signs every message. Unsigned and wrongly signed messages become dead letters."
    security_previous_keys: tuple[str, ...] = ()
    "Older secrets that are still accepted while callers and workers change to a new `security_key`."
    encryption_keys: tuple[str, ...] = ()
    "Secrets that encrypt arguments, results and streams: the first does, all decrypt. Nothing of them is shown."
    task_annotations: Any = ()
    "Options that replace those of tasks, by name or pattern; or objects and functions that return such options."
    task_acks_late: bool = True
    "True: a message is acknowledged with the task's result (at least once). False: before it runs (at most once)."
    task_ignore_result: bool = False
    "Store no results, unless a task or call has `ignore_result=False`."
    task_track_started: bool = False
    "Store the state STARTED when a task begins."
    task_soft_time_limit: float | None = None
    "Seconds after which `SoftTimeLimitExceeded` is raised in a task."
    task_time_limit: float | None = None
    "Seconds after which a task is stopped and fails."
    task_always_eager: bool = False
    "Run each call at once in the calling process, without broker and worker. For tests; prefer `aiotq.testing`."
    task_eager_propagates: bool = False
    "Raise a task's exception at the call when it runs eagerly or by `apply`."
    task_store_eager_result: bool = False
    "With `task_always_eager`: store results, so that they can be read by id."
    task_max_deliveries: int = 3
    "Deaths of workers that a task may be charged with before it becomes a dead letter."
    task_default_rate_limit: str | None = None
    'The rate limit of tasks without one, for all workers together: `"100/m"`.'
    task_reject_on_worker_lost: bool = False
    "When a task's child process dies. True: hand the message back, so that it may run again. False: fail the task."
    task_store_errors_even_if_ignored: bool = False
    "Store failures even if results are ignored."
    task_transaction: Any = None
    "Begins the transaction of a task with `transactional=True`: a function that returns an async context manager."
    task_send_sent_event: bool = False
    "Send the event `task-sent` of each call, to those who want events."
    task_message_max_size: int = 4 * 1024 * 1024
    "Largest size of an encoded call in bytes. A larger call is refused; a larger message becomes a dead letter."
    task_publish_timeout: float = 5.0
    "Seconds that the broker has to accept a call."
    task_publish_retry: bool = True
    "False: a call is not sent again if the broker does not answer, unless the call has `retry=True`."
    task_publish_retry_policy: Any = None
    "Default of the calling option `retry_policy`. None: as many attempts as `task_publish_timeout` allows."
    task_publish_pending: int = 10_000
    "Largest number of calls queued for sending in one process. Beyond it `delay()` waits for room."

    task_allow_error_cb_on_chord_header: bool = False
    "True: an error callback of a chord is also added to the tasks of its header."
    join_timeout: float = 604_800.0
    "Seconds for which a chord waits for its next member to end before it fails."

    result_expires: float = 86_400.0
    "Seconds for which a result is kept."
    result_max_size: int = 16 * 1024 * 1024
    "Largest size of an encoded result in bytes. A task with a larger result fails."
    result_extended: bool = False
    "Store the arguments, retries, queue and stamps of a call with its result."
    result_index: str = "failures"
    "Which finished tasks can be searched (`aiotq find`, the dashboard): `failures`, `all`, or `none`."
    result_index_max: int = 50_000
    "Finished tasks of each state that can be searched; the oldest go first."
    result_index_expires: float = 604_800.0
    "Seconds for which a finished task can be searched, whether its result is still kept or not."
    masked_arguments: tuple[str, ...] = ("password", "passwd", "secret", "token", "api_key", "apikey", "authorization")
    "Parts of names: arguments, and values in mappings, that are called so are never shown, nor kept in the index."
    result_exception_types: tuple[str, ...] = ()
    "Exceptions (`module.Name`) that may be imported, so that a task's exception is raised with its own type."

    alert_thresholds: Mapping[str, float] = field(default_factory=dict[str, float])
    "From where on something needs a look: `oldest`, `failing`, `slow_times`, … (`docs/guides/operating.md` has all)."

    beat_schedule: Any = field(default_factory=lambda: types.MappingProxyType(dict[str, Any]()))
    "Periodic tasks by name, each with `task`, `schedule`, `args`, `kwargs`, `options`, `relative` as in Celery."

    worker_concurrency: int = 100
    "Coroutine tasks that run at the same time in one worker."
    worker_threads: int = 8
    "Plain functions that run at the same time in one worker."
    worker_processes: int | None = None
    'Child processes for `run="process"` tasks; None: one a core.'
    worker_prefetch: int = 0
    "Deliveries that a worker may hold beyond those that it can start."
    worker_queue_weights: Mapping[str, int] = field(default_factory=dict[str, int])
    'Shares of queues: `{"hi": 3}` takes three times as much from `hi` as from a queue that is not named.'
    worker_queue_order: str = "fair"
    "`fair`: queues take turns. `strict`: a queue is read only while all queues before it are empty; it may starve."
    worker_unknown_task_timeout: float = 300.0
    "Seconds for which a worker hands on a task that it does not know, before the message becomes a dead letter."
    worker_lease: float = 15.0
    "Seconds without a heartbeat after which a worker counts as dead."
    worker_grace: float = 30.0
    "Seconds for which running tasks may go on after a worker was asked to stop."
    worker_loop_lag: float = 1.0
    "Seconds for which a task may block the event loop before the worker logs its name."
    worker_send_task_events: bool = False
    "Send events to those who don't ask for them as well: Celery's monitors (`-E`). Others say that they want them."
    worker_max_tasks_per_child: int | None = None
    "Tasks after which a child process is replaced."
    worker_max_memory_per_child: int | None = None
    "Kilobytes (1,024 bytes) of resident memory: a child process that has more after a task is replaced."
    worker_warm_processes: bool = False
    "Start the child processes with the worker, so that no call waits for one; without tasks for them there are none."
    worker_process_start: str = "spawn"
    "`spawn`: each child process is a new interpreter. `forkserver`: it is forked from one that has imported all."
    worker_process_preload: tuple[str, ...] = ()
    "Modules that child processes (or their fork server) import before they are ready; those of their tasks are anyway."

    worker_log_format: str = "text"
    "The log format of `aiotq worker`: `text` for people, `json` for machines (one object a line)."
    worker_log_headers: tuple[str, ...] = ()
    "Headers of a task that each JSON log line of its run has."
    worker_uvloop: bool = False
    "Run `aiotq worker` on uvloop's event loop (the extra `aiotq[uvloop]`)."

    dead_letter_expires: float = 30 * 86_400.0
    "Seconds for which a dead letter is kept."

    amqp_queue_type: str = "quorum"
    "RabbitMQ: the type of new queues, `quorum` or `classic`. Existing queues keep theirs."
    amqp_park_after: float = 900.0
    "RabbitMQ: seconds after which the message of a running task is parked. Keep it below half of `consumer_timeout`."
    amqp_connect: Any = None
    "RabbitMQ: a coroutine function that makes each connection (aio-pika's), in place of the URL."

    postgres_migrate: bool = True
    "PostgreSQL and SQL: make and upgrade our tables at a start. False: `aiotq migrate-db` does, a start only checks."


_TYPES: Final[dict[str, Any]] = typing.get_type_hints(_Values)
_DEFAULTS: Final = _Values()
NAMES: Final = tuple(field.name for field in fields(_Values))
#: The values that Celery's clients can read: for them a result in Redis has no content type.
_FOR_CELERY: Final[Mapping[str, object]] = {"result_serializer": "json", "result_compression": None}
#: Settings of Celery's that were spoken of in this process.
_said: Final[set[str]] = set()
#: The default of `task_default_queue` with `celery_compat`.
_CELERYS_QUEUE: Final = "celery"
_POSITIVE: Final = frozenset(
    name
    for name in NAMES
    if _TYPES[name] in (float, float | None) or (name.startswith("worker_") and _TYPES[name] in (int, int | None))
) | {"task_max_deliveries", "task_message_max_size", "task_publish_pending", "result_max_size", "result_index_max"}
#: Characters of a queue's name.
_LONGEST_NAME: Final = 255
#: Settings that can only be functions.
_CALLED: Final[Mapping[str, str]] = {
    "amqp_connect": "a coroutine function that returns a connection of aio-pika's",
    "task_transaction": "a function that returns an async context manager with a session",
}
#: Settings that may be functions, which others of an object's attributes are not taken for.
_FUNCTIONS: Final = ("task_routes", "task_annotations", *_CALLED)
#: Settings that are not to be shown.
SECRETS: Final = frozenset({"security_key", "security_previous_keys", "encryption_keys"})
_MAY_BE_ZERO: Final = frozenset({"worker_prefetch", "worker_grace", "worker_unknown_task_timeout"})
_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "task_default_exchange_type": EXCHANGE_TYPES,
    "worker_queue_order": ("fair", "strict"),
    "amqp_queue_type": ("quorum", "classic"),
    "worker_log_format": ("text", "json"),
    "worker_process_start": ("spawn", "forkserver"),
    "result_index": ("failures", "all", "none"),
}
#: Checks a value of a structured setting, and returns it in the form in which it is kept.
Check = Callable[[object], object]


class Settings(_Values):
    """An app's configuration (`app.conf`): attributes that are checked when set, and frozen when the app starts.

    `checks` has the checks of structured settings, which other rooms define.
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
            stands_for = from_celery(name, value)
            if stands_for is None:
                return
            name, value = stands_for
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
            UnknownSetting, InvalidSetting: one of them can't be set; those before it have been set.
        """
        for name, value in {**(values or {}), **more}.items():
            setattr(self, name, value)

    def copy(self) -> Settings:
        """Return a copy that is not frozen."""
        fresh = Settings(checks=self._checks)
        for name in NAMES:
            object.__setattr__(fresh, name, getattr(self, name))
        object.__setattr__(fresh, "_is_queue_named", self._is_queue_named)
        return fresh

    def freeze(self, reason: str) -> None:
        """Refuse further changes; the error will give `reason`.

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
        """Whether the app has started."""
        return self._frozen_by is not None

    def as_dict(self) -> dict[str, Any]:
        """Return every setting with its value."""
        return {name: getattr(self, name) for name in NAMES}


def unknown(name: str) -> UnknownSetting:
    """Return the error for a setting called `name`: what does it here, of one that is Celery's; else the nearest."""
    from .celery_settings import celery_setting  # noqa: PLC0415

    theirs = celery_setting(name.lower())
    if theirs is None:
        near = difflib.get_close_matches(name.lower(), NAMES, n=1)
        return UnknownSetting(name, near[0] if near else None)
    if theirs.fate == "renamed":
        return UnknownSetting(name, theirs.text)
    return UnknownSetting(name, advice=theirs.text)


def from_celery(name: str, given: object) -> tuple[str, object] | None:
    """Return the setting of ours that Celery's `name` stands for, and its value; None if nothing is to be done for it.

    Either is said in the log, once in a process.

    Raises:
        UnknownSetting: it is none of Celery's, or one that stands elsewhere here, or can't be as it is `given`.
    """
    from .celery_settings import celery_setting  # noqa: PLC0415

    theirs = celery_setting(name)
    if theirs is None:
        raise unknown(name)
    if theirs.fate == "renamed":
        _say_once(logging.WARNING, "setting %s is called %s here", name, theirs.text)
        return theirs.text, given
    if any(given == each and type(given) is type(each) for each in theirs.values):
        _say_once(logging.INFO, "setting %s = %r asks for nothing that is not so here anyway", name, given)
        return None
    if theirs.fate == "needless":
        _say_once(logging.INFO, "setting %s is not needed here: %s", name, theirs.text)
        return None
    raise unknown(name)


def _say_once(level: int, text: str, name: str, *more: object) -> None:
    if name not in _said:
        _said.add(name)
        logger.log(level, text, name, *more)


def from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings in `environment`: `AIOTQ_WORKER_CONCURRENCY=20`, lists separated by commas.

    Raises:
        UnknownSetting, InvalidSetting: a variable with our prefix can't be used.
    """
    found: dict[str, Any] = {}
    for variable, text in environment.items():
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in _OF_COMMANDS:
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
            if name not in _TYPES:
                raise (
                    unknown(variable)
                    if unknown(name).suggestion is None
                    else UnknownSetting(variable, ENVIRONMENT_PREFIX + str(unknown(name).suggestion).upper())
                )
            found[name] = parsed(name, text, _TYPES[name])
    return found


def from_object(source: object, namespace: str = "") -> dict[str, Any]:
    """Return the settings in a mapping, or among the attributes of a module, class or object.

    With `namespace="AIOTQ"` only names that begin with `AIOTQ_` are read (as in a Django settings module). Without it
    every public attribute with a plain value is read, but no modules, functions and classes.

    Raises:
        UnknownSetting: one of them is not a setting.
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
            and (not callable(getattr(source, name)) or name.lower().endswith(_FUNCTIONS))
            and type(getattr(source, name)).__module__ != "__future__"  # from __future__ import annotations
        }
    if namespace:
        prefix = namespace.rstrip("_") + "_"
        items = {name.removeprefix(prefix): value for name, value in items.items() if name.startswith(prefix)}
    found: dict[str, Any] = {}
    for name, given in items.items():
        stands_for = (name.lower(), given) if name.lower() in _TYPES else from_celery(name.lower(), given)
        if stands_for is not None:
            found[stands_for[0]] = stands_for[1]
    return found


def _checked(name: str, given: Any) -> Any:
    shown: object = given
    expected = _TYPES[name]
    if name in _CALLED and given is not None and not callable(given):
        raise InvalidSetting(name, given, _CALLED[name])
    if isinstance(given, timedelta) and expected in (float, float | None):  # as Celery's `result_expires` may be
        given = given.total_seconds()
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
        raise InvalidSetting(name, given, words_of(allowed))
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
