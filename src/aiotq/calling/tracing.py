"""Spans and metrics of calls and of their runs, by OpenTelemetry: a trace goes on from caller to task, and to what
follows it.

A message carries the W3C context of the span in which it was made, in its headers. `EnvelopeBuilder` makes every
message of calls and of steps of workflows, so it puts them there. A retry is sent with the headers that came.

Source: OpenTelemetry, "Semantic conventions for messaging spans", "Tracing SDK" (ParentBased); W3C, "Trace Context".
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
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
    from opentelemetry import context, metrics, propagate, trace
except ImportError as exc:
    raise MissingLibrary(
        "the setting opentelemetry needs the package opentelemetry-api: pip install 'aiotq[otel]'"
    ) from exc

from .measures import Measures, Member  # it needs the library too

#: Headers that a propagator of the user's may add, beside W3C's, are found by this one.
_MARK: Final = "traceparent"
#: How a `traceparent` of version 0 begins, how long it is, and how it ends if its trace is not sampled.
_VERSION: Final = "00-"
_LENGTH: Final = 55
_EVEN: Final = "02468ace"
#: Runs between looks at what SDK is set up.
_LOOK_AGAIN: Final = 128
#: It: trace, span, flags.
_MARKED: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
#: In the description of a sampler that samples no child of a remote parent which is not sampled.
_FOLLOWING: Final = "remoteParentNotSampled:AlwaysOffSampler"
#: The span of the run in this context, by the id of its call: what the worker makes of its outcome goes on from it.
_ended: Final[ContextVar[tuple[str | None, context.Context] | None]] = ContextVar("aiotq_ended_span", default=None)


class Tracing(Middleware):
    """Makes a span of each send and of each run, and measures them; the outermost middleware."""

    def __init__(self, conf: Settings, workers: Sequence[Member]) -> None:
        self._conf = conf
        self._tracer = trace.get_tracer("aiotq", VERSION)
        self._measures = Measures(workers)
        self._sdk = _Sdk()
        self._itself = (self,)
        self._measuring = (_Measuring(self._measured, self._measures),)

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

    def around(self, request: Request) -> tuple[Middleware, ...]:
        """Return what makes a span of the run; or of one whose trace is not sampled what measures it, if anything does.

        Then it is in the context of its message, as it would be in a span that records nothing: most runs are such, and
        making that span would cost as much as half of their task.
        """
        headers, sdk = request.headers, self._sdk
        mark = headers.get(_MARK)
        if not (isinstance(mark, str) and len(mark) == _LENGTH and mark[-1] in _EVEN and mark[:3] == _VERSION):
            return self._itself
        sdk.runs += 1
        if sdk.runs >= _LOOK_AGAIN:
            sdk.look()
        if not sdk.follows or not (len(headers) == 1 or sdk.fields.isdisjoint(headers)):
            return self._itself
        context.attach(trace.set_span_in_context(_Unsampled(mark)))  # for good: the context is this run's own
        return self._measuring if sdk.measures else ()

    async def run(self, call: RunningCall, forward: Running) -> Any:
        """Run in a span of the consumer's, a child of the one that the message was made in."""
        request = call.request
        measured = self._measured(call)
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

    def _measured(self, call: RunningCall) -> dict[str, str | int]:
        return self._attributes("process", call.task.name, call.request.delivery_info.get("queue"))

    def _attributes(self, operation: str, task: str, queue: object) -> dict[str, str | int]:
        return {
            "messaging.system": "aiotq",
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.destination.name": str(queue or self._conf.task_default_queue),
            "aiotq.task.name": task,
        }


class _Measuring(Middleware):
    """Measures runs that have no span."""

    def __init__(self, attributes: Callable[[RunningCall], dict[str, str | int]], measures: Measures) -> None:
        self._attributes = attributes
        self._measures = measures

    async def run(self, call: RunningCall, forward: Running) -> Any:
        """Run, and tell how long that took."""
        measured, began = self._attributes(call), time.perf_counter()
        try:
            return await forward(call)
        except BaseException as exc:
            if not isinstance(asked_for(exc), TaskPredicate):
                measured["error.type"] = type(exc).__qualname__
            raise
        finally:
            self._measures.ran(time.perf_counter() - began, measured)


class _Sdk:
    """What the SDK does that is set up: looked at now and then, as each look would cost every run."""

    def __init__(self) -> None:
        self.runs = _LOOK_AGAIN  #: since the last look
        self.follows = False  #: whether a run is not sampled if its message is not
        self.fields: frozenset[str] = frozenset()  #: headers that have more of a context
        self.measures = False  #: whether anybody measures: the API's own provider does nothing

    def look(self) -> None:
        """Find out."""
        self.runs = 0
        sampler: Any = getattr(trace.get_tracer_provider(), "sampler", None)
        self.follows = sampler is not None and _FOLLOWING in sampler.get_description()
        self.fields = frozenset(propagate.get_global_textmap().fields - {_MARK})
        self.measures = not type(metrics.get_meter_provider()).__module__.startswith("opentelemetry.metrics")


class _Unsampled(trace.NonRecordingSpan):
    """The span that a `traceparent` tells of, which is read when somebody asks: few tasks do."""

    def __init__(self, mark: str) -> None:
        self._mark = mark

    def get_span_context(self) -> trace.SpanContext:
        """Return its context; an invalid one if it can't be read."""
        found = _MARKED.fullmatch(self._mark)
        if found is None:
            return trace.INVALID_SPAN_CONTEXT
        trace_id, span_id, flags = (int(each, 16) for each in found.groups())
        return trace.SpanContext(trace_id, span_id, True, trace.TraceFlags(flags))


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
