"""What the end of a call does to its key, in the commit of its finish (P3)."""

from __future__ import annotations

from ..commit import Finish
from ..core.values import replace
from ..results.keys import Key, changes_at_end, changes_at_retry, key_of
from ..wire.message import Message
from .outcome import Outcome, Parked, Postponed, Retried, Returned


def with_key(finish: Finish, outcome: Outcome, now: float) -> Finish:
    """Return `finish`, that of a run with `outcome`, with what it does to the key of its call."""
    if isinstance(outcome, Returned):
        return finish
    message = outcome.delivery.message
    if (key := key_of(message)) is None:
        return finish
    match outcome:
        case Parked():
            due: float | None = outcome.asked.until
        case Retried() | Postponed():
            due = outcome.again.due
        case _:
            return _ended(finish, message, key)
    seconds = 0.0 if due is None else max(due - now, 0.0)
    return replace(finish, joining=replace(finish.joining, keys=changes_at_retry(key, message, seconds)))


def ended(finish: Finish, message: Message) -> Finish:
    """Return `finish`, the end of the call of `message`, with what it does to the key of that."""
    key = key_of(message)
    return finish if key is None else _ended(finish, message, key)


def _ended(finish: Finish, message: Message, key: Key) -> Finish:
    changes = changes_at_end(key, message)
    return replace(finish, joining=replace(finish.joining, keys=changes)) if changes else finish
