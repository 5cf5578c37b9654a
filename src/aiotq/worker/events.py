"""A worker's events: what it observes, in Celery's words, as long as somebody wants it (P10).

Nothing is written down when a call arrives or starts. What waits and runs is looked at before each batch; a call that
ended is one row. So a call that comes and goes between two batches costs one step.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

from .. import states
from ..calling.connection import Connection
from ..calling.core import AppCore
from ..calling.sent_events import tell_sent
from ..canvas.outcome import REPLACED, Outcome, Parked, Rejected, Retried, Returned, Revoked, Success
from ..commit import Finish
from ..control.event_format import MOST_TEXT, MOST_TRACEBACK, iso
from ..control.event_sender import EventSender
from ..core.aio import finish
from ..core.tracebacks import formatted
from ..core.values import sendable, shown
from ..core.version import VERSION
from ..results.shown_arguments import MASK
from ..tasks.request import Request
from ..transport import Delivery
from .intake import Intake
from .observers import Observer, Observers
from .run import Run

if TYPE_CHECKING:
    from .worker import Worker

#: Seconds between heartbeats, as Celery's workers have it.
HEARTBEAT: Final = 2.0
#: Seconds that a call must have waited or run for before that is told apart from its end: most end sooner, in one row.
_YOUNG: Final = 0.1
#: Seconds that saying good-bye may take.
_GOOD_BYE: Final = 2.0
#: Numbers up to here are shown as they are.
_SMALL: Final = 2**62
_PLAIN: Final = frozenset({bool, float})
_ARGUMENTS: Final = ("args", "kwargs")
_ENDINGS: Final = {
    states.SUCCESS: "succeeded",
    states.FAILURE: "failed",
    states.RETRY: "retried",
    states.REVOKED: "revoked",
    states.IGNORED: "ignored",
    REPLACED: "replaced",
}


class WorkerEvents(Observer):
    """Tells of `worker`; observes it only while its sender is on."""

    calls = "events"

    def __init__(
        self, worker: Worker, core: AppCore, connection: Connection, intake: Intake, observers: Observers
    ) -> None:
        self.sender = EventSender(
            connection.bus,
            hostname=worker.name,
            clock=core.clock,
            signer=core.signer,
            outlet=connection.celery,
            on_change=self._switched,
            gather=self._look,
        )
        self._worker = worker
        self._core = core
        self._intake = intake
        self._observers = observers
        self._tells_sent = core.conf.task_send_sent_event
        self._is_secret = bool(core.conf.encryption_keys)
        self._received: set[int | str] = set()  #: leases of calls of which this was told
        self._started: set[int | str] = set()
        self._offset = 0.0  #: between the two clocks that a process measures with
        self._beat_at = 0.0

    def __repr__(self) -> str:
        return "<events>"

    async def run(self) -> None:
        """Send events while they are wanted, until cancelled; begin at once if the settings say so."""
        if self._core.conf.worker_send_task_events:
            self.sender.enabled = True
        self._core.event_senders[self.sender.common.hostname] = self.sender
        try:
            await self.sender.run()
        finally:
            self._core.event_senders.pop(self.sender.common.hostname, None)

    async def say_good_bye(self) -> None:
        """Tell that the worker is gone, and send what is left."""
        if self.sender.is_on:
            self._tell_of_worker("worker-offline")
            await finish(self.sender.send_last(), _GOOD_BYE)

    def beat(self) -> None:
        """Tell that the worker is there."""
        self._tell_of_worker("worker-heartbeat")

    def ended(self, run: Run, outcome: Outcome | None, finish: Finish | None) -> None:
        if outcome is None:
            self._forget(run.delivery.lease)
            return
        now = time.perf_counter()
        request, delivery = run.request, run.delivery
        message = delivery.message
        received: float | None = delivery.read_at + self._offset
        started = run.started_at if request is not None else None
        if self._received:
            lease = delivery.lease
            received = None if lease in self._received else received
            started = None if lease in self._started else started
            self._forget(lease)
        if request is not None and request.events:
            for event in request.events:
                self.sender.add(event)
        if self._tells_sent and finish is not None:
            for envelope in finish.envelopes:
                if envelope.message.id != message.id:
                    tell_sent(self.sender, envelope)
        if type(outcome) is Success:
            ending, more = "succeeded", {"result": _result(outcome.value, run), "runtime": now - run.started_at}
        elif (said := _said(outcome)) is not None:
            ending, more = said
        else:
            return
        if self._is_secret:
            more = _without_content(more)
        self.sender.add(
            (  # the fields of `Ended`
                ending,
                message.id,
                message.shadow or message.task,
                *self._called_with(request),
                message.root_id or message.id,
                message.parent_id,
                message.retries,
                message.eta,
                message.expires,
                received,
                started,
                now,
                more,
            )
        )

    def handed_back(self, delivery: Delivery, delay: float) -> None:
        self._received.discard(delivery.lease)

    def lost(self, deliveries: Collection[Delivery]) -> None:
        for each in deliveries:
            self._forget(each.lease)

    def broke(self, run: Run, error: Exception) -> None:
        self._forget(run.delivery.lease)
        failed = _failed(error)
        self.sender.add_event(
            "task-failed", uuid=run.delivery.message.id, **(_without_content(failed) if self._is_secret else failed)
        )

    def _forget(self, lease: int | str) -> None:
        self._received.discard(lease)
        self._started.discard(lease)

    def _switched(self, is_on: bool) -> None:
        self._received.clear()
        self._started.clear()
        if is_on:
            self._observers.add(self)
            self._measure()
            self._tell_of_worker("worker-online")
        else:
            self._observers.remove(self)

    def _look(self) -> None:
        """Tell of what has waited or run for a moment and was not told yet, and of the worker itself now and then."""
        self._measure()
        now = time.monotonic()
        if now >= self._beat_at or self.sender.has_new_reader:
            self.sender.has_new_reader = False
            self._tell_of_worker("worker-heartbeat")
        wall = self._core.clock.time()
        for delivery in self._intake.waiting:
            if delivery.lease not in self._received and now - delivery.read_at >= _YOUNG:
                self._tell_received(delivery, wall, None)
        for run in self._intake.runs.values():
            if run.request is None or run.seconds < _YOUNG or run.delivery.lease in self._started:
                continue
            at, uuid = round(wall - run.seconds, 6), run.delivery.message.id
            started: dict[str, Any] = {"type": "task-started", "timestamp": at, "uuid": uuid}
            if run.delivery.lease in self._received:
                started |= dict(zip(_ARGUMENTS, self._called_with(run.request), strict=True))  # they were not read then
            else:
                self._tell_received(run.delivery, wall, run)
            self._started.add(run.delivery.lease)
            self.sender.add(started)

    def _tell_received(self, delivery: Delivery, wall: float, run: Run | None) -> None:
        self._received.add(delivery.lease)
        message = delivery.message
        self.sender.add(
            {
                "type": "task-received",
                "timestamp": round(wall - (time.monotonic() - delivery.read_at), 6),
                "uuid": message.id,
                "name": message.shadow or message.task,
                "root_id": message.root_id or message.id,
                "parent_id": message.parent_id,
                "retries": message.retries,
                "eta": iso(message.eta),
                "expires": iso(message.expires),
                **dict(zip(_ARGUMENTS, self._called_with(None if run is None else run.request), strict=True)),
            }
        )

    def _called_with(self, request: Request | None) -> tuple[str | None, str | None]:
        """Return the arguments of a call as they may be shown."""
        if request is None:
            return None, None
        if not (request.args or request.kwargs):
            return "()", "{}"
        return self._core.arguments.reprs(request.args, request.kwargs, self._core.parameters_of(request.task or ""))

    def _tell_of_worker(self, kind: str) -> None:
        self._beat_at = time.monotonic() + HEARTBEAT
        self.sender.add_event(
            kind,
            freq=HEARTBEAT,
            active=len(self._intake.runs),
            processed=self._worker.completed,
            loadavg=_load(),
            sw_ident="py-aiotq",
            sw_ver=VERSION,
            sw_sys=platform.system(),
        )

    def _measure(self) -> None:
        self._offset = time.perf_counter() - time.monotonic()


def _said(outcome: Outcome) -> tuple[str, dict[str, Any]] | None:
    """Return by what word an outcome is told, and what is said of it; None: it goes on, and nothing ended."""
    match outcome:
        case Revoked():
            return "revoked", {
                "terminated": outcome.reason == "terminated",
                "signum": None,
                "expired": outcome.reason == "expired",
            }
        case Rejected():
            return "rejected", {"requeue": False, "reason": outcome.reason}
        case Returned():
            return "rejected", {"requeue": True}
        case Parked():
            return "retried", {"exception": "it waits", "traceback": ""}
        case Retried() if isinstance(outcome.error, Exception):
            return "retried", _failed(outcome.error)
        case _:
            ending = _ENDINGS.get(outcome.state)
            return None if ending is None else (ending, _failed(outcome.error) if outcome.error is not None else {})


def _failed(error: BaseException) -> dict[str, Any]:
    return {
        "exception": sendable(shown(error), MOST_TEXT),
        "traceback": sendable(formatted(error), MOST_TRACEBACK),
    }


def _without_content(more: dict[str, Any]) -> dict[str, Any]:
    """Return what is said of an end where arguments and results are encrypted: of an exception its class."""
    kept = {name: given for name, given in more.items() if name not in {"result", "exception", "traceback"}}
    if "result" in more:
        kept["result"] = MASK
    if "exception" in more:
        kept |= {"exception": f"{str(more['exception']).partition('(')[0]}({MASK})", "traceback": ""}
    return kept


def _result(given: Any, run: Run) -> str:
    """Return a value as it may be shown; the commonest in the shortest way."""
    if given is None:
        return "None"
    if type(given) in _PLAIN or (type(given) is int and -_SMALL < given < _SMALL):
        return repr(given)
    most = MOST_TEXT if run.called is None else run.called.declared.resultrepr_maxsize
    return shown(given)[:most]


def _load() -> list[float]:
    try:
        return [round(each, 2) for each in os.getloadavg()]
    except OSError:
        return [0.0, 0.0, 0.0]
