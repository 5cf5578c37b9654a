"""How a run ended, as a value. Whatever a task does becomes one of these; nothing leaves execution as an exception."""

from __future__ import annotations

from typing import Any

from .._values import value
from ..message import Envelope
from ..transport.base import Delivery


@value
class Policy:
    """What a task and its call say about keeping the outcome."""

    ignore_result: bool = False
    keeps_errors: bool = False  #: although results are ignored


@value
class Success:
    """The task returned `value`."""

    delivery: Delivery
    value: Any
    policy: Policy
    children: tuple[str, ...] = ()  #: ids of the calls it made


@value
class Retried:
    """The task is to run again: as `again`, the same id with the next attempt. `error` is why."""

    delivery: Delivery
    error: BaseException
    again: Envelope
    policy: Policy


@value
class Ignored:
    """The task wants nothing to be known of this run."""

    delivery: Delivery


@value
class Failure:
    """The task raised `error`, or could not be run to its end because of it."""

    delivery: Delivery
    error: BaseException
    policy: Policy


@value
class Revoked:
    """The task was not to be run (any more)."""

    delivery: Delivery
    reason: str
    policy: Policy


@value
class Rejected:
    """The message can't be run by anybody: to the dead letters, and whoever waits is told."""

    delivery: Delivery
    reason: str
    detail: str


@value
class Returned:
    """The task was not run to its end and may be run again by anybody, `delay` seconds from now."""

    delivery: Delivery
    delay: float = 0.0


Outcome = Success | Retried | Ignored | Failure | Revoked | Rejected | Returned
