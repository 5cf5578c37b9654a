"""Tasks that tell in which trace they run; child processes import them."""

from __future__ import annotations

from opentelemetry import trace

from aiotq import AioTQ, chain

app = AioTQ("traced", broker="memory://", opentelemetry=True)
tracer = trace.get_tracer("mine")


@app.task
async def first(how: str) -> str:
    with tracer.start_as_current_span("my own"):
        if how == "chain":
            await chain(second.s(1), third.s()).delay()
        else:
            await second.delay(1)
    return how


@app.task
def second(x: int) -> int:
    with tracer.start_as_current_span("in a thread"):
        return x + 1


@app.task
async def third(x: int) -> int:
    return x + 1


@app.task(autoretry_for=(ConnectionError,), max_retries=1, default_retry_delay=1, retry_backoff=False)
async def fails(how: str) -> None:
    if how == "later":
        raise fails.retry(countdown=1, max_retries=1)
    raise ConnectionError(how)


@app.task(run="process")
def trace_of_child() -> list[str]:
    found = trace.get_current_span().get_span_context()
    return [f"{found.trace_id:x}", f"{found.span_id:x}"]
