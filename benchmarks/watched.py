"""Redis: the instructions that a worker takes to drain a no-op task, alone and watched in each of the ways there are.

It needs valgrind, which counts the same whatever else the machine does; the server and its clients are not counted.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

from aiotq import AioTQ

from .figures import Benchmark, Figure, Samples

_VALGRIND: Final = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
#: How the worker is watched, and what that may cost.
KINDS: Final = {
    "alone": None,
    "Prometheus": 1.02,
    "traces": 1.05,
    "OpenTelemetry": None,
    "events": 1.10,
}
_SAMPLED: Final = 0.01
#: How many times as many calls the second of two processes drains.
_TIMES: Final = 4


class _Nowhere(SpanExporter):
    """Takes spans as a collector would, and forgets them."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def _observe(kind: str) -> None:
    """Set up OpenTelemetry, if `kind` wants it: traces that are sampled, and metrics."""
    if kind in {"traces", "OpenTelemetry"}:
        provider = TracerProvider(sampler=ParentBasedTraceIdRatio(_SAMPLED))
        provider.add_span_processor(BatchSpanProcessor(_Nowhere()))
        trace.set_tracer_provider(provider)
    if kind == "OpenTelemetry":
        metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))


def _app(kind: str, size: int) -> tuple[AioTQ, asyncio.Event]:
    app = AioTQ("watched", opentelemetry=kind in {"traces", "OpenTelemetry"}, task_publish_timeout=120.0)
    ran, all_ran = 0, asyncio.Event()

    @app.task(name="nothing")
    async def nothing() -> None:
        nonlocal ran
        ran += 1
        if ran == size:
            all_ran.set()

    return app, all_ran


async def send(kind: str, size: int) -> None:
    """Send what is drained, in traces of which as many are sampled if runs are to be in them."""
    _observe(kind)
    app, _ = _app(kind, size)
    async with app:
        await asyncio.gather(*(app.send_task("nothing") for _ in range(size)))


async def drain(kind: str, size: int) -> None:
    """Run what was sent."""
    _observe(kind)
    app, all_ran = _app(kind, size)
    if kind == "Prometheus":
        app.health_app()
    async with app, app.worker():
        await all_ran.wait()


async def _drained(kind: str, size: int, *under: str) -> str:
    """Have a process drain `size` calls; return what is said of it."""
    words = (sys.executable, "-m", "benchmarks.watched")
    await _said(*words, "send", kind, str(size))
    app, _ = _app("alone", size)
    reader: AbstractAsyncContextManager[object] = app.events.capture() if kind == "events" else nullcontext()
    async with app, reader:
        return await _said(*under, *words, "drain", kind, str(size))


async def _counted(kind: str, size: int) -> int:
    """Return the instructions of a process that drains `size` calls."""
    said = await _drained(kind, size, *_VALGRIND)
    found = re.search(r"I\s+refs:\s+([\d,]+)", said)
    assert found is not None, said
    return int(found[1].replace(",", ""))


async def _a_task(kind: str, size: int) -> float:
    """Return the instructions of one call among many."""
    await _drained(kind, 10)  # its modules are compiled then
    few = await _counted(kind, size)
    return (await _counted(kind, _TIMES * size) - few) / ((_TIMES - 1) * size)


async def _said(*words: str) -> str:
    """Return what a program has to say of itself."""
    process = await asyncio.create_subprocess_exec(
        *words, env={**os.environ, "PYTHONHASHSEED": "0"}, stderr=subprocess.PIPE
    )
    _, said = await process.communicate()
    if process.returncode:
        raise RuntimeError(said.decode())
    return said.decode()


async def watched(size: int) -> Samples:
    """Count what `size` further calls take, in each way."""
    a_task = {kind: await _a_task(kind, size) for kind in KINDS}
    ratios = {f"{kind} to alone": [count / a_task["alone"]] for kind, count in a_task.items() if kind != "alone"}
    return {**{kind: [count] for kind, count in a_task.items()}, **ratios}


BENCHMARKS = (
    Benchmark(
        "redis-watched",
        "no-op tasks drained alone, with Prometheus' metrics, traces (1 % sampled), these and OpenTelemetry's metrics, "
        "and a reader of events",
        "redis",
        watched,
        1_500,
        100,
        (
            *(Figure(kind, "instr/task") for kind in KINDS),
            *(Figure(f"{kind} to alone", "x", at_most=most) for kind, most in KINDS.items() if kind != "alone"),
        ),
        once=True,
    ),
)

if __name__ == "__main__":
    asyncio.run({"send": send, "drain": drain}[sys.argv[1]](sys.argv[2], int(sys.argv[3])))
