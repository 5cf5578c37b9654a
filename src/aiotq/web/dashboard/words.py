"""How numbers, times and states are said: one way each, for all pages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from ... import states
from ...core.values import value

#: Stands where nothing is known.
NOTHING: Final = "\N{EN DASH}"
#: Letters of a text on a line of a list.
SHORT: Final = 160


@value
class State:
    """A state as it is shown: the class of its colour, its shape, its word."""

    css: str
    icon: str
    word: str


_STATES: Final[Mapping[str, State]] = {
    states.PENDING: State("ready", "ready", "Pending"),
    states.RECEIVED: State("ready", "ready", "Received"),
    states.STARTED: State("run", "run", "Running"),
    states.RETRY: State("retry", "retry", "Retrying"),
    states.SUCCESS: State("ok", "ok", "Succeeded"),
    states.FAILURE: State("bad", "bad", "Failed"),
    states.REVOKED: State("revoked", "revoked", "Revoked"),
    states.IGNORED: State("revoked", "revoked", "Ignored"),
    "REJECTED": State("dead", "dead", "Rejected"),
    "READY": State("ready", "ready", "Ready"),
    "DELAYED": State("delayed", "delayed", "Delayed"),
    "DEAD": State("dead", "dead", "Dead"),
    "PAUSED": State("paused", "paused", "Paused"),
    "WORKS": State("ok", "ok", "Works"),
    "IDLE": State("ready", "ready", "Idle"),
    "KEEPS UP": State("ok", "ok", "Keeps up"),
    "BEHIND": State("retry", "warn", "Behind"),
    "NO WORKER": State("bad", "bad", "No worker"),
    "LOST": State("bad", "bad", "Lost"),
    "BLOCKED": State("bad", "bad", "Blocked"),
    "WAITS": State("ready", "ready", "Waits"),
    "WAITING": State("delayed", "delayed", "Waiting"),
}
#: Of a step that nothing has sent yet.
PLANNED: Final = State("plan", "plan", "Not yet sent")


def state(name: str | None) -> State:
    """Return how a state is shown; None is that of a step which is only planned."""
    if name is None:
        return PLANNED
    return _STATES.get(name) or State("run", "run", name[:1].upper() + name[1:40].lower())


def count(number: float | None) -> str:
    """Return a number with its thousands."""
    if number is None:
        return NOTHING
    return f"{number:,.0f}" if abs(number) >= 10 or number == int(number) else f"{number:.1f}"


def counted(number: int, noun: str, nouns: str = "") -> str:
    """Return a number and what it counts: `1 task`, `2 tasks`."""
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"


def number(text: str) -> int:
    """Return the number that an address has, 0 if it has none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 8 else 0


def percent(fraction: float) -> str:
    """Return a part of all: `0.72 %`, `31 %`."""
    hundred = fraction * 100
    if hundred == 0 or hundred >= 10:
        return f"{hundred:.0f} %"
    return f"{hundred:.1f} %" if hundred >= 1 else f"{hundred:.2f} %"


def size(given: int) -> str:
    """Return a number of bytes: `412 MB`."""
    if not given:
        return NOTHING
    return f"{given / 1e9:.1f} GB" if given >= 1e9 else f"{given / 1e6:,.0f} MB"


def duration(seconds: float | None) -> str:
    """Return how long something takes: `12 ms`, `3.1 s`, `3 m 31 s`, `1 h 22 m`, `6 d 2 h`."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    seconds = max(seconds, 0.0)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 or seconds == 0 else f"{seconds * 1000:.1f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds % 1 or seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} m"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def ago(now: float, at: float) -> str:
    """Return when something was, or will be: `48 min ago`, `in 24 s`."""
    seconds = now - at
    if abs(seconds) < 1:
        return "now"
    said = _about(abs(seconds))
    return f"{said} ago" if seconds > 0 else f"in {said}"


def _about(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def moment(at: float | datetime) -> datetime:
    """Return a time as aware UTC; seconds that are no time are its end."""
    if isinstance(at, datetime):
        return at.astimezone(UTC) if at.tzinfo is not None else at.replace(tzinfo=UTC)
    try:
        return datetime.fromtimestamp(at, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.max.replace(tzinfo=UTC)


def iso(at: float | datetime) -> str:
    """Return a time as machines read it."""
    return moment(at).isoformat(timespec="milliseconds")


def full(at: float | datetime) -> str:
    """Return a time to the millisecond: `2026-10-06 14:03:12.418 UTC`."""
    return f"{moment(at):%Y-%m-%d %H:%M:%S}.{moment(at).microsecond // 1000:03} UTC"


def clock(at: float | datetime) -> str:
    """Return the time of day: `14:03`."""
    return f"{moment(at):%H:%M}"


def module_of(name: str) -> str:
    """Return the module of a task's name, with its dot: the eye reads functions."""
    head, dot, _ = name.rpartition(".")
    return f"{head}{dot}"


def function_of(name: str) -> str:
    return name.rpartition(".")[2]


def clipped(text: str, most: int = SHORT) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def sentence(text: str) -> str:
    """Return `text` as a sentence: with a large letter, unless it begins with a name."""
    first = text.partition(" ")[0]
    begun = f"{text[:1].upper()}{text[1:]}" if first.isalpha() else text
    return f"{begun.rstrip('.')}."
