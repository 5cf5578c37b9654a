"""Faults between a worker, its broker and its store: what is asked is not done, or not answered, or done twice."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, Final, TypeVar

from aiotq.calling.connection import Connection
from aiotq.exceptions import ConnectionLost
from aiotq.transport import Consumer, Delivery
from aiotq.wire.message import Envelope

T = TypeVar("T")

#: What workers and publishers ask of a ledger; who waits for results is not disturbed.
_OF_LEDGER: Final = ("claim", "close", "joined", "open_joins", "revoked")
_OF_COMMITTER: Final = ("commit", "admit")


class Faults:
    """Disturbs a connection, one call in `one_in` before it is done and as many after.

    With `repeats`, messages that were sent are now and then sent once more, later, as a broker may that can't fence.
    """

    def __init__(self, seed: int, *, one_in: int, repeats: bool = False) -> None:
        self._random = Random(seed)
        self._one_in = one_in
        self._repeats = repeats
        self._sent: list[Envelope] = []
        self.count = 0

    def disturb(self, connection: Connection) -> None:
        """Disturb all that is asked through `connection` from now on; workers start later."""
        for name in _OF_LEDGER:
            self._replace(connection.ledger, name)
        self._replace(connection.records, "put")
        if self._repeats:
            self._repeat(connection)
        # Where nothing claims a message before it runs, only the client below knows what it sends a second time.
        self._replace(connection.broker, "send", is_answered=not self._repeats)
        self._replace(connection.broker, "settle")
        self._replace(connection.publisher._committer, "commit", is_answered=not self._repeats)
        committer = connection.committer

        def disturbed(consumer: Consumer, holder: str, lease: float) -> Any:
            made = committer(consumer, holder, lease)
            for name in _OF_COMMITTER:
                self._replace(made, name)
            self._reorder(consumer)
            return made

        _set(connection, "committer", disturbed)

    def _replace(self, where: Any, name: str, *, is_answered: bool = False) -> None:
        _set(where, name, self._faulty(getattr(where, name), is_answered=is_answered))

    def _faulty(self, call: Callable[..., Awaitable[T]], *, is_answered: bool) -> Callable[..., Awaitable[T]]:
        @functools.wraps(call)
        async def faulty(*args: Any, **kwargs: Any) -> T:
            self._perhaps("before it was done")
            answer = await call(*args, **kwargs)
            if not is_answered:
                self._perhaps("and its answer with it")
            return answer

        return faulty

    def _perhaps(self, when: str) -> None:
        if self._random.randrange(self._one_in) == 0:
            self.count += 1
            raise ConnectionLost(f"the connection was lost {when}")

    def _repeat(self, connection: Connection) -> None:
        send = connection.broker.send

        async def repeat(batch: Sequence[Envelope]) -> None:
            self._sent += self._random.sample(list(batch), k=len(batch) // 3)
            await send(batch)
            if self._sent and self._random.randrange(4) == 0:
                self.count += 1
                again, self._sent = self._sent, []
                await send(again)

        _set(connection.broker, "send", repeat)

    def _reorder(self, consumer: Consumer) -> None:
        receive = consumer.receive

        async def reordered(limit: int, *, suspect: bool, wait: float) -> Sequence[Delivery]:
            self._perhaps("before anything was read")
            deliveries = list(await receive(limit, suspect=suspect, wait=wait))
            self._random.shuffle(deliveries)
            return deliveries

        _set(consumer, "receive", reordered)


def _set(where: object, name: str, what: object) -> None:
    setattr(where, name, what)
