"""Sends what callers ask for: few broker round trips, a deadline for each call, back-pressure (P1, P7)."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol

from ._aio import Gathering
from .exceptions import ConnectionLost, OperationalError, PublishTimeout
from .message import Envelope

logger = logging.getLogger("aiotq.publisher")

#: Large enough to share a round trip well, small enough for one script call or transaction.
MAX_GROUP: Final = 1000
MAX_GROUP_WEIGHT: Final = 8 * 1024 * 1024
#: What a message weighs beside its body, so that small ones are limited by count.
_BASE_WEIGHT: Final = 8 * 1024
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.5


class Broker(Protocol):
    """All that publishing asks of a transport."""

    async def send(self, batch: Sequence[Envelope]) -> None: ...


class _Call:
    """Envelopes that one caller waits for; `deadline` is loop time."""

    __slots__ = ("accepted", "deadline", "envelopes", "maybe_sent", "seconds", "weight")

    def __init__(
        self, envelopes: Sequence[Envelope], seconds: float, deadline: float, accepted: asyncio.Future[None]
    ) -> None:
        self.envelopes = envelopes
        self.seconds = seconds
        self.deadline = deadline
        self.accepted = accepted
        self.weight = sum(_BASE_WEIGHT + len(envelope.message.body) for envelope in envelopes)
        self.maybe_sent = False

    def expire(self, cause: BaseException | None) -> None:
        if not self.accepted.done():
            task_id = self.envelopes[0].message.id
            self.accepted.set_exception(PublishTimeout(task_id, self.seconds, self.maybe_sent, cause))


class Publisher:
    """Gives envelopes to the broker; its owner runs `run()` for as long as anybody publishes."""

    def __init__(self, broker: Broker, *, timeout: float, max_pending: int) -> None:
        self._broker = broker
        self._timeout = timeout
        self._max_pending = max_pending
        self._calls: Gathering[_Call] = Gathering(
            max_items=MAX_GROUP, max_weight=MAX_GROUP_WEIGHT, weigh=lambda call: call.weight
        )
        self._pending = 0
        self._at_the_door: deque[asyncio.Future[None]] = deque()
        self._closed = False
        self._looks_at = -math.inf  # loop time of the next look at deadlines
        self._woken: asyncio.Future[None] | None = None

    async def publish(self, envelopes: Sequence[Envelope], timeout: float | None = None) -> None:
        """Return when the broker has accepted all of `envelopes` (P1).

        What is asked for in the same turn of the loop shares a round trip. Cancelled, the envelopes may be sent.

        Raises:
            PublishTimeout: not accepted within `timeout` seconds; `.maybe_sent` says whether they may have been.
            OperationalError: the broker refused them; nothing was sent.
        """
        loop = asyncio.get_running_loop()
        seconds = self._timeout if timeout is None else timeout
        deadline = loop.time() + seconds
        waiting: list[asyncio.Future[None]] = []
        try:
            for start in range(0, len(envelopes), MAX_GROUP):
                part = envelopes if len(envelopes) <= MAX_GROUP else envelopes[start : start + MAX_GROUP]
                if self._pending >= self._max_pending and not await self._room(deadline):
                    raise PublishTimeout(part[0].message.id, seconds, maybe_sent=bool(waiting))
                if self._closed:
                    raise OperationalError(
                        f"the app's connection was closed: {'not all' if waiting else 'nothing'} was sent"
                    )
                call = _Call(part, seconds, deadline, loop.create_future())
                self._calls.add(call)
                self._pending += len(part)
                waiting.append(call.accepted)
                if deadline < self._looks_at:
                    self._wake()
            if len(waiting) == 1:
                await waiting[0]
            elif waiting:
                await self._all_accepted(waiting, seconds)
        except BaseException:
            for accepted in waiting:
                accepted.cancel()  # what was not begun need not be sent
            raise

    async def drained(self) -> None:
        """Return when all that was asked for is sent or failed."""
        await self._calls.drained()

    async def run(self) -> None:
        """Send until cancelled; then whoever still waits is told so."""
        try:
            while True:
                group = await self._calls.take()
                for call in group:
                    self._leave_queue(call)
                await self._deliver([call for call in group if not call.accepted.cancelled()])
        finally:
            self._closed = True
            closed = OperationalError("the app's connection was closed before this was sent")
            _refuse(list(self._calls.waiting), closed)
            self._calls.waiting.clear()
            for turn in self._at_the_door:
                if not turn.done():
                    turn.set_result(None)

    async def _all_accepted(self, parts: Sequence[asyncio.Future[None]], seconds: float) -> None:
        await asyncio.wait(parts)
        errors = [error for part in parts if (error := part.exception()) is not None]
        if not errors:
            return
        error = errors[0]
        if isinstance(error, PublishTimeout) and not error.maybe_sent and len(errors) < len(parts):
            raise PublishTimeout(error.task_id, seconds, maybe_sent=True, cause=error)
        raise error

    async def _room(self, deadline: float) -> bool:
        """Wait until a group has left, first come, first in; False if the deadline passes first."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._at_the_door.append(turn)
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except BaseException as exc:
            if turn.done() and not turn.cancelled():  # let in as it left: the next one may come
                self._let_in(1)
            if isinstance(exc, TimeoutError):
                return False
            raise
        return True

    def _leave_queue(self, call: _Call) -> None:
        self._pending -= len(call.envelopes)
        self._let_in(len(call.envelopes))

    def _let_in(self, count: int) -> None:
        while count and self._at_the_door and self._pending < self._max_pending:
            turn = self._at_the_door.popleft()
            if not turn.done():
                turn.set_result(None)
                count -= 1

    async def _deliver(self, group: list[_Call]) -> None:
        """Send `group`, again after lost connections, until it is accepted, refused or past its deadlines."""
        pause = _FIRST_PAUSE
        cause: BaseException | None = None
        left = group
        try:
            while left:
                try:
                    left = await self._attempt(left)
                except ConnectionLost as exc:
                    cause = exc
                    logger.warning("sending %d messages failed, trying again: %s", len(left), exc)
                    left = await self._watch(left, None, pause * random.uniform(0.5, 1.0), cause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
        except OperationalError as exc:
            _refuse(left, exc)
        except asyncio.CancelledError:
            _refuse(left, OperationalError("the app's connection was closed while this was being sent"))
            raise
        except Exception as exc:  # a defect of ours must reach its callers, and not end the publisher
            logger.exception("sending %d messages failed", len(left))
            if len(left) == 1:
                _refuse(left, exc)
            else:
                for call in left:  # one bad message fails alone
                    await self._deliver([call])

    async def _attempt(self, group: list[_Call]) -> list[_Call]:
        """Send `group` once; callers whose deadline passes meanwhile are told. Returns what is not settled yet."""
        batch = [envelope for call in group for envelope in call.envelopes]
        for call in group:
            call.maybe_sent = True
        async with asyncio.TaskGroup() as sending:
            send = sending.create_task(_send(self._broker, batch), name="aiotq.publisher.send")
            group = await self._watch(group, send, math.inf, None)
            if not group:
                send.cancel()
        if not group:
            return group
        error = send.result()
        if error is not None:
            raise error
        for call in group:
            if not call.accepted.done():
                call.accepted.set_result(None)
        return []

    async def _watch(
        self, group: list[_Call], send: asyncio.Task[Any] | None, seconds: float, cause: BaseException | None
    ) -> list[_Call]:
        """Wait for `send`, `seconds` at most, telling callers whose deadline passes; return the rest of `group`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        try:
            while group and loop.time() < end and not (send is not None and send.done()):
                self._looks_at = min(end, *(call.deadline for call in (*group, *self._calls.waiting)))
                self._woken = loop.create_future()
                await asyncio.wait(
                    {self._woken} if send is None else {self._woken, send},
                    timeout=max(0.0, self._looks_at - loop.time()),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if send is None or not send.done():
                    group = self._expire(group, cause)
        finally:
            self._looks_at, self._woken = -math.inf, None
        return group

    def _wake(self) -> None:
        """Have the deadlines looked at again: a call came whose own is before all others."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def _expire(self, group: list[_Call], cause: BaseException | None) -> list[_Call]:
        """Tell those whose deadline has passed, in `group` and behind it; return the rest of `group`."""
        now = asyncio.get_running_loop().time()
        for call in [call for call in self._calls.waiting if call.deadline <= now]:
            self._calls.waiting.remove(call)
            self._leave_queue(call)
            call.expire(cause)
        for call in group:
            if call.deadline <= now:
                call.expire(cause)
        return [call for call in group if not call.accepted.done()]


async def _send(broker: Broker, batch: Sequence[Envelope]) -> Exception | None:
    """Send, and return the error as a value, so that the task group it runs in does not wrap it."""
    try:
        await broker.send(batch)
    except Exception as exc:
        return exc
    return None


def _refuse(group: list[_Call], error: Exception) -> None:
    for call in group:
        if not call.accepted.done():
            call.accepted.set_exception(error)
