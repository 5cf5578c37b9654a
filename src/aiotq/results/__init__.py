"""Remembering outcomes and deciding once for all workers: two contracts, and the handles that callers hold."""

from .ledger import (
    NO_JOIN_CHANGES,
    AlreadyDone,
    Arrival,
    Booking,
    Caution,
    Claim,
    Claimed,
    Closing,
    HeldElsewhere,
    Join,
    JoinChanges,
    Joined,
    JoinExtension,
    JoinGrowth,
    Ledger,
    Permit,
    Suspected,
)
from .records import Record, RecordStore

__all__ = [
    "NO_JOIN_CHANGES",
    "AlreadyDone",
    "Arrival",
    "Booking",
    "Caution",
    "Claim",
    "Claimed",
    "Closing",
    "HeldElsewhere",
    "Join",
    "JoinChanges",
    "JoinExtension",
    "JoinGrowth",
    "Joined",
    "Ledger",
    "Permit",
    "Record",
    "RecordStore",
    "Suspected",
]
