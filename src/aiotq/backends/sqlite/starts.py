"""Starts under rate limits in the file: a row for the next free one of each name, and for each that was booked."""

from __future__ import annotations

from typing import Final

from ...results.decisions import booked, start_kept
from ...results.ledger import Booking
from .sql import Transaction

#: Seconds for which a booked start is remembered after it: it may come late, and is booked again then.
BOOKING_KEPT: Final = 60.0


def book(transaction: Transaction, booking: Booking, now: float) -> float:
    """Reserve a start; return the seconds until it."""
    message = f"message {booking.key[0]} {booking.key[1]}"
    name = f"name {booking.name}"
    rows = transaction.execute("SELECT name, at FROM starts WHERE name IN (?, ?)", (message, name)).fetchall()
    found: dict[str, float] = dict(rows)
    start, free_at = booked(booking, found.get(message), found.get(name), now)
    if free_at is not None:
        kept = [(name, free_at, free_at)]
        if start > now or booking.is_first:
            kept.append((message, start, start + start_kept(booking) + BOOKING_KEPT))
        transaction.insert("INSERT OR REPLACE INTO starts (name, at, expires)", kept)
    return max(start - now, 0.0)
