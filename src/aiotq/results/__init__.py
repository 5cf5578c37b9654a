"""Remembering outcomes: one contract, what keeps it for each store, and the handles that callers hold."""

from .base import (
    AlreadyDone,
    Arrival,
    Booking,
    Claim,
    Claimed,
    Closing,
    HeldElsewhere,
    Join,
    Record,
    ResultStore,
)

__all__ = [
    "AlreadyDone",
    "Arrival",
    "Booking",
    "Claim",
    "Claimed",
    "Closing",
    "HeldElsewhere",
    "Join",
    "Record",
    "ResultStore",
]
