# mypy: ignore-errors
# pyright: basic, reportMissingImports=false
"""Celery: its solo pool, late acknowledgement, a large prefetch, no gossip, mingling or heartbeats."""

from __future__ import annotations

import time

from celery import Celery, chain, chord, group

from .measuring import (
    BROKER,
    CHAINS_IN_FLIGHT,
    CHORDS_IN_FLIGHT,
    EXPIRES,
    LONGEST,
    MEMBERS,
    RESULTS,
    STEPS,
    expect,
    measure,
    windowed,
)

app = Celery("peers", broker=BROKER, backend=RESULTS)
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=100,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
    result_expires=EXPIRES,
)
if BROKER.startswith("amqp"):
    app.conf.broker_transport_options = {"confirm_publish": True}


@app.task(name="peers.noop")
def noop():
    pass


@app.task(name="peers.same")
def same(number):
    return number


@app.task(name="peers.total")
def total(numbers):
    return sum(numbers)


@app.task(name="peers.stamp")
def stamp():
    return time.time(), time.process_time()


class Client:
    worker = (
        *("-m", "celery", "-A", "benchmarks.peers.celery_peer", "worker", "-P", "solo", "-l", "WARNING"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    )

    def plain(self, count):
        results = group(noop.s() for _ in range(count)).apply_async()
        results.join_native(timeout=LONGEST)

    def chains(self, count):
        def send():
            return chain(same.s(7), *(same.s() for _ in range(STEPS - 1))).apply_async()

        windowed(count, CHAINS_IN_FLIGHT, send, lambda result: expect(result.get(timeout=LONGEST), 7))

    def chords(self, count):
        def send():
            return chord(map(same.s, range(MEMBERS)), total.s()).apply_async()

        value = sum(range(MEMBERS))
        windowed(count, CHORDS_IN_FLIGHT, send, lambda result: expect(result.get(timeout=LONGEST), value))

    def preload(self, count):
        self._first = stamp.delay()
        with app.producer_or_acquire() as producer:
            for _ in range(count):
                noop.apply_async(producer=producer)
        self._last = stamp.delay()

    def stamps(self):
        return self._first.get(timeout=LONGEST), self._last.get(timeout=LONGEST)


if __name__ == "__main__":
    measure(Client())
