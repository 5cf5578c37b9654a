"""Metrics: what a worker's observer counts, and how Prometheus reads it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from aiotq import AioTQ, Task
from aiotq.backends.memory.broker import MemoryBroker
from aiotq.calling.publisher import Publisher
from aiotq.core.histogram import Histogram
from aiotq.core.inside import core_of
from aiotq.exceptions import PublishTimeout
from aiotq.web.metrics import OTHER, Metrics

from ..waiting import wait_until
from .faulty_broker import envelope

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def app() -> AioTQ:
    return AioTQ("proj", broker="memory://")


@pytest.fixture
async def client(app: AioTQ) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app.health_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def scraped(client: httpx.AsyncClient) -> Samples:
    """What Prometheus' own parser reads."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    return dict(_samples(answer.text))


def _samples(text: str) -> Iterator[tuple[tuple[str, frozenset[tuple[str, str]]], float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield (sample.name, frozenset(sample.labels.items())), sample.value


def labelled(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


async def test_each_end_of_a_run_is_counted_by_task_and_queue(app: AioTQ, client: httpx.AsyncClient) -> None:
    @app.task(name="work", max_retries=1, bind=True)
    async def work(self: Task[..., Any], how: str) -> str:
        if how == "retry":
            raise self.retry(countdown=0)
        if how == "fail":
            raise ValueError(how)
        return how

    async with app, app.worker():
        for how in ("well", "well", "fail", "retry"):
            await (await work.delay(how)).get(timeout=5, propagate=False)
        revoked = await work.options(countdown=60).delay("well")
        await revoked.revoke()
        found = await scraped(client)

    of_work = {"task": "work", "queue": "default"}
    counts = {
        name: found[labelled(f"aiotq_tasks_{name}_total", **of_work)]
        for name in ("received", "started", "succeeded", "failed", "retried", "dead")
    }
    assert counts == {"received": 5, "started": 5, "succeeded": 2, "failed": 2, "retried": 1, "dead": 0}
    assert found[labelled("aiotq_task_run_seconds_count", **of_work)] == 5
    assert found[labelled("aiotq_task_wait_seconds_count", **of_work)] == 5
    assert found[labelled("aiotq_commit_group_size_sum")] >= 5


async def test_a_delayed_call_has_waited_since_it_was_due(app: AioTQ, client: httpx.AsyncClient) -> None:
    @app.task(name="work")
    async def work() -> None: ...

    async with app, app.worker():
        await (await work.options(countdown=0.2).delay()).get(timeout=5)
        found = await scraped(client)

    assert found[labelled("aiotq_task_wait_seconds_sum", task="work", queue="default")] < 0.2


async def test_queues_and_workers_are_gauges(app: AioTQ, client: httpx.AsyncClient) -> None:
    @app.task(name="work")
    async def work() -> None: ...

    async with app, app.worker(name="anna", concurrency=7):
        await work.options(countdown=60).delay()
        found = await scraped(client)

    assert found[labelled("aiotq_messages_sent_total")] == found[labelled("aiotq_publish_seconds_count")] == 1
    assert found[labelled("aiotq_queue_paused", queue="default")] == 0
    assert found[labelled("aiotq_queue_messages", queue="default", state="delayed")] == 1
    assert found[labelled("aiotq_queue_messages", queue="default", state="ready")] == 0
    assert found[labelled("aiotq_worker_slots", worker="anna", kind="loop")] == 7
    assert found[labelled("aiotq_worker_running", worker="anna")] == 0
    assert found[labelled("aiotq_worker_broker_silence_seconds", worker="anna")] < 30


async def test_tasks_that_anybody_may_name_don_t_make_labels_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotq.web.metrics._MOST_SERIES", 3)
    app = AioTQ("proj", broker="memory://", worker_unknown_task_timeout=0.0)
    metrics = Metrics()
    worker = app.worker()
    worker.observe(metrics)

    async with app, worker:
        for number in range(10):
            await app.send_task(f"no.such.{number}")
        await wait_until(lambda: worker.completed == 10, "all are dead letters")

    tasks = {
        sample.labels["task"]: sample.value
        for family in metrics.collect()
        for sample in family.samples
        if sample.name == "aiotq_tasks_received_total"
    }
    assert tasks[OTHER[0]] == 7
    assert len(tasks) == 4


async def test_what_could_not_be_sent_and_what_was_sent_late_is_told(app: AioTQ, client: httpx.AsyncClient) -> None:
    @app.task(name="work")
    async def work() -> None: ...

    app.add_periodic_task(0.05, work.s())

    async def is_sent() -> bool:
        return (await scraped(client))[labelled("aiotq_schedule_sent_total")] > 0

    async with app, app.beat():
        await wait_until(is_sent, "an occurrence was sent")
        core_of(app).sending_counts.failed(PublishTimeout("id", 1.0, maybe_sent=False))
        found = await scraped(client)

    assert (
        0 <= found[labelled("aiotq_schedule_lateness_seconds_sum")] / found[labelled("aiotq_schedule_sent_total")] < 1
    )
    assert found[labelled("aiotq_publish_errors_total", error="PublishTimeout")] == 1


async def test_a_call_that_is_refused_counts_as_an_error(app: AioTQ) -> None:
    publisher = Publisher(MemoryBroker(), timeout=0.01, max_pending=10)

    with pytest.raises(PublishTimeout):  # nobody runs it
        await publisher.publish([envelope()])

    assert publisher.counts.errors == {"PublishTimeout": 1}


def test_a_histogram_counts_what_is_not_over_a_bound() -> None:
    histogram = Histogram((1.0, 2.0))

    for amount in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(amount)

    assert histogram.buckets() == [("1.0", 2), ("2.0", 3), ("+Inf", 4)]
    assert histogram.sum == 12.0


async def test_a_process_without_workers_is_live_and_ready_when_the_broker_answers(
    app: AioTQ, client: httpx.AsyncClient
) -> None:
    async with app:
        live, ready = await client.get("/live"), await client.get("/ready")

    assert (live.status_code, ready.status_code) == (200, 200)
    assert ready.json() == {"ok": True, "checks": [{"name": "broker", "ok": True, "said": "connected"}]}


async def test_workers_and_schedulers_of_this_process_are_asked(app: AioTQ, client: httpx.AsyncClient) -> None:
    async with app, app.worker(name="anna"), app.beat(name="bert"):
        live, ready = await client.get("/live"), await client.get("/ready")

    assert [each["name"] for each in ready.json()["checks"]] == ["worker anna", "scheduler bert"]
    assert (live.status_code, ready.status_code) == (200, 200)


async def test_a_worker_that_hears_nothing_of_its_broker_is_not_live(
    app: AioTQ, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with app, app.worker(name="anna") as worker:
        monkeypatch.setattr(type(worker), "silence", 31.0)
        live, ready = await client.get("/live"), await client.get("/ready")

    assert (live.status_code, ready.status_code) == (503, 503)
    assert "no answer of the broker for 31 s" in live.json()["checks"][0]["said"]
