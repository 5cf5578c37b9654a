"""What psycopg raises, in our words: what was certainly not done, what may have been, and what never will be."""

from __future__ import annotations

from typing import Final

import psycopg

from ...exceptions import ConnectionLost, NotConnected, OperationalError, Refused

#: Classes of codes: the connection is of no use any more. Source: PostgreSQL, "PostgreSQL Error Codes".
_CONNECTION: Final = ("08", "57P")
#: A standby: its connections read only. Whoever connects again finds the server that writes.
_READ_ONLY: Final = "25006"
#: Two transactions were in each other's way: one of them is to do it again.
RETRIED: Final = ("40001", "40P01")
#: Not now: a lock, memory, disk.
_NOT_NOW: Final = ("40", "53", "55P03", "58")
#: A limit of time: a procedure may have committed before it.
_CANCELLED: Final = "57014"
#: What was given will never fit: text with NUL, numbers and sizes beyond what there is.
_UNENCODABLE: Final = ("22",)
_TOO_LARGE: Final = ("54",)
#: There is no such table or function, or it is another one's.
_NO_TABLES: Final = ("3F", "42")
#: What a server says that will say the same next time.
_REFUSALS: Final = (
    "authentication failed",
    "does not exist",
    "no pg_hba.conf entry",
    "no password supplied",
    "certificate",
    "does not support SSL",
)


def is_lost(exc: psycopg.Error) -> bool:
    """Whether the connection that raised `exc` is of no use any more."""
    code = exc.sqlstate
    if code is None:
        return isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError)
    return (code.startswith(_CONNECTION) and code != _CANCELLED) or code == _READ_ONLY


def translated(exc: psycopg.Error, shown: str) -> OperationalError:
    """Return what became of a request that failed with `exc`."""
    code = exc.sqlstate or ""
    text = f"{shown}: {str(exc).strip() or type(exc).__name__}"
    if code == _READ_ONLY or code.startswith(_NOT_NOW):
        return NotConnected(text)
    if is_lost(exc) or code == _CANCELLED:
        return ConnectionLost(text)
    if code.startswith(_TOO_LARGE):
        return Refused(f"{text} (larger than PostgreSQL takes at once: keep large data elsewhere)", "too_large")
    if code.startswith(_UNENCODABLE) or isinstance(exc, psycopg.DataError):
        return Refused(f"{text} (text with NUL characters can't be kept)", "unencodable")
    if code.startswith(_NO_TABLES):
        return OperationalError(f"{text} (are aiotq's tables there, and may this user use them? `aiotq migrate-db`)")
    return OperationalError(text)


def not_opened(exc: Exception, shown: str) -> OperationalError:
    """Return why a connection can't be opened: worth trying again, or not."""
    text = f"{shown}: {' '.join(str(exc).split()) or type(exc).__name__}"
    is_final = any(refusal in text for refusal in _REFUSALS)
    return OperationalError(text) if is_final else NotConnected(text)
