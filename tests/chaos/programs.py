"""Programs that chaos tests run as processes of their own, to be killed: `python -m tests.chaos.programs NAME …`."""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from aiotq.backends.base import BackendContext, backend_class
from aiotq.commit import Committer, Finish
from aiotq.core.clock import SYSTEM_CLOCK
from aiotq.core.settings import Settings
from aiotq.results import Arrival, Join, JoinChanges, Record
from aiotq.tasks.task import Task
from aiotq.transport import Broker, Delivery
from aiotq.wire.message import Envelope, Message, new_id

from . import apps

#: The tasks of a client that sends many, in turns: most are coroutines, as in life.
_MIXED: Final[tuple[Task[[float], int], ...]] = (*[apps.step] * 4, *[apps.step_in_thread] * 2, apps.step_in_process)
#: The queue in which the committing program leaves a message for each finish it committed.
COUNTED: Final = "counted"
EXPIRES: Final = 4e9


async def send(count: int, at_once: int) -> None:
    """Call `count` tasks, `at_once` callers at a time; each writes down what was accepted when `delay` has returned."""
    numbers = iter(range(count))

    async def caller() -> None:
        for number in numbers:
            result = await _MIXED[number % len(_MIXED)].delay(0.002 * (number % 10))
            apps.note("accepted", result.id, durable=True)

    async with apps.app, asyncio.TaskGroup() as callers:
        for _ in range(at_once):
            callers.create_task(caller())
    print("all are sent")


async def ask(at_once: int) -> None:
    """Call tasks and wait for their results, `at_once` callers at a time, until standard input ends."""
    async with apps.app, asyncio.TaskGroup() as callers:
        told = callers.create_task(asyncio.to_thread(sys.stdin.read))

        async def caller() -> None:
            numbers = itertools.count()
            while not told.done():
                result = await apps.step.delay(0.002 * (next(numbers) % 10))
                apps.note("accepted", result.id, durable=True)
                await result.get(timeout=60)
                apps.note("answered", result.id)

        for _ in range(at_once):
            callers.create_task(caller())
    print("all are answered")


def lock(file: str) -> None:
    """Keep `file` locked until standard input ends."""
    connection = sqlite3.connect(file, isolation_level=None, timeout=60)
    connection.execute("BEGIN EXCLUSIVE")
    print("the file is locked", flush=True)
    sys.stdin.read()
    connection.execute("ROLLBACK")
    connection.close()


# A worker without tasks: it finishes deliveries as their ids say, and leaves a message for each committed finish.


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[tuple[Broker, Committer]]:
    """The backend at `url`, and what commits to it."""
    here = backend_class(url)
    assert here is not None
    backend = here(url, BackendContext(Settings(), SYSTEM_CLOCK, _no_memory))
    assert backend.broker is not None
    parts = [part for part in (backend.broker, backend.bus, backend.records, backend.ledger) if part is not None]
    async with AsyncExitStack() as stack:
        for part in (backend, *parts):
            await stack.enter_async_context(part)
        committer = backend.committer()
        assert committer is not None
        yield backend.broker, committer


def _no_memory(name: str, kind: str, make: Callable[[], Any]) -> Any:
    raise AssertionError("a backend that several processes share is not in the memory of one")


def workflow(number: int) -> Finish:
    """A chain of three links, a join of three members, and a join of which one member fails, to be sent as one."""
    joins = tuple(
        Join(f"{kind}:{number}", 3, (_message(f"then-{kind}:{number}"),), patience=3600.0) for kind in ("good", "bad")
    )
    members = (_message(f"{kind}-{index}:{number}") for kind in ("good", "bad") for index in range(3))
    return Finish(None, envelopes=(_message(f"link-0:{number}"), *members), joining=JoinChanges(opened=joins))


def committed_of(number: int) -> set[str]:
    """What must have been committed, once each, when a workflow is over."""
    links = {f"link-{index}:{number}" for index in range(3)}
    members = {f"{kind}-{index}:{number}" for kind in ("good", "bad") for index in range(3)}
    return {*links, *members, f"then-good:{number}", f"then-bad:{number}"}


async def commit() -> None:
    """Receive and commit until killed."""
    lease = float(os.environ["AIOTQ_WORKER_LEASE"])
    async with (
        opened(os.environ["AIOTQ_BROKER_URL"]) as (broker, committer),
        broker.consumer("committer", ["q"], lease=lease) as consumer,
    ):
        committer.consumer = consumer
        print("committing", flush=True)
        for round_number in itertools.count():
            if round_number % 10 == 0:
                await consumer.reclaim()
            # Suspects come one at a time, and here nothing is poison: all of them are taken as they come.
            deliveries = await consumer.receive(5, suspect=True, wait=lease / 4)
            if deliveries:
                await committer.commit([_finish(delivery) for delivery in deliveries])
            else:
                await asyncio.to_thread(consumer.renew, ())


def _finish(delivery: Delivery) -> Finish:
    task_id = delivery.message.id
    kind, _, number = task_id.partition(":")
    name, _, index = kind.partition("-")
    following = [Envelope(Message(f"{task_id}/{new_id()}", "committed", b""), COUNTED)]
    arrivals: list[Arrival] = []
    match name, index:
        case "link", "0" | "1":
            following.append(_message(f"link-{int(index) + 1}:{number}"))
        case "good" | "bad", _:
            arrivals.append(Arrival(f"{name}:{number}", index, failed=name == "bad" and index == "1"))
        case _:
            pass
    record = Record(task_id, "SUCCESS", b"{}", "application/json", EXPIRES)
    return Finish(delivery, record=record, envelopes=tuple(following), joining=JoinChanges(arrivals=tuple(arrivals)))


def _message(task_id: str) -> Envelope:
    return Envelope(Message(task_id, "none", b"[[],{},{}]"), "q")


def main(name: str, *arguments: Any) -> None:
    match name:
        case "send":
            asyncio.run(send(int(arguments[0]), int(arguments[1])))
        case "ask":
            asyncio.run(ask(int(arguments[0])))
        case "lock":
            lock(arguments[0])
        case "commit":
            asyncio.run(commit())
        case _:
            raise ValueError(name)


if __name__ == "__main__":
    main(*sys.argv[1:])
