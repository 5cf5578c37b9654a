"""The decisions of ledgers as plain functions of the time and the stored state, for all that decide in Python."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal

from ..core.values import value
from ..wire.message import Envelope
from .ledger import (
    START_KEPT,
    AlreadyDone,
    Booking,
    Caution,
    Claim,
    Claimed,
    HeldElsewhere,
    ScheduleChange,
    Suspected,
)

#: Seconds by which a booked start may be late; later it is booked again: what waited while no worker ran must not
#: start all at once.
BOOKING_GRACE: Final = 0.25


def booked(booking: Booking, before: float | None, free_at: float | None, now: float) -> tuple[float, float | None]:
    """Return when `booking` starts, and when the one after it may (None: it was booked `before`, and that holds).

    `free_at` is when the next start is free, but for a burst. Source: the generic cell rate algorithm (ITU-T I.371):
    the theoretical arrival time, and its tolerance.
    """
    if before is not None and now - before <= start_kept(booking):
        return before, None
    free_at = now if free_at is None else max(free_at, now)
    start = max(now, free_at - (booking.burst - 1) * booking.interval)
    return start, free_at + booking.interval


def start_kept(booking: Booking) -> float:
    """Return the seconds after its start for which a booking counts."""
    return START_KEPT if booking.is_first else max(booking.interval, BOOKING_GRACE)


@value
class ClaimState:
    """The stored state of a claim: its holder (empty: given up), its end, and the holders that died with it.

    `following` is what was to be sent when its run was done, None before.
    """

    holder: str
    ends: float
    died: tuple[str, ...] = ()
    following: tuple[Envelope, ...] | None = None


def decide_claim(
    before: ClaimState | None, holder: str, now: float, deadly: int | None, dead: Collection[str] = ()
) -> tuple[Claim, tuple[str, ...]]:
    """Return what `holder` gets who claims now, and who has died with the message, for whoever writes a `Claimed` one.

    `deadly`: with so many deaths it is not claimed; None: however many there were. `dead`: holders that are gone.
    """
    if before is None:
        return Claimed(), ()
    if before.following is not None:
        return AlreadyDone(before.following), before.died
    if before.holder != holder and before.ends > now and before.holder not in dead:
        return HeldElsewhere(before.ends), before.died
    died = (*before.died, before.holder) if before.holder not in {"", holder} else before.died
    if deadly is not None and len(died) >= deadly:
        return Suspected(len(died)), before.died
    return Claimed(len(died)), died


class Room:
    """The room of a `Caution` while a group is claimed."""

    def __init__(self, caution: Caution | None) -> None:
        self._caution = caution
        self._left = caution.room if caution is not None else 0

    @property
    def deadly(self) -> int | None:
        """From how many deaths on a message is not claimed any more."""
        return self._caution.deaths if self._caution is not None and self._left <= 0 else None

    def take(self, claim: Claim) -> Claim:
        """Note what `claim` takes of it."""
        if self._caution is not None and isinstance(claim, Claimed) and claim.deaths >= self._caution.deaths:
            self._left -= 1
        return claim


def join_deadline(touched: float, until: float, patience: float) -> float:
    """Return when a join is overdue: `patience` after the last arrival, or after `until` if that is later."""
    return max(touched, until) + patience


def is_over(arrived: int, size: int, *, failed: bool) -> bool:
    """Return whether a join is over by the arrival after which `arrived` of its members are there."""
    return failed or arrived >= size


def schedule_fate(there: str, change: ScheduleChange) -> Literal["write", "done", "refused"]:
    """Return what is done with a change to a row whose mark is `there`; empty: there is no row.

    A change that was done is known by its mark. One that confirms keeps the mark, and is written.
    """
    if there == change.seen:
        return "write"
    return "done" if there == change.mark else "refused"
