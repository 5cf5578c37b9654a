"""The states of a task as callers see them, under Celery's names."""

from __future__ import annotations

from typing import Final

PENDING: Final = "PENDING"  #: nothing is stored: the task waits, was never sent, or its result has expired
RECEIVED: Final = "RECEIVED"
STARTED: Final = "STARTED"
RETRY: Final = "RETRY"
SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"
REVOKED: Final = "REVOKED"
IGNORED: Final = "IGNORED"  #: the task asked for it by `Ignore`

#: Terminal states. Another run never overwrites a stored one.
READY_STATES: Final = frozenset({SUCCESS, FAILURE, REVOKED, IGNORED})
UNREADY_STATES: Final = frozenset({PENDING, RECEIVED, STARTED, RETRY})
#: States whose result is an exception.
EXCEPTION_STATES: Final = frozenset({RETRY, FAILURE, REVOKED, IGNORED})


def is_ready(state: str) -> bool:
    """Whether `state` is terminal; custom states never are."""
    return state in READY_STATES
