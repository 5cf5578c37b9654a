"""Remembering outcomes: one file a store, one contract, and the handles that callers hold."""

from .base import (
    AlreadyDone,
    Arrival,
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
    "Claim",
    "Claimed",
    "Closing",
    "HeldElsewhere",
    "Join",
    "Record",
    "ResultStore",
]
