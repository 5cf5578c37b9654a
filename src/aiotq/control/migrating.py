"""Moves what one broker has to another: what is ready, what is delayed, dead letters; killed, it may begin again.

A message is sent to the destination before it is taken from the source, under its own id and attempt. So whoever begins
again after a death sends some messages twice, which a destination that knows messages by their ids drops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

from ..backends.base import Backend, BackendContext, backend_class, mask_password
from ..core.clock import Clock
from ..core.settings import Settings
from ..core.values import replace, value
from ..exceptions import CallError, InvalidSetting
from ..transport import ACK, Broker, Consumer, DeadLetter
from ..wire.message import Envelope, new_id

#: Messages that are moved in one step.
_AT_ONCE: Final = 200
#: Seconds after which what a migration that was killed had in its hands comes back.
LEASE: Final = 3.0
#: Seconds between looks for that, and for which messages are waited for.
_LOOK: Final = 0.2
_MOST_DEAD: Final = 1_000_000


@value
class Moved:
    """What was moved, and what is left in the source: what workers hold, and what could not be taken out."""

    ready: int = 0
    delayed: int = 0
    dead: int = 0
    left_held: int = 0
    left_delayed: int = 0
    left_dead: int = 0


async def migrate(
    source: str,
    destination: str,
    queues: Sequence[str] | None = None,
    *,
    conf: Settings,
    clock: Clock,
    tell: Callable[[str, Moved], None],
) -> Moved:
    """Move what is in `queues` (None: all) of the broker at one URL to that at another; `tell` hears of each queue.

    What is delayed in a RabbitMQ stays there, and is counted: it is not known of which queue it is.

    Workers of the source may go on. Those of the destination are to begin when it has ended: what they have finished
    is known by its id no more, should a migration be killed and begun again.

    Raises:
        InvalidSetting: a URL can't be used, or both are of one broker.
        CallError: no `queues` are named, and the source can't list them.
        OperationalError: one can't be reached, or refuses; what was moved is moved.
    """
    giving, taking = _backend(source, conf, clock), _backend(destination, conf, clock)
    if type(giving) is type(taking) and giving.key(source) == taking.key(destination):
        raise InvalidSetting("destination", mask_password(destination), "another broker than the source")
    async with AsyncExitStack() as stack:
        for backend in (giving, taking):
            await stack.enter_async_context(backend)
        old = await stack.enter_async_context(_broker_of(giving))
        new = await stack.enter_async_context(_broker_of(taking))
        moving = _Migration(old, new, clock)
        total = Moved()
        if queues is None and not old.can_list:
            raise CallError("RabbitMQ can't list its queues: name those that are to be moved (--queues)")
        names = queues if queues is not None else [each.name for each in await old.stats()]
        for name in names:
            moved = await moving.move(name)
            tell(name, moved)
            total = _sum(total, moved)
        if not old.can_list:
            total = replace(total, left_delayed=sum(each.delayed for each in await old.stats()))
        return total


class _Migration:
    """From one broker to another, queue by queue."""

    def __init__(self, source: Broker, destination: Broker, clock: Clock) -> None:
        self._source = source
        self._destination = destination
        self._clock = clock
        self._name = f"migration-{new_id()}"

    async def move(self, queue: str) -> Moved:
        delayed = await self._move_delayed(queue)
        ready = await self._move_ready(queue)
        dead = await self._move_dead(queue)
        (left,) = await self._source.stats([queue])
        return Moved(ready, delayed, dead, left.leased, left.delayed, left.dead)

    async def _move_delayed(self, queue: str) -> int:
        moved = 0
        while page := await self._source.delayed(queue, limit=_AT_ONCE):
            await self._destination.send(page)
            moved += sum(await self._source.remove_delayed([each.message.key for each in page]))
        return moved

    async def _move_ready(self, queue: str) -> int:
        """Move what is ready, and what a migration that was killed had in its hands."""
        moved = 0
        async with self._source.consumer(self._name, [queue], lease=LEASE) as consumer:
            time = asyncio.get_running_loop().time
            patience = time() + 2 * LEASE
            while time() < patience:
                (left,) = await self._source.stats([queue])
                if not (left.ready or left.leased):
                    break
                if some := await self._empty(consumer):
                    moved += some
                    patience = time() + 2 * LEASE
                await consumer.reclaim()
        return moved

    async def _empty(self, consumer: Consumer) -> int:
        moved = 0
        while held := await consumer.receive(_AT_ONCE, suspect=True, wait=_LOOK):
            await self._destination.send([Envelope(each.message, each.queue, each.priority) for each in held])
            moved += sum(await self._source.settle([(each, ACK) for each in held]))
        return moved

    async def _move_dead(self, queue: str) -> int:
        before = self._clock.time()
        letters = [each for each in await self._source.dead_letters(queue, limit=_MOST_DEAD) if each.died_at < before]
        if not letters:
            return 0
        known = {_mark_of(each) for each in await self._destination.dead_letters(queue, limit=_MOST_DEAD)}
        missing = [each for each in reversed(letters) if _mark_of(each) not in known]
        for start in range(0, len(missing), _AT_ONCE):
            await self._destination.bury(missing[start : start + _AT_ONCE])
        await self._source.purge_dead(queue, before=before)
        return len(letters)


def _mark_of(letter: DeadLetter) -> tuple[bytes, str, str]:
    """Return what two dead letters have in common only if they are one."""
    return letter.raw, letter.reason, letter.detail


def _sum(one: Moved, other: Moved) -> Moved:
    return replace(
        one,
        ready=one.ready + other.ready,
        delayed=one.delayed + other.delayed,
        dead=one.dead + other.dead,
        left_held=one.left_held + other.left_held,
        left_delayed=one.left_delayed + other.left_delayed,
        left_dead=one.left_dead + other.left_dead,
    )


def _backend(url: str, conf: Settings, clock: Clock) -> Backend:
    found = backend_class(url)
    if found is None or url.startswith("memory:"):
        raise InvalidSetting("broker_url", mask_password(url), "the URL of a broker that outlives this process")
    try:
        return found(url, BackendContext(conf, clock, lambda _, __, make: make()))
    except ValueError as exc:
        raise InvalidSetting("broker_url", mask_password(url), f"a URL that can be used: {exc}") from exc


def _broker_of(backend: Backend) -> Broker:
    if backend.broker is None:
        raise InvalidSetting("broker_url", type(backend).__name__, "a broker's URL: this one keeps results only")
    return backend.broker
