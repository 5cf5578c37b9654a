"""Spans and metrics of calls and of their runs, by OpenTelemetry: a trace goes on from caller to task, and to what
follows it.

A message carries the W3C context of the span in which it was made, in its headers. `EnvelopeBuilder` makes every
message of calls and of steps of workflows, so it puts them there. A retry is sent with the headers that came.

Source: OpenTelemetry, "Semantic conventions for messaging spans".
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final

from ..core.settings import Settings
from ..core.version import VERSION
from ..exceptions import MissingLibrary, TaskPredicate
from ..results.handle import AsyncResult
from ..tasks.request import Request, running_request
from ..tasks.retries import asked_for
from .middleware import Middleware, OutgoingCall, Running, RunningCall, Sending

try:
    from opentelemetry import context, propagate, trace
except ImportError as exc:
    raise MissingLibrary(
        "the setting opentelemetry needs the package opentelemetry-api: pip install 'aiotq[otel]'"
    ) from exc

from .measures import Measures, Member  # it needs the library too

#: Headers that a propagator of the user's may add, beside W3C's, are found by this one.
_MARK: Final = "traceparent"
#: The span of the run in this context, by the id of its call: what the worker makes of its outcome goes on from it.
_ended: Final[ContextVar[tuple[str | None, context.Context] | None]] = ContextVar("aiotq_ended_span", default=None)


class Tracing(Middleware):
    """Makes a span of each send and of each run, and measures them; the outermost middleware."""

    def __init__(self, conf: Settings, workers: Sequence[Member]) -> None:
        self._conf = conf
        self._tracer = trace.get_tracer("aiotq", VERSION)
        self._measures = Measures(workers)

    async def send(self, calls: Sequence[OutgoingCall], forward: Sending) -> Sequence[AsyncResult[Any]]:
        """Send in a span of the producer's."""
        first = calls[0] if calls else OutgoingCall("nothing")
        measured = self._attributes("send", first.task, first.options.get("queue"))
        many = {"messaging.batch.message_count": len(calls)} if len(calls) > 1 else {}
        began = time.perf_counter()
        with self._tracer.start_as_current_span(
            f"send {first.task}", kind=trace.SpanKind.PRODUCER, attributes={**measured, **many}
        ) as span:
            try:
                results = await forward(calls)
                if len(results) == 1:
                    span.set_attribute("messaging.message.id", results[0].id)
                return results
            except BaseException as exc:
                measured["error.type"] = type(exc).__qualname__
                raise
            finally:
                self._measures.sent(len(calls), time.perf_counter() - began, measured)

    async def run(self, call: RunningCall, forward: Running) -> Any:
        """Run in a span of the consumer's, a child of the one that the message was made in."""
        request = call.request
        measured = self._attributes("process", call.task.name, request.delivery_info.get("queue"))
        attributes = {
            **measured,
            "messaging.message.id": request.id or "",
            "messaging.message.conversation_id": request.root_id or request.id or "",
            "aiotq.task.retries": request.retries,
        }
        began = time.perf_counter()
        span = self._tracer.start_span(
            f"process {call.task.name}",
            context=propagate.extract(_text_of(request.headers)),
            kind=trace.SpanKind.CONSUMER,
            attributes=attributes,
        )
        _ended.set((request.id, trace.set_span_in_context(span)))  # for good: the context is this run's own
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                return await forward(call)
            except BaseException as exc:
                if (kind := _note(span, exc)) is not None:
                    measured["error.type"] = kind
                raise
            finally:
                self._measures.ran(time.perf_counter() - began, measured)

    def carried(self, headers: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Return the headers of a message that is made here, with the context of this span, or of the run's."""
        if headers and _MARK in headers:
            return headers
        around = context.get_current()
        if not trace.get_current_span(around).get_span_context().is_valid:
            ended = _ended.get()
            if ended is None or ended[0] != running_request.get().id:
                return headers
            around = ended[1]
        added: dict[str, Any] = {}
        propagate.inject(added, around)
        return {**added, **(headers or {})} if added else headers

    def for_child(self, headers: Mapping[str, Any]) -> dict[str, Any]:
        """Return the headers of a run as a child process gets them: with the context of the run's span."""
        added: dict[str, Any] = {}
        propagate.inject(added)
        return {**headers, **added}

    def enter_child(self, request: Request) -> None:
        """Be in the context that `for_child` told of; for good, as the context is this run's own."""
        context.attach(propagate.extract(_text_of(request.headers)))

    def _attributes(self, operation: str, task: str, queue: object) -> dict[str, str | int]:
        return {
            "messaging.system": "aiotq",
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.destination.name": str(queue or self._conf.task_default_queue),
            "aiotq.task.name": task,
        }


def _text_of(headers: Mapping[str, Any]) -> dict[str, str]:
    return {name: each for name, each in headers.items() if isinstance(each, str)}


def _note(span: trace.Span, error: BaseException) -> str | None:
    """Tell how a run ended that raised something; return the type of its error: what it asked for by that is none."""
    asked = asked_for(error)
    if isinstance(asked, TaskPredicate):
        span.set_attribute("aiotq.task.asked", type(asked).__name__.lower())
        cause = asked.__cause__
        if cause is not None:
            span.record_exception(cause)
        return None
    kind = type(error).__qualname__
    span.record_exception(error)
    span.set_attribute("error.type", kind)
    span.set_status(trace.StatusCode.ERROR, f"{type(error).__name__}: {error}")
    return kind
