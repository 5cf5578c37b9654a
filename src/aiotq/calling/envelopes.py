"""From a call to an envelope: options, arguments and limits are checked here, before anything is sent."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final, Protocol, TypeVar, cast

from ..core.clock import Clock, SharedClock
from ..core.settings import Settings
from ..core.values import replace, value
from ..exceptions import EncodeError, InvalidArguments, InvalidOption, MessageTooLarge
from ..results.keys import HEADER as KEY
from ..tasks.keys import KEYED, keyed_tasks
from ..tasks.options import CallOptions, RunsIn, TaskOptions, check_options, stamps_of
from ..tasks.request import running_request
from ..tasks.shares import share_header
from ..transport.routing import PLACES, Router
from ..wire.compression import Compression
from ..wire.content_types import PLAIN_JSON
from ..wire.encryption import encrypted
from ..wire.message import END_OF_TIME, MAX_NAME, MAX_STAMPS, MAX_USER_HEADERS, Envelope, Message, Step, is_name, new_id
from ..wire.serializers import Serializer, SerializerRegistry, encoded
from ..wire.shares import HEADER as SHARE
from ..wire.signing import Signer, sealed
from .step_keys import step_key

T = TypeVar("T")

_NO_EMBED: Final[Mapping[str, Any]] = {}
#: Names of queues that are remembered as checked.
_QUEUES_KNOWN: Final = 1000


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

    def room_for(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float: ...

    def bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]: ...


class Parent(Protocol):
    """A running call, as those it makes need it."""

    @property
    def id(self) -> str | None: ...

    @property
    def root_id(self) -> str | None: ...


@value
class Part:
    """A call's place in a workflow: the ids of its parent and root, its step, and the `embed` of its body.

    The planner has checked its arguments: they are not all there yet.
    """

    id: str | None
    root_id: str | None
    step: Step | None
    embed: Mapping[str, Any]
    attempt: int = 0
    replacements: int = 0


class EnvelopeBuilder:
    """Makes the messages of calls, as one app's settings, routes and keys say: checked before anything is sent."""

    def __init__(
        self,
        conf: Settings,
        serializers: SerializerRegistry,
        router: Router,
        *,
        tasks: Mapping[str, Callee],
        clock: Clock,
        shared_clock: SharedClock | None = None,
        origin: str | None = None,
        signer: Signer | None = None,
        check_queue: Callable[[str], None] | None = None,
        check_shares: Callable[[str], None] = lambda _: None,
        carried: Callable[[Mapping[str, Any] | None], Mapping[str, Any] | None] | None = None,
    ) -> None:
        """`check_queue` raises `InvalidOption` for a name that no queue of the broker can have, `check_shares` for a
        task whose calls can't take turns there; `carried` adds to the headers what goes on from here (traces).
        """
        self.conf = conf
        self._serializers = serializers
        self._router = router
        self._tasks = tasks
        self._clock = clock
        self._shared_clock = shared_clock or SharedClock(clock)
        self._origin = origin
        self._signer = signer
        self._check_queue = check_queue
        self._check_shares = check_shares
        self._carried = carried
        self._queues: set[str] = set()  #: those that were checked
        self._makes_copies = True

    def without_copies(self) -> EnvelopeBuilder:
        """Return one that makes a single message of each call, however many queues it is routed to."""
        single = copy.copy(self)
        single._makes_copies = False
        return single

    def now(self) -> float:
        """Wall time."""
        return self._clock.time()

    def task(self, name: str) -> Callee | None:
        """Return a task that is registered here."""
        return self._tasks.get(name)

    def check_queue(self, name: str) -> None:
        """Raise `InvalidOption` if no queue of the broker can have this name."""
        if self._check_queue is not None and name not in self._queues:
            self._check_queue(name)
            if len(self._queues) < _QUEUES_KNOWN:
                self._queues.add(name)

    def envelopes(
        self,
        task: Callee | str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        *,
        reply_to: str | None,
        part: Part | None = None,
        attempt: int = 0,
    ) -> Sequence[Envelope]:
        """Return the envelopes of one call, signed: its own, and a copy for each further queue it is routed to.

        `part` is what it is of a workflow; without one, `attempt` is what it begins at.

        Raises `InvalidArguments`, `InvalidOption`, `EncodeError`, `MessageTooLarge`: see `Task.delay`.
        """
        if (
            not self._router.is_needed
            and (not options or ("exchange" not in options and "routing_key" not in options))
            and (isinstance(task, str) or (task.declared.exchange is None and task.declared.routing_key is None))
        ):
            envelopes: Sequence[Envelope] = (self.envelope(task, args, kwargs, options, reply_to=reply_to, part=part),)
        else:
            envelopes = self._routed(task, args, kwargs, options, reply_to, part)
        if attempt:
            envelopes = [replace(each, message=replace(each.message, attempt=attempt)) for each in envelopes]
        signer = self._signer
        return envelopes if signer is None else [sealed(signer, envelope) for envelope in envelopes]

    def envelope(
        self,
        task: Callee | str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        *,
        reply_to: str | None,
        part: Part | None = None,
    ) -> Envelope:
        """Return the envelope of one call, routed by no rule and signed by nobody; raises as `envelopes`."""
        name, declared = _check(task, args, kwargs, options, part)
        return self._build(name, declared, task, args, kwargs, cast(CallOptions, options), reply_to, part)

    def _routed(
        self,
        task: Callee | str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        reply_to: str | None,
        part: Part | None,
    ) -> Sequence[Envelope]:
        """Return a call's own envelope, and a copy for each further queue.

        A copy has an id of its own, made of the call's and its queue, so that sending a call again adds nothing. It
        keeps no result and calls nobody back: that is the first one's.
        """
        name, declared = _check(task, args, kwargs, options, part)
        callee = None if isinstance(task, str) else task
        route = self._router.route(name, args, kwargs, options, declared_places(declared), callee)
        routed: Any = {option: given for option, given in options.items() if option not in PLACES}
        for option, given in route.options.items():
            if getattr(declared, option, None) is None:
                routed.setdefault(option, given)
        if "eta" in options and "countdown" not in options:
            routed.pop("countdown", None)
        if route.options:
            check_options(name, routed, runs_in=None if callee is None else callee.runs_in)

        def build(queue: str, of_it: Any, part: Part | None) -> Envelope:
            options: Any = {**of_it, "queue": queue}
            envelope = self._build(name, declared, task, args, kwargs, options, reply_to, part)
            if route.address is None:
                return envelope
            return replace(envelope, message=replace(envelope.message, address=route.address))

        first = build(route.queues[0], routed, part)
        if len(route.queues) == 1 or not self._makes_copies:
            return (first,)
        of_a_copy = {option: given for option, given in routed.items() if option not in _NOT_COPIED}
        of_a_copy["ignore_result"] = True
        part_of_a_copy = None if part is None else replace(part, step=None, embed=_NO_EMBED)
        return (
            first,
            *(
                build(queue, {**of_a_copy, "task_id": _copy_id(first.message.id, queue)}, part_of_a_copy)
                for queue in route.queues[1:]
            ),
        )

    def _build(
        self,
        name: str,
        declared: TaskOptions,
        task: Callee | str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: CallOptions,
        reply_to: str | None,
        part: Part | None,
    ) -> Envelope:
        """Return the envelope of a call that is checked. Options go: the call's, the task's, the settings'."""
        conf, serializers, now, ahead = self.conf, self._serializers, self._clock.time(), self._shared_clock.ahead
        serializer = serializers.to_send(
            options.get("serializer") or declared.serializer or conf.task_serializer, conf.accept_content
        )
        wanted = options.get("compression") or declared.compression or conf.task_compression
        compression = serializers.compression(encrypted(name, wanted) if conf.encryption_keys else wanted)
        embed = _NO_EMBED if part is None else part.embed
        body = encode_body(conf, serializers, serializer, task, args, kwargs, compression, embed)
        ignore_result = _first(options.get("ignore_result"), declared.ignore_result, conf.task_ignore_result)
        due = _due(options, now, conf) if options else None
        expires = options.get("expires")
        if expires is None and (part is None or part.step is None or part.step.awaits is None):
            expires = declared.expires
        headers, stamps = self._headers(task, declared, args, kwargs, options, part), options.get("stamps")
        parent: Parent = running_request.get() if part is None else part
        queue = options.get("queue") or declared.queue or conf.task_default_queue
        if queue not in self._queues:
            self.check_queue(queue)
        message = Message(
            options.get("task_id") or new_id(),
            name,
            body,
            serializer.content_type,
            serializer.content_encoding,
            None if ignore_result and part is None else options.get("reply_to") or reply_to,
            now + ahead,
            due,
            None if expires is None else expiry(expires, now, ahead, conf),
            parent.root_id or parent.id,
            parent.id,
            soft_time_limit=options.get("soft_time_limit") or declared.soft_time_limit,
            time_limit=options.get("time_limit") or declared.time_limit,
            ignore_result=ignore_result,
            shadow=_shadow(declared, args, kwargs, options),
            origin=self._origin,
            headers=_carried(name, "headers", headers) if headers else None,
            compression=None if compression is None else compression.content_type,
            attempt=0 if part is None else part.attempt,
            step=None if part is None else part.step,
            stamps=_carried(name, "stamps", stamps_of(stamps)) if stamps else None,
            replacements=0 if part is None else part.replacements,
        )
        priority = _first(options.get("priority"), declared.priority, conf.task_default_priority)
        return Envelope(message, queue, priority, due)

    def _headers(
        self,
        task: Callee | str,
        declared: TaskOptions,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: CallOptions,
        part: Part | None,
    ) -> Mapping[str, Any] | None:
        """Return the headers of a call: its own, the trace that goes on, its key, and whose it is."""
        headers = options.get("headers")
        if self._carried is not None:
            headers = self._carried(headers)
        if keyed_tasks and declared.unique is not None and not (headers and KEY in headers):
            key = step_key(declared.unique, task, args, kwargs, None if part is None else part.step)
            headers = {**(headers or {}), KEY: key.header}
        if (fair := _first(options.get("fair_key"), declared.fair_key, None)) is not None:
            self._check_shares(task if isinstance(task, str) else task.name)
            share = share_header(task, fair, args, kwargs, self.conf.task_fair_weights, is_step=part is not None)
            headers = {**(headers or {}), SHARE: share}
        return headers


def declared_places(declared: TaskOptions) -> Mapping[str, str]:
    """Return what a task says of where its calls go."""
    return {place: wanted for place in PLACES if (wanted := getattr(declared, place)) is not None}


def _copy_id(task_id: str, queue: str) -> str:
    """Return the id of the copy of a call that goes to `queue`: the same each time, in the form of a UUID."""
    digits = blake2b(f"{task_id}/{queue}".encode(), digest_size=16).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-8{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def _check(
    task: Callee | str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any], part: Part | None
) -> tuple[str, TaskOptions]:
    """Return the name of what is called and what it declares, its arguments and options checked."""
    if isinstance(task, str):
        name, declared = task, _ANY_TASK
        if not is_name(name):
            raise InvalidOption(f"a task's name must be a string of 1 to {MAX_NAME} printable characters, not {name!r}")
    else:
        name, declared = task.name, task.declared
    if not isinstance(args, (list, tuple)):  # a string would be taken for its letters
        raise InvalidArguments(f"{name}: args must be a list or tuple, not a {type(args).__name__}")
    if part is None and not isinstance(task, str):
        task.check(args, kwargs)
    elif part is not None and options:
        refuse_key(name, options)
    if options:
        check_options(name, cast(CallOptions, options), runs_in=None if isinstance(task, str) else task.runs_in)
    return name, declared


def refuse_key(name: str, options: Mapping[str, Any]) -> None:
    """Raise `InvalidOption` if `options` of a step, or of a callback, give its call a key."""
    if not KEYED.isdisjoint(options):
        raise InvalidOption(
            f"{name}: {min(KEYED.intersection(options))} is for a call that stands alone: a step of a workflow is "
            "always sent, since others wait for its value"
        )


_ANY_TASK: Final = TaskOptions()
#: Options that the copies of a call don't have: they belong to the call itself.
_NOT_COPIED: Final = frozenset({"task_id", "ignore_result", "reply_to", "link", "link_error"})


def _shadow(declared: TaskOptions, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions) -> str | None:
    """Return the name that logs show instead of the task's, if there is one."""
    given = options.get("shadow")
    if given is not None or declared.shadow_name is None:
        return given
    shadow = declared.shadow_name(args, kwargs, options)
    if shadow is not None and not is_name(shadow):
        raise InvalidOption(
            f"shadow_name returned {shadow!r}, which is no name of 1 to {MAX_NAME} printable characters"
        )
    return shadow


#: The calling option for each key in the third element of a body.
_PLACES_IN_EMBED: Final[Mapping[str, str]] = {
    "callbacks": "link",
    "errbacks": "link_error",
    "chain": "the steps after it",
}


def encode_body(
    conf: Settings,
    registry: SerializerRegistry,
    serializer: Serializer,
    task: Callee | str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    compression: Compression | None = None,
    embed: Mapping[str, Any] = _NO_EMBED,
) -> bytes:
    """Return the body `[args, kwargs, embed]` of a call, compressed if there is a `compression`.

    Raises:
        EncodeError: an argument has no form in this content type; the text names it.
        MessageTooLarge: it is over `task_message_max_size`, compressed or not.
        MissingLibrary: serializer or compression need a package that is not installed.
    """
    name = task if isinstance(task, str) else task.name
    try:
        body = serializer.encode([list(args), kwargs, embed])  # a tuple would be tagged
    except Exception:  # whatever the serializer raises: said again with the place
        for index, value in enumerate(args):
            what = f"#{index}" if isinstance(task, str) else task.parameter(index)
            registry.encode(serializer, value, f"{name}: argument {what}")
        for key, value in kwargs.items():
            registry.encode(serializer, value, f"{name}: argument {key}")
        for part, value in embed.items():
            registry.encode(serializer, value, f"{name}: what is in {_PLACES_IN_EMBED.get(part, part)}")
        raise EncodeError(f"{name}: the arguments can't be serialized as {serializer.name}") from None
    _check_size(conf, name, body)
    if compression is not None:
        body = registry.compressions.compress(compression, body)
        _check_size(conf, name, body)  # what is random already only becomes larger
    return body


def _check_size(conf: Settings, name: str, body: bytes) -> None:
    if len(body) > conf.task_message_max_size:
        raise MessageTooLarge(
            f"the arguments of {name}", len(body), conf.task_message_max_size, "task_message_max_size"
        )


def check_carried(name: str, options: Mapping[str, Any]) -> None:
    """Raise an error unless the headers and stamps among `options` can stand in a message.

    Raises:
        EncodeError: a value has no form in JSON, whatever the serializer of the body; the text names the place.
        InvalidOption: there is too much of it.
    """
    if headers := options.get("headers"):
        _carried(name, "headers", headers)
    if stamps := options.get("stamps"):
        _carried(name, "stamps", stamps_of(stamps))


def _carried(name: str, option: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return headers or stamps of a call as they are sent; raises as `check_carried`."""
    copy = dict(given)
    most = MAX_USER_HEADERS if option == "headers" else MAX_STAMPS
    size = len(encoded(PLAIN_JSON, copy, f"{name}: option {option}"))
    if size > most:
        raise InvalidOption(f"{name}: option {option} is {size} bytes, over the limit of {most}")
    return copy


def _first(call: T | None, declared: T | None, default: T) -> T:
    if call is not None:
        return call
    return default if declared is None else declared


def _due(options: CallOptions, now: float, conf: Settings) -> float | None:
    if (countdown := options.get("countdown")) is not None:
        due = wall_time("countdown", countdown, now, conf)
        return due if due is not None and due > now else None
    return wall_time("eta", options.get("eta"), now, conf)


def wall_time(option: str, given: float | timedelta | datetime | None, now: float, conf: Settings) -> float | None:
    """Return the time that `given` means: seconds from `now`, or a datetime, in the app's zone if it names none.

    What is before 1970 is 1970: it has passed.

    Raises:
        InvalidOption: it is beyond the calendar, or skipped where clocks are put forward.
    """
    if given is None:
        return None
    try:
        if isinstance(given, datetime):
            if given.tzinfo is None:
                given = _in_zone(option, given, conf.timezone)
            time = max(given.timestamp(), 0.0)
        else:
            time = max(now + (given.total_seconds() if isinstance(given, timedelta) else given), 0.0)
    except OverflowError:  # an int beyond all floats, or a zone's offset at the first or last day of the calendar
        time = math.inf
    if time >= END_OF_TIME:
        raise InvalidOption(f"option {option}: {given!r} is beyond the end of the calendar")
    return time


def expiry(given: float | timedelta | datetime, now: float, ahead: float, conf: Settings) -> float | None:
    """Return the time that `expires` means by the shared clock, which is so far ahead; raises as `wall_time`."""
    time = wall_time("expires", given, now, conf)
    return time if time is None or not ahead else min(max(time + ahead, 0.0), END_OF_TIME - 1)


def _in_zone(option: str, given: datetime, name: str) -> datetime:
    from zoneinfo import ZoneInfo  # noqa: PLC0415  # 3 ms of everybody's start, for few

    zone = ZoneInfo(name)
    aware = given.replace(tzinfo=zone)
    if aware.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != given:
        raise InvalidOption(
            f"option {option}: {given} does not exist in {name}, where clocks are put forward over it: "
            "take another time, or one with a zone"
        )
    return aware
