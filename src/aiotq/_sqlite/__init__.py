"""One SQLite file shared by several processes of one machine: threads, group commit, waiting for locks, wake-ups."""

from .database import Database
from .mailbox import MESSAGES, RECORDS, REVOCATIONS, SAFETY_INTERVAL
from .opening import network_file_system, path_from_url
from .schema import APPLICATION_ID, DELAYED, FREE, SCHEMA_VERSION
from .sql import Transaction, in_chunks, marks

__all__ = [
    "APPLICATION_ID",
    "DELAYED",
    "FREE",
    "MESSAGES",
    "RECORDS",
    "REVOCATIONS",
    "SAFETY_INTERVAL",
    "SCHEMA_VERSION",
    "Database",
    "Transaction",
    "in_chunks",
    "marks",
    "network_file_system",
    "path_from_url",
]
