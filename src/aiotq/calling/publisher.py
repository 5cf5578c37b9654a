"""Sends what callers ask for: few broker round trips, a deadline for each call, back-pressure (P1, P7)."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import random
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Protocol

from ..commit import LEASE_LOST, Committer, Finish
from ..core.aio import Batcher
from ..exceptions import (
    AioTQError,
    ConnectionLost,
    NotConnected,
    OperationalError,
    PublishFailed,
    PublishTimeout,
    Refused,
)
from ..results import NO_JOIN_CHANGES, Join, JoinChanges, Record, ScheduleChange
from ..transport.refusals import apart, send_apart
from ..wire.message import Envelope
from .retry_policy import FIRST_PAUSE, LONGEST_PAUSE, RetryPolicy
from .sending_counts import SendingCounts

logger = logging.getLogger("aiotq.publisher")

#: Large enough to share a round trip well, small enough for one script call or transaction.
MAX_GROUP: Final = 1000
MAX_GROUP_WEIGHT: Final = 8 * 1024 * 1024
#: What a message weighs beside its body, so that small ones are limited by count.
_BASE_WEIGHT: Final = 8 * 1024


class KeyTaken(Exception):
    """A call is not sent, since the row of its key is not as it was to be: another call has the key."""


class BrokerSide(Protocol):
    """All that publishing asks of a transport."""

    async def connected(self) -> None: ...

    async def send(self, batch: Sequence[Envelope]) -> None: ...


class _Call:
    """Envelopes that one caller waits for, and the joins to open with them; `deadline` is loop time."""

    __slots__ = (
        "accepted",
        "attempts",
        "deadline",
        "envelopes",
        "finish",
        "maybe_sent",
        "next_at",
        "persistence",
        "seconds",
        "weight",
    )

    def __init__(
        self,
        envelopes: Sequence[Envelope],
        seconds: float,
        deadline: float,
        accepted: asyncio.Future[None],
        joins: tuple[Join, ...] = (),
        persistence: RetryPolicy | None = None,
        records: tuple[Record, ...] = (),
        key: ScheduleChange | None = None,
    ) -> None:
        self.envelopes = envelopes
        self.finish: Finish | None = None
        if joins or records or key is not None:
            joining = JoinChanges(opened=joins) if joins else NO_JOIN_CHANGES
            self.finish = Finish(None, envelopes=tuple(envelopes), joining=joining, further=records, schedule=key)
        self.seconds = seconds
        self.deadline = deadline
        self.accepted = accepted
        self.weight = sum(_BASE_WEIGHT + len(envelope.message.body) for envelope in envelopes)
        for join in joins:
            self.weight += sum(_BASE_WEIGHT + len(envelope.message.body) for envelope in join.then)
        self.weight += sum(len(record.body) for record in records)
        self.maybe_sent = False
        self.persistence = persistence
        self.attempts = 0
        self.next_at = 0.0  #: loop time of the next attempt

    def failed(self, cause: BaseException, now: float, pause: float) -> None:
        """Note an attempt that failed at loop time `now`; `pause` seconds are what it waits if it says nothing else."""
        self.attempts += 1
        wait = pause if self.persistence is None else self.persistence.pause(self.attempts - 1, cause)
        if wait is not None:
            self.next_at = now + wait
        elif not self.accepted.done():
            task_id = self.envelopes[0].message.id
            self.accepted.set_exception(PublishFailed(task_id, self.attempts, self.maybe_sent, cause))

    def expire(self, cause: BaseException | None) -> None:
        if not self.accepted.done():
            task_id = self.envelopes[0].message.id
            self.accepted.set_exception(PublishTimeout(task_id, self.seconds, self.maybe_sent, cause))


class Publisher:
    """Gives envelopes to the broker; its owner runs `run()` for as long as anybody publishes."""

    def __init__(
        self,
        broker: BrokerSide,
        *,
        timeout: float,
        max_pending: int,
        committer: Committer | None = None,
        persistence: RetryPolicy | None = None,
    ) -> None:
        self._broker = broker
        self._persistence = persistence
        self._committer = committer
        self._timeout = timeout
        self._max_pending = max_pending
        self._calls: Batcher[_Call] = Batcher(
            max_items=MAX_GROUP, max_weight=MAX_GROUP_WEIGHT, weigh=lambda call: call.weight
        )
        self._pending = 0
        self._at_the_door: deque[asyncio.Future[None]] = deque()
        self._closed = False
        self._group: list[_Call] = []  #: what is being sent
        self._behind: deque[list[_Call]] = deque()  #: what is sent after it, apart from it
        self._limit: asyncio.Timeout | None = None  #: ends the sending of a group that nobody waits for any more
        self._cause: BaseException | None = None  #: why it was not sent yet
        self.counts = SendingCounts()  #: what was sent; the app's, if it is one of an app
        self._looks_at = math.inf  #: loop time of the next look at deadlines
        self._timer: asyncio.TimerHandle | None = None

    async def publish(
        self,
        envelopes: Sequence[Envelope],
        timeout: float | None = None,
        joins: tuple[Join, ...] = (),
        persistence: RetryPolicy | None = None,
        records: tuple[Record, ...] = (),
        key: ScheduleChange | None = None,
    ) -> None:
        """Return when the broker has accepted all of `envelopes` (P1), `joins` are open, and `records` are stored.

        Calls of the same turn of the loop share a round trip; a call with joins, records or the change of a key is sent
        as one step, however large. Cancelled, the envelopes may be sent.

        `persistence` None: as the settings say.

        Raises:
            KeyTaken: the change of `key` was refused; nothing was sent.
            PublishTimeout: not accepted within `timeout` seconds; `.maybe_sent` says whether they may have been.
            PublishFailed: not accepted in as many attempts as `persistence` allows.
            Refused: some of them will never be accepted: those in `.keys`, the others were sent.
            OperationalError: the broker refused them; nothing was sent.
        """
        loop = asyncio.get_running_loop()
        seconds = self._timeout if timeout is None else timeout
        deadline = loop.time() + seconds
        waiting: list[asyncio.Future[None]] = []
        try:
            most = max(len(envelopes), 1) if joins or records or key is not None else MAX_GROUP
            for start in range(0, len(envelopes), most):
                part = envelopes if len(envelopes) <= most else envelopes[start : start + most]
                if self._pending >= self._max_pending and not await self._room(deadline):
                    raise PublishTimeout(part[0].message.id, seconds, maybe_sent=bool(waiting))
                if self._closed:
                    raise OperationalError(
                        f"the app's connection was closed: {'not all' if waiting else 'nothing'} was sent"
                    )
                accepted = loop.create_future()
                call = _Call(part, seconds, deadline, accepted, joins, persistence or self._persistence, records, key)
                self._calls.add(call)
                self._pending += len(part)
                waiting.append(call.accepted)
                if deadline < self._looks_at:
                    self._look_by(deadline)
            if len(waiting) == 1:
                await waiting[0]
            elif waiting:
                await self._all_accepted(waiting, seconds)
        except BaseException as exc:
            for accepted in waiting:
                accepted.cancel()  # what was not begun need not be sent
            if isinstance(exc, AioTQError):
                self.counts.failed(exc)
            raise

    async def drained(self) -> None:
        """Return when all that was asked for is sent or failed."""
        await self._calls.drained()

    async def run(self) -> None:
        """Send until cancelled; then callers that still wait get an error."""
        try:
            while True:
                group = await self._calls.take()
                for call in group:
                    self._leave_queue(call)
                await self._deliver([call for call in group if not call.accepted.cancelled()])
        finally:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
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
        self._group = group
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._limit = limit
                await self._attempt()
        except OperationalError as exc:
            parts = _by_queues(self._group)
            if len(parts) > 1:  # what is wrong with one queue is nothing to those who send to others
                await self._deliver_apart(parts)
            else:
                _refuse(self._group, exc)
        except asyncio.CancelledError:
            _refuse(self._group, OperationalError("the app's connection was closed while this was being sent"))
            raise
        except Exception as exc:  # a defect of ours must reach its callers, and not end the publisher
            if limit.expired():  # nobody waits for this group any more
                return
            left = self._group
            logger.exception("sending %d messages failed", len(left))
            if len(left) == 1:
                _refuse(left, exc)
            else:
                await self._deliver_apart([[call] for call in left])  # one bad message fails alone
        finally:
            self._limit = None
            self._cause = None
            self._group = []

    async def _deliver_apart(self, parts: Sequence[list[_Call]]) -> None:
        """Deliver the parts of a group one after the other."""
        others = len(self._behind)
        self._behind.extendleft(reversed(parts))
        while len(self._behind) > others:
            part = self._behind.popleft()
            now = asyncio.get_running_loop().time()
            for call in part:
                if call.deadline <= now:
                    call.expire(None)
            try:
                await self._deliver([call for call in part if not call.accepted.done()])
            except asyncio.CancelledError:
                while len(self._behind) > others:
                    closed = OperationalError("the app's connection was closed while this was being sent")
                    _refuse(self._behind.popleft(), closed)
                raise

    async def _attempt(self) -> None:
        """Send the group until the broker has it; a call whose deadline passes meanwhile fails and is left out."""
        pause = FIRST_PAUSE
        loop = asyncio.get_running_loop()
        later = 0.0  #: loop time of the next attempt
        while self._group:
            group = self._whose_turn(later)
            unsent: list[_Call] = []
            try:
                await self._broker.connected()
                group = self._whose_turn(later)  # without those whose deadline has passed meanwhile
                unsent = [call for call in group if not call.maybe_sent]
                for call in unsent:
                    call.maybe_sent = True
                count, began = _count(group), loop.time()
                await self._send(group)
                self.counts.accepted(count, loop.time() - began)
            except ConnectionLost as exc:
                if isinstance(exc, NotConnected):
                    for call in unsent:
                        call.maybe_sent = False
                if self._cause is None or str(exc) != str(self._cause):
                    logger.warning("sending %d messages failed, trying again: %s", _count(self._group), exc)
                self._cause = exc
                now, wait = loop.time(), pause * random.uniform(0.5, 1.0)
                for call in group:
                    call.failed(exc, now, wait)
            else:
                for call in group:
                    if not call.accepted.done():
                        call.accepted.set_result(None)
                if not later:
                    return
                later = math.inf  # the broker is back: nobody waits for the next attempt any more
            self._group = [call for call in self._group if not call.accepted.done()]
            if self._group and later != math.inf:
                later = min(call.next_at for call in self._group)
                await self._sleep_until(later, pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    def _whose_turn(self, later: float) -> list[_Call]:
        """Return the calls of the group that are to be tried at loop time `later`; 0.0: all."""
        return [call for call in self._group if call.next_at <= later] if later else self._group

    async def _sleep_until(self, when: float, pause: float) -> None:
        """Sleep until loop time `when`; not so long if others wait behind this group, and the broker is back."""
        loop = asyncio.get_running_loop()
        while (left := when - loop.time()) > 0:
            await asyncio.sleep(min(left, pause))
            if self._calls.waiting:
                with suppress(ConnectionLost):
                    await self._broker.connected()
                    return

    async def _send(self, group: Sequence[_Call]) -> None:
        """Send the calls of `group`, each of which fails alone if it is refused for good."""
        workflows = [call for call in group if call.finish is not None]
        if workflows:
            for call, answer in zip(workflows, await apart(workflows, self._commit), strict=True):
                if isinstance(answer, Refused):
                    _refuse([call], answer)
            self._group = [call for call in self._group if call.finish is None]
        plain = [call for call in group if call.finish is None]
        batch = [envelope for call in plain for envelope in call.envelopes]
        if refused := await send_apart(self._broker.send, batch):
            full: Refused | None = None
            for call in plain:
                keys = [key for each in call.envelopes if (key := each.message.key) in refused]
                if keys and refused[keys[0]].reason == "full":
                    full = refused[keys[0]]
                elif keys:
                    _refuse([call], _of_a_call(call, keys, refused[keys[0]]))
                elif not call.accepted.done():
                    call.accepted.set_result(None)
            if full is not None:  # there may be room before the deadline of who waits for it
                raise ConnectionLost(str(full)) from full

    async def _commit(self, workflows: Sequence[_Call]) -> Sequence[object]:
        """Open joins and send the envelopes that come with them; callers are told at once.

        Should the others be sent again, these must not: their first tasks may have ended by then.
        """
        assert self._committer is not None, "a call with joins needs a committer"
        answers = await self._committer.commit([call.finish for call in workflows if call.finish is not None])
        for call, answer in zip(workflows, answers, strict=True):
            if not call.accepted.done():
                if isinstance(answer, Refused):
                    call.accepted.set_exception(answer)
                elif answer is LEASE_LOST:
                    call.accepted.set_exception(KeyTaken())
                else:
                    call.accepted.set_result(None)
        return answers

    def _look_by(self, deadline: float) -> None:
        """Look at deadlines no later than `deadline`."""
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = deadline
        self._timer = asyncio.get_running_loop().call_at(deadline, self._look)

    def _look(self) -> None:
        """Fail the calls whose deadline has passed, in the group that is being sent and behind it."""
        now = asyncio.get_running_loop().time()
        for call in [call for call in self._calls.waiting if call.deadline <= now]:
            self._calls.waiting.remove(call)
            self._leave_queue(call)
            call.expire(self._cause)
        behind = list(itertools.chain.from_iterable(self._behind))
        for call in (*self._group, *behind):
            if call.deadline <= now:
                call.expire(self._cause)
        self._group = [call for call in self._group if not call.accepted.done()]
        behind = [call for call in behind if not call.accepted.done()]
        self._looks_at = math.inf
        if left := [call.deadline for call in (*self._group, *behind, *self._calls.waiting)]:
            self._look_by(min(left))
        if not self._group and self._limit is not None and not self._limit.expired():
            self._limit.reschedule(now)


def _by_queues(group: Sequence[_Call]) -> list[list[_Call]]:
    """Return the calls of `group`, those together that go to the same queues."""
    parts: dict[frozenset[str], list[_Call]] = {}
    for call in group:
        parts.setdefault(frozenset(envelope.queue for envelope in call.envelopes), []).append(call)
    return list(parts.values())


def _of_a_call(call: _Call, keys: Sequence[tuple[str, int]], first: Refused) -> Refused:
    """Return the error for a call of which the messages `keys` were refused, and all others sent."""
    text = f"task {keys[0][0]}: {first}"
    if len(call.envelopes) > 1:
        text = f"{len(keys)} of {len(call.envelopes)} messages were refused, the others were sent; {text}"
    return Refused(text, first.reason, keys)


def _count(group: Sequence[_Call]) -> int:
    return sum(len(call.envelopes) for call in group)


def _refuse(group: list[_Call], error: Exception) -> None:
    for call in group:
        if not call.accepted.done():
            call.accepted.set_exception(error)
