"""Which occurrences of a periodic task are sent now, which are skipped and why (P9).

Pure functions of a schedule, a policy, what was handled before, and the time. An occurrence is the name of an entry and
a due time. Its id is derived from these two, so all schedulers give it the same id.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final, Literal, TypeAlias, cast

from ..core.values import replace, shown, value
from ..exceptions import ScheduleError
from .schedules import Schedule, next_due
from .wall_time import as_utc

#: Which of the occurrences that were not sent in time are still sent: none, the last, all, or (a number) those that are
#: at most so many seconds late.
Misfire: TypeAlias = Literal["skip", "once", "all"] | float

#: Why an occurrence is skipped.
Reason: TypeAlias = Literal["missed", "superseded", "too late", "overlap"]

#: An occurrence sent within this time is not late: after a kill, the next scheduler takes over within 17 seconds.
ON_TIME: Final = timedelta(seconds=30)
#: How many occurrences one decision handles at most, so that it takes milliseconds; the next decision continues there.
AT_ONCE: Final = 250
#: Progress that is further ahead of the clock than this was made by a wrong clock, and is reset.
AHEAD: Final = timedelta(days=1)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_LONGEST: Final = timedelta(days=36525).total_seconds()


@value
class Policy:
    """The options of an entry that decide about its occurrences; `policy` makes and checks one."""

    misfire: Misfire = "once"
    jitter: float = 0.0
    starts: datetime | None = None
    ends: datetime | None = None
    max_runs: int | None = None
    expires: float | Literal["next"] | None = "next"


DEFAULT: Final = Policy()


def policy(
    *,
    misfire: Misfire | timedelta = "once",
    jitter: float | timedelta = 0.0,
    starts: datetime | None = None,
    ends: datetime | None = None,
    max_runs: int | None = None,
    expires: float | timedelta | Literal["next"] | None = "next",
) -> Policy:
    """Return a policy.

    misfire: which occurrences are still sent when no scheduler ran at their due time. `"skip"`: none. `"once"`: the
    last one. `"all"`: all. A number: those that are at most so many seconds late.
    jitter: each occurrence starts up to this many seconds later; for one occurrence the delay is always the same.
    starts, ends: the first and last time at which an occurrence may be due. An interval is counted from `starts` if
    that is in the future.
    max_runs: how many occurrences are sent in all.
    expires: when an occurrence that has not started is dropped. `"next"`: when the next one is due; an occurrence that
    is sent after that gets as much time as it would have had. A number: so many seconds after it is sent or may start,
    whichever is later. None: never.

    Raises:
        ScheduleError: an option is invalid; `.field` is its name.
    """
    starts = None if starts is None else as_utc("starts", starts)
    ends = None if ends is None else as_utc("ends", ends)
    if starts is not None and ends is not None and ends < starts:
        raise ScheduleError("ends", ends, f"is before starts={starts}")
    late = _seconds("jitter", jitter, "is not a number of seconds")
    return Policy(_misfire(misfire), late, starts, ends, _count("max_runs", max_runs), _expires(expires))


def _misfire(given: object) -> Misfire:
    for word in _MISFIRES:
        if given == word:
            return word
    return _seconds("misfire", given, "is not 'skip', 'once', 'all' or a number of seconds")


_MISFIRES: Final[tuple[Literal["skip", "once", "all"], ...]] = ("skip", "once", "all")


def _expires(given: object) -> float | Literal["next"] | None:
    if given is None:
        return None
    if given == "next":
        return "next"
    seconds = _seconds("expires", given, "is not 'next', a number of seconds or None")
    if not seconds:
        raise ScheduleError("expires", given, "must be more than 0")
    return seconds


def _count(name: str, given: object) -> int | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ScheduleError(name, given, "is not a whole number from 1")
    return given


def _seconds(name: str, given: object, problem: str) -> float:
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ScheduleError(name, given, problem)
    if not 0 <= seconds <= _LONGEST:  # nor is NaN
        raise ScheduleError(name, given, "is not from 0 seconds to a hundred years")
    return float(seconds)


@value
class Progress:
    """How far an entry has come; a ledger stores it.

    last: the due time of the last occurrence that was sent or skipped; for a new entry, the time it was added.
    runs: how many occurrences were sent.
    """

    last: datetime
    runs: int = 0


@value
class Occurrence:
    """An occurrence to send now, as a task with this `id`, not before `start` and not after `expires`."""

    entry: str
    due: datetime
    id: str
    start: datetime
    expires: datetime | None


@value
class Skipped:
    """An occurrence that is not sent: it was missed, superseded by a later one, or is too late for the policy."""

    due: datetime
    reason: Reason


@value
class Decision:
    """What to do with an entry now.

    send, skipped: in the order of their due times.
    progress: what to store when all of that is done. If its `last` is earlier than before, a wrong clock was corrected.
    look: when to decide again, in UTC; in the past means at once. None: never, the entry has ended. It is wall time, so
    a scheduler that waits by the monotonic clock must compare the two now and then.
    """

    send: tuple[Occurrence, ...]
    skipped: tuple[Skipped, ...]
    progress: Progress
    look: datetime | None


def decide(
    entry: str,
    schedule: Schedule,
    progress: Progress,
    now: datetime,
    *,
    zone: tzinfo = UTC,
    policy: Policy = DEFAULT,
) -> Decision:
    """Return what to do with the occurrences of `entry` that are due at `now`.

    A clock that jumps forward makes occurrences late, and the misfire policy decides about them. A clock that is behind
    `progress` has nothing due, so nothing is sent twice. Progress more than a day ahead of `now` is reset to `now`.

    Raises:
        ScheduleError: a schedule of the user's own raised, or returned something invalid.
    """
    now = as_utc("now", now)
    if progress.last > now + AHEAD:
        progress = replace(progress, last=now)
    if policy.max_runs is not None and progress.runs >= policy.max_runs:
        return Decision((), (), progress, None)
    due: list[datetime] = []
    coming = None
    for each in _dues(schedule, progress, policy, zone):
        if each > now or len(due) == AT_ONCE:
            coming = each
            break
        due.append(each)
    more = coming is not None and coming <= now
    judged: list[tuple[datetime, datetime | None, Reason | None]] = [
        (each, following, _reason(policy.misfire, each, now, last=each is due[-1] and not more))
        for each, following in zip(due, [*due, coming][1:], strict=True)
    ]
    return _decision(entry, progress, policy, now, judged, coming)


def _dues(schedule: Schedule, progress: Progress, policy: Policy, zone: tzinfo) -> Iterator[datetime]:
    """Yield the due times that were not handled before, in order."""
    last, starts = progress.last, policy.starts
    if starts is not None and last < starts:
        just_before = starts - _MICROSECOND
        last = just_before if next_due(schedule, just_before, zone) == starts else starts
    while (due := next_due(schedule, last, zone)) is not None and (policy.ends is None or due <= policy.ends):
        yield due
        last = due


def _reason(misfire: Misfire, due: datetime, now: datetime, *, last: bool) -> Reason | None:
    """Why this occurrence is skipped; None: it is sent."""
    match misfire:
        case "all":
            return None
        case "once":
            return None if last else "superseded"
        case "skip":
            if now - due > ON_TIME:
                return "missed"
            return None if last else "superseded"
        case seconds:
            return None if now - due <= timedelta(seconds=seconds) else "too late"


def _decision(
    entry: str,
    progress: Progress,
    policy: Policy,
    now: datetime,
    judged: Sequence[tuple[datetime, datetime | None, Reason | None]],
    coming: datetime | None,
) -> Decision:
    """Make the decision from the due times, each with the one after it and the reason to skip it."""
    send: list[Occurrence] = []
    skipped: list[Skipped] = []
    last, left = progress.last, math.inf if policy.max_runs is None else policy.max_runs - progress.runs
    for due, following, reason in judged:
        last = due
        if reason is not None:
            skipped.append(Skipped(due, reason))
            continue
        send.append(_occurrence(entry, due, following, policy, now))
        if len(send) >= left:
            coming = None
            break
    return Decision(tuple(send), tuple(skipped), Progress(last, progress.runs + len(send)), coming)


def _occurrence(entry: str, due: datetime, following: datetime | None, policy: Policy, now: datetime) -> Occurrence:
    late = timedelta(seconds=policy.jitter * _fraction(entry, due)) if policy.jitter else timedelta()
    start = _later(due, late) or due
    expires = None
    if policy.expires == "next":
        if following is not None:
            # An occurrence that is sent late, when the next is due already, gets as much time as it would have had.
            expires = _later(start if following > now else max(start, now), following - due)
    elif policy.expires is not None:
        expires = _later(max(start, now), timedelta(seconds=policy.expires))
    return Occurrence(entry, due, occurrence_id(entry, due), start, expires)


def _later(moment: datetime, by: timedelta) -> datetime | None:
    """None: it is beyond the end of the calendar."""
    try:
        return moment + by
    except OverflowError:
        return None


def occurrence_id(entry: str, due: datetime) -> str:
    """Return the task id of the occurrence of `entry` at `due`: the same in every process.

    A UUID of version 8 that begins with the milliseconds of `due`, so that it sorts among the ids of other tasks in the
    index of a store. Source: RFC 9562, 5.8.
    """
    milliseconds = max(0, (as_utc("due", due) - _EPOCH) // timedelta(milliseconds=1))
    digits = _digest(entry, due).hex()
    return f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-8{digits[:3]}-a{digits[3:6]}-{digits[6:18]}"


def _fraction(entry: str, due: datetime) -> float:
    """A number from 0 to below 1 that is always the same for an occurrence."""
    return int.from_bytes(_digest(entry, due)[9:15]) / 2.0**48


def _digest(entry: str, due: datetime) -> bytes:
    microseconds = (as_utc("due", due) - _EPOCH) // _MICROSECOND
    return hashlib.blake2b(f"{microseconds}:{entry}".encode(errors="surrogatepass"), digest_size=16).digest()


def policy_to_dict(given: Policy) -> dict[str, Any]:
    """Return `given` as a dict of strings and numbers, without default values."""
    said = {name: getattr(given, name) for name in _NAMES if getattr(given, name) != getattr(DEFAULT, name)}
    return {name: each.isoformat() if isinstance(each, datetime) else each for name, each in said.items()}


def policy_from_dict(given: object) -> Policy:
    """Return the policy that `policy_to_dict` made `given` of.

    Raises:
        ScheduleError: it is damaged, or has unknown options.
    """
    if not isinstance(given, Mapping):
        raise ScheduleError("policy", given, "is not a dict")
    given = cast("Mapping[str, Any]", given)
    if foreign := {*given} - {*_NAMES}:
        raise ScheduleError("policy", given, f"has {', '.join(sorted(map(shown, foreign)))}, which is unknown")
    times = {name: _moment(name, given[name]) for name in ("starts", "ends") if given.get(name) is not None}
    return policy(**cast("dict[str, Any]", {**given, **times}))


_NAMES: Final = ("misfire", "jitter", "starts", "ends", "max_runs", "expires")


def _moment(name: str, given: object) -> datetime:
    try:
        return datetime.fromisoformat(cast("str", given))
    except (ValueError, TypeError):
        raise ScheduleError(name, given, "is not a date and time") from None
