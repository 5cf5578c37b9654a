"""Keys of calls: the row that says whose a key is, what a message says of its key, and what ends and begins change.

The row of a key has as its mark the call that has it, with a number that grows with each change. Its body is when a
debounced call starts, and the message that is to run in place of the one in the broker, if there was a later call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, cast, get_args

import orjson

from ..core.values import value
from ..exceptions import MalformedMessage
from ..wire.message import Message, pack, unpack
from .ledger import ScheduleChange, ScheduleRow, key_change

#: The header of a call that has a key: its name, what becomes of it, and seconds.
HEADER: Final = "aiotq-key"
#: Seconds for which a key outlives the last that was heard of its call.
KEPT: Final = 86_400.0
#: The same where the row has what is to run: workers may be away for long.
KEPT_FOR_LATER: Final = 30 * KEPT

#: What becomes of a key: it is released when its call is done, or starts; when the burst is over; it stays for a time,
#: or for seconds after the end; it belongs to nobody, but its runs are never two at once (a step of a workflow).
Mode = Literal["done", "started", "debounce", "period", "idempotent", "step"]
#: Those of which only one runs at a time.
EXCLUSIVE: Final = frozenset[str]({"done", "started", "period", "step"})
#: Those whose rows are read before they start.
READ_FIRST: Final = frozenset[str]({"started", "debounce"})
#: The mark of a row that keeps what runs in place of a message (`row_of_run`).
RUNS: Final = "runs"
_MODES: Final = frozenset[str](get_args(Mode))


@value
class Key:
    """What a message says of its key. `seconds`: how long it lasts, at most or after the end, as `mode` says."""

    name: str
    mode: Mode
    seconds: float

    @property
    def header(self) -> list[Any]:
        """The key as the header of a message."""
        return [self.name, self.mode, self.seconds]


@value
class Held:
    """What the row of a key says: whose it is, how often it was changed, and what is to run, and when."""

    task_id: str
    number: int
    due: float = 0.0  #: of a debounced call
    latest: float = 0.0  #: when it starts at the latest
    attempt: int = 0  #: of the message in the broker
    message: Message | None = None  #: None: the one in the broker

    @property
    def mark(self) -> str:
        return f"{self.task_id} {self.number}"

    def change(self, key: Key, seen: str, lasts: float) -> ScheduleChange:
        """Return the write of this to a row whose mark is `seen`."""
        body = b""
        if self.due or self.attempt or self.message is not None:
            packed = b"" if self.message is None else pack(self.message)
            body = orjson.dumps([self.due, self.latest, self.attempt]) + b"\n" + packed
        return key_change(key.name, seen, self.mark, lasts, body)


def key_of(message: Message) -> Key | None:
    """Return the key of a call; None if it has none, or says something that can't be one."""
    headers: Mapping[str, Any] | None = message.headers
    given: object = None if headers is None else headers.get(HEADER)
    if given is None or not isinstance(given, (list, tuple)):
        return None
    said = cast("Sequence[object]", given)
    name, mode, seconds = said if len(said) == 3 else (None, None, None)
    if not (isinstance(name, str) and isinstance(mode, str) and isinstance(seconds, (int, float))):
        return None
    return Key(name, cast(Mode, mode), float(seconds)) if mode in _MODES and seconds >= 0 else None


def held_of(row: ScheduleRow) -> Held:
    """Return what a row says; of one that can't be read, whose it is."""
    task_id, _, number = row.mark.rpartition(" ") if row.mark != RUNS else ("", "", "0")
    if not number.isdecimal():
        return Held(row.mark, 0)
    head, newline, packed = row.body.partition(b"\n")
    try:
        due, latest, attempt = orjson.loads(head) if newline else (0.0, 0.0, 0)
        message = unpack(packed) if packed else None
        return Held(task_id, int(number), float(due), float(latest), int(attempt), message)
    except (MalformedMessage, TypeError, ValueError):
        return Held(task_id, int(number))


def first_mark(task_id: str) -> str:
    """Return the mark of the row of a key when the call `task_id` has got it."""
    return f"{task_id} 0"


def row_of_run(task_id: str) -> str:
    """Return the name of the row that keeps what runs in place of the message `task_id`, from its start to its end."""
    return f"run:{task_id}"


def changes_at_end(key: Key, message: Message) -> tuple[ScheduleChange, ...]:
    """Return what the end of a call does to its key."""
    mark = first_mark(message.id)
    match key.mode:
        case "done":
            return (key_change(key.name, mark, "", 0.0),)
        case "idempotent":
            return (key_change(key.name, mark, mark, key.seconds),)
        case "started" | "debounce":
            return (key_change(row_of_run(message.id), RUNS, "", 0.0),)
        case "period" | "step":
            return ()


def changes_at_retry(key: Key, message: Message, seconds: float) -> tuple[ScheduleChange, ...]:
    """Return what it does to its key that a call runs again in so many seconds: it must not expire meanwhile."""
    if key.mode not in {"done", "idempotent"}:
        return changes_at_end(key, message)
    mark = first_mark(message.id)
    kept = key.seconds if key.mode == "done" else KEPT
    return (key_change(key.name, mark, mark, seconds + kept),)


def in_place_of(message: Message, other: Message | None) -> Message:
    """Return what runs for `message`: `other`, if that is of the same call, as it stands in the broker."""
    if other is None or other.key != message.key:
        return message
    return other
