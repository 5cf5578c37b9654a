# mypy: ignore-errors
# pyright: basic, reportMissingImports=false
"""dramatiq: one process of eight threads, results in Redis; a group's callback, which gets no values, reads them."""

from __future__ import annotations

import time

import dramatiq
from dramatiq import Message
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import GroupCallbacks
from dramatiq.rate_limits.backends import RedisBackend as BarrierBackend
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from redis import Redis

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

broker = RabbitmqBroker(url=BROKER, confirm_delivery=True) if BROKER.startswith("amqp") else RedisBroker(url=BROKER)
# redis-py's own timeout, 5 s, would end a wait for a result that takes longer.
backend = RedisBackend(client=Redis.from_url(RESULTS, socket_timeout=None))
# Of those, the last one acts first when a task is done: its result is stored before its group counts it.
broker.add_middleware(GroupCallbacks(BarrierBackend(url=RESULTS)))
broker.add_middleware(Results(backend=backend, store_results=True, result_ttl=EXPIRES * 1000))
dramatiq.set_broker(broker)


@dramatiq.actor(actor_name="noop")
def noop():
    pass


@dramatiq.actor(actor_name="same")
def same(number):
    return number


@dramatiq.actor(actor_name="total")
def total(ids):
    return sum(backend.get_result(_call_of_same(message_id), block=True) for message_id in ids)


@dramatiq.actor(actor_name="stamp")
def stamp():
    return time.time(), time.process_time()


def _call_of_same(message_id):
    return Message(queue_name="default", actor_name="same", args=(), kwargs={}, options={}, message_id=message_id)


def _get(message):
    return message.get_result(block=True, timeout=LONGEST * 1000)


class Client:
    worker = ("-m", "dramatiq", "benchmarks.peers.dramatiq_peer", "--processes", "1", "--threads", "8")

    def plain(self, count):
        for _ in (
            dramatiq.group([noop.message() for _ in range(count)]).run().get_results(block=True, timeout=LONGEST * 1000)
        ):
            pass

    def chains(self, count):
        def send():
            return dramatiq.pipeline([same.message(7), *(same.message() for _ in range(STEPS - 1))]).run()

        windowed(count, CHAINS_IN_FLIGHT, send, lambda result: expect(_get(result), 7))

    def chords(self, count):
        def send():
            members = dramatiq.group(map(same.message, range(MEMBERS)))
            body = total.message([member.message_id for member in members.children])
            members.add_completion_callback(body)
            members.run()
            return body

        value = sum(range(MEMBERS))
        windowed(count, CHORDS_IN_FLIGHT, send, lambda body: expect(_get(body), value))

    def preload(self, count):
        self._first = stamp.send()
        for _ in range(count):
            noop.send()
        self._last = stamp.send()

    def stamps(self):
        return _get(self._first), _get(self._last)


if __name__ == "__main__":
    measure(Client())
