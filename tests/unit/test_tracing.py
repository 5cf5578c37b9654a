"""Traces by OpenTelemetry: from an HTTP request through what is called in it, and what follows that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import httpx
import pytest
from fastapi import FastAPI, Request
from opentelemetry import metrics, propagate, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aiotq import AioTQ
from aiotq.core.inside import core_of
from aiotq.testing import TestWorker
from tests.unit.traced_tasks import app, fails, first, third, trace_of_child

EXPORTER: Final = InMemorySpanExporter()
READER: Final = InMemoryMetricReader()
REMOTE: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module", autouse=True)
def _sdk() -> None:
    """What users set up, once in a process."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([READER]))


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    EXPORTER.clear()
    yield
    EXPORTER.clear()


def api() -> FastAPI:
    made = FastAPI()

    @made.post("/{how}")
    async def start(how: str, request: Request) -> None:
        with trace.get_tracer("server").start_as_current_span(
            "request", context=propagate.extract(request.headers), kind=trace.SpanKind.SERVER
        ):
            await first.delay(how)

    return made


def spans() -> dict[str, ReadableSpan]:
    return {span.name.replace("tests.unit.traced_tasks.", ""): span for span in EXPORTER.get_finished_spans()}


def context_of(span: ReadableSpan) -> trace.SpanContext:
    found: trace.SpanContext | None = span.get_span_context()
    assert found is not None
    return found


def path_to(span: ReadableSpan) -> list[str]:
    """The names of its parents, and its own."""
    by_id = {context_of(each).span_id: each for each in spans().values()}
    names = [span.name]
    while span.parent is not None and span.parent.span_id in by_id:
        span = by_id[span.parent.span_id]
        names.insert(0, span.name)
    return [name.replace("tests.unit.traced_tasks.", "") for name in names]


@pytest.mark.parametrize("how", ["call", "chain"])
async def test_a_trace_goes_from_a_request_through_tasks_and_steps(how: str) -> None:
    """By the header of the request, of each message, and of what the worker sends as the next step."""
    async with (
        TestWorker(app) as t,
        httpx.AsyncClient(transport=httpx.ASGITransport(api()), base_url="http://x") as web,
    ):
        await web.post(f"/{how}", headers={"traceparent": REMOTE})
        await t.idle()

    found = spans()
    assert {format(context_of(span).trace_id, "032x") for span in found.values()} == {REMOTE.split("-")[1]}
    beginning = ["request", "send first", "process first", "my own", "send second", "process second"]
    assert path_to(found["in a thread"]) == [*beginning, "in a thread"]
    if how == "chain":
        assert path_to(found["process third"]) == [*beginning, "process third"]
    process = found["process first"]
    assert (process.kind, found["send first"].kind) == (trace.SpanKind.CONSUMER, trace.SpanKind.PRODUCER)
    assert dict(process.attributes or {}) == {
        "messaging.system": "aiotq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "default",
        "messaging.message.id": (found["send first"].attributes or {})["messaging.message.id"],
        "messaging.message.conversation_id": (found["send first"].attributes or {})["messaging.message.id"],
        "aiotq.task.name": "tests.unit.traced_tasks.first",
        "aiotq.task.retries": 0,
    }


async def test_errors_are_recorded_and_retries_stay_in_the_trace() -> None:
    async with TestWorker(app) as t:
        with trace.get_tracer("server").start_as_current_span("request") as request:
            for how in ("at once", "later"):
                await fails.delay(how)
        await t.advance(minutes=1)

    runs = [span for span in EXPORTER.get_finished_spans() if span.name.startswith("process")]
    assert [(span.attributes or {})["aiotq.task.retries"] for span in runs] == [0, 0, 1, 1]
    assert {context_of(span).trace_id for span in runs} == {request.get_span_context().trace_id}
    failed = [span for span in runs if span.status.status_code is trace.StatusCode.ERROR]
    assert [(span.attributes or {})["error.type"] for span in failed] == [
        *("ConnectionError", "ConnectionError", "MaxRetriesExceededError")
    ]
    assert failed[0].status.description == "ConnectionError: at once"
    assert failed[0].events[0].name == "exception"
    assert [(span.attributes or {}).get("aiotq.task.asked") for span in runs if span not in failed] == ["retry"]


async def test_a_child_process_is_in_the_trace_of_its_run_and_many_calls_are_one_span() -> None:
    async with TestWorker(app):
        child = await (await trace_of_child.delay())
        await (await app.send_many([third.s(1), third.s(2)]))

    found = context_of(spans()["process trace_of_child"])
    assert child == [f"{found.trace_id:x}", f"{found.span_id:x}"]
    assert (spans()["send third"].attributes or {})["messaging.batch.message_count"] == 2


async def test_without_the_setting_nothing_is_made_or_sent() -> None:
    app = AioTQ("untraced", broker="memory://")

    @app.task
    async def plain() -> None: ...

    async with TestWorker(app) as t:
        with trace.get_tracer("server").start_as_current_span("request"):
            await (await plain.delay())
        assert t.sent[0].headers == {}
    assert list(spans()) == ["request"]
    assert core_of(app).tracing is None


def measured() -> dict[tuple[str, str | None], tuple[float, object]]:
    """By the metric and the error: the count or the value, and the name of the task or worker."""
    data = READER.get_metrics_data()
    return {
        (metric.name, (point.attributes or {}).get("error.type")): (  # type: ignore[misc]
            getattr(point, "count", None) or getattr(point, "value", 0),
            (point.attributes or {}).get("aiotq.task.name") or (point.attributes or {}).get("aiotq.worker.name"),
        )
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


async def test_sends_and_runs_are_measured_and_workers_tell_how_they_are() -> None:
    app = AioTQ("measured", broker="memory://", opentelemetry=True)

    @app.task(name="measured")
    async def work(wrong: bool) -> None:
        if wrong:
            raise ZeroDivisionError

    async with TestWorker(app):
        READER.get_metrics_data()
        await (await app.send_many([work.s(False), work.s(True)])).get(propagate=False)
        (worker,) = core_of(app).workers
        found = {key: each for key, each in measured().items() if each[1] in {"measured", worker.name}}

    assert found[("messaging.client.sent.messages", None)][0] == 2
    assert found[("messaging.client.operation.duration", None)][0] == 1
    for error in (None, "ZeroDivisionError"):
        assert found[("messaging.client.consumed.messages", error)][0] == 1
        assert found[("messaging.process.duration", error)][0] == 1
    assert found[("aiotq.worker.running", None)] == (0, worker.name)
    assert {name for name, _ in found if name.startswith("aiotq.worker")} == {
        f"aiotq.worker.{fact}" for fact in ("running", "uncommitted", "loop.lag", "broker.silence")
    }


@pytest.mark.parametrize(("flags", "more"), [("00", {}), ("02", {}), ("00", {"tracestate": "a=1"})])
async def test_a_run_whose_trace_is_not_sampled_has_no_span_and_stays_in_it(flags: str, more: dict[str, str]) -> None:
    """Also what it sends, and the user's own spans; whatever else of the context comes along. It is measured."""
    app = AioTQ("unsampled", broker="memory://", opentelemetry=True)
    mark = f"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}"

    @app.task(name="unsampled.send")
    async def send() -> bool:
        with trace.get_tracer("mine").start_as_current_span("my own") as own:
            await after.delay()
        return own.is_recording()

    @app.task(name="unsampled.after")
    async def after() -> None: ...

    async with TestWorker(app) as t:
        READER.get_metrics_data()
        sent = await send.apply_async(headers={"traceparent": mark, **more})
        assert await sent is False
        await t.idle()
        headers = t.sent[-1].headers

    assert set(spans()) == {"send unsampled.send"}  # which nothing is around
    assert headers["traceparent"].split("-")[1] == mark.split("-")[1]
    assert headers["traceparent"].split("-")[3] in {"00", flags}
    assert headers.get("tracestate") == more.get("tracestate")
    assert measured()[("messaging.process.duration", None)][0] >= 1
