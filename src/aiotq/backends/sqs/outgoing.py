"""Sending to SQS: ten messages a request, all queues at once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from ...core.values import value
from ...exceptions import ConnectionLost, Refused
from ...wire.message import new_id
from .connection import AT_ONCE, Failure, MissingQueue, SqsClient
from .messages import LARGEST
from .topology import Topology

T = TypeVar("T")

#: Seconds that SQS keeps a message back, at most: what is due later comes early, and is sent once more.
LONGEST_DELAY: Final = 900


@value(eq=False)
class Outgoing:
    """A text on its way to the queue `place`. `due` is wall time, `group` the one it has on a FIFO queue."""

    place: str
    text: str
    due: float | None = None
    group: str | None = None

    def entry(self, now: float) -> dict[str, Any]:
        """Return it as SQS is told of it."""
        entry: dict[str, Any] = {"MessageBody": self.text}
        if self.due is not None and (delay := min(math.floor(self.due - now), LONGEST_DELAY)) > 0:
            entry["DelaySeconds"] = delay
        if self.group is not None:
            # A number of its own for each time that it is sent: SQS would drop what is sent again within five minutes,
            # whether it is there still or was done meanwhile.
            entry |= {"MessageGroupId": self.group, "MessageDeduplicationId": new_id()}
        return entry


class NotTaken(Refused):
    """SQS refuses some messages, `.refused`; all others that were sent with them are in."""

    def __init__(self, refused: Collection[Outgoing], failure: Failure) -> None:
        places = ", ".join(sorted({repr(each.place) for each in refused}))
        super().__init__(f"SQS does not take what goes to {places}: {failure.code}: {failure.text}", "refused")
        self.refused = frozenset(refused)


class Sender:
    """Sends texts to queues, which are made if they are missing."""

    def __init__(self, client: SqsClient, topology: Topology) -> None:
        self._client = client
        self._topology = topology

    async def send(self, outgoing: Sequence[Outgoing], now: float) -> None:
        """Send; on return all are in SQS.

        Raises:
            NotTaken: some will never be taken, the others are in.
            ConnectionLost, OperationalError: some may be in.
        """
        by_place: dict[str, list[Outgoing]] = {}
        for each in outgoing:
            by_place.setdefault(each.place, []).append(each)
        failed: dict[Outgoing, Failure] = {}
        for found in await together([self._to(place, some, now) for place, some in by_place.items()]):
            failed |= found
        lost = next((failure for failure in failed.values() if not failure.is_ours), None)
        if lost is not None:
            raise ConnectionLost(f"{self._client.address.shown}: SQS took not all messages: {lost.code}: {lost.text}")
        if failed:
            raise NotTaken(failed, next(iter(failed.values())))

    async def _to(self, place: str, outgoing: Sequence[Outgoing], now: float) -> dict[Outgoing, Failure]:
        """Send to one queue; one request after another where it has an order."""
        parts = list(_in_requests(outgoing))
        if outgoing[0].group is None:
            answers = await together([self._request(place, part, now) for part in parts])
        else:
            answers = [await self._request(place, part, now) for part in parts]
        return {each: failure for answer in answers for each, failure in answer.items()}

    async def _request(self, place: str, part: Sequence[Outgoing], now: float) -> Mapping[Outgoing, Failure]:
        entries = [each.entry(now) for each in part]
        try:
            failed = await self._client.send(await self._topology.url(place), entries)
        except MissingQueue:
            self._topology.forget(place)  # it was deleted
            failed = await self._client.send(await self._topology.url(place), entries)
        return {part[number]: failure for number, failure in failed.items()}


def _in_requests(outgoing: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    """Yield as many as fit into one request."""
    part: list[Outgoing] = []
    size = 0
    for each in outgoing:
        length = len(each.text.encode())
        if part and (len(part) == AT_ONCE or size + length > LARGEST):
            yield part
            part, size = [], 0
        part.append(each)
        size += length
    if part:
        yield part


async def together(requests: Sequence[Awaitable[T]]) -> list[T]:
    """Await all `requests`, each to its end; raise the first error that there was."""
    answers = await asyncio.gather(*requests, return_exceptions=True)
    found: list[T] = []
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
        found.append(answer)
    return found
