"""The dead letters in SQS: a queue for each name, looked into without taking anything out.

Whoever looks has all of it for a moment, and gives it back, but for what was deleted. Who looks at the same time waits
until the other has looked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from ...core.aio import finish
from ...core.clock import Clock
from ...core.values import value
from ...exceptions import OperationalError
from ...transport.broker import DeadLetter
from ...wire.message import Message
from .connection import AT_ONCE, Arrival, SqsClient
from .messages import letter_from
from .outgoing import Outgoing, Sender, together
from .topology import Topology

#: Seconds for which a letter is kept from others that look, should we die meanwhile.
_LOOK: Final = 30
#: Seconds that one waits for another to have looked.
_PATIENCE: Final = 5.0
_PAUSE: Final = 0.1
#: How often it is looked again for letters that SQS counts and does not give.
_LOOKS: Final = 3
#: Seconds that letting go of what was looked at may take when cancelled.
_LAST_WORDS: Final = 2.0


@value(eq=False)
class _Found:
    """A letter that we look at."""

    letter: DeadLetter
    url: str
    handle: str


class DeadLetters:
    """What stands in the queues of the dead letters; `names` tells for which names there may be some."""

    def __init__(
        self, client: SqsClient, topology: Topology, sender: Sender, clock: Clock, names: Callable[[], Collection[str]]
    ) -> None:
        self._client = client
        self._topology = topology
        self._sender = sender
        self._clock = clock
        self._names = names
        self._looking = asyncio.Lock()

    async def newest(self, queue: str | None, limit: int) -> Sequence[DeadLetter]:
        """Return the newest of `queue`, or of all."""
        async with self._opened(queue) as found:
            return [each.letter for each in found[:limit]]

    async def find(self, key: str) -> DeadLetter | None:
        """Return the one with this key, or the newest of this task."""
        async with self._opened(None) as found:
            letters = [each.letter for each in found]
        chosen = [letter for letter in letters if letter.key == key]
        chosen += [letter for letter in letters if letter.message is not None and letter.message.id == key]
        return chosen[0] if chosen else None

    async def replay(self, keys: Sequence[str], sent_again: Callable[[DeadLetter, Message], Outgoing]) -> int:
        """Send those with these keys, or of these tasks, then delete them; return how many."""
        async with self._opened(None) as found:
            chosen: dict[_Found, Message] = {}
            for key in keys:
                for each in found:
                    message = each.letter.message
                    if message is not None and key in {each.letter.key, message.id} and each not in chosen:
                        chosen[each] = message
                        break
            if chosen:
                again = [sent_again(each.letter, message) for each, message in chosen.items()]
                await self._sender.send(again, self._clock.time())
                await self._delete(found, list(chosen))
            return len(chosen)

    async def purge(self, queue: str | None, before: float | None) -> int:
        """Delete those of `queue` that died before the wall time `before`; return how many."""
        async with self._opened(queue) as found:
            return await self._delete(found, [each for each in found if before is None or each.letter.died_at < before])

    async def remove(self, keys: Collection[str]) -> int:
        """Delete those with these keys; return how many."""
        async with self._opened(None) as found:
            return await self._delete(found, [each for each in found if each.letter.key in keys])

    async def count(self, queue: str) -> int:
        """Return about how many there are of `queue`."""
        url = await self._topology.known(self._topology.dead(queue))
        if url is None:
            return 0
        ready, held, _ = await self._client.counts(url)
        return ready + held

    async def _delete(self, found: list[_Found], chosen: Sequence[_Found]) -> int:
        for url, some in _by_url(chosen):
            await self._client.delete(url, [each.handle for each in some])
        for each in chosen:
            found.remove(each)
        return len(chosen)

    @asynccontextmanager
    async def _opened(self, queue: str | None) -> AsyncGenerator[list[_Found]]:
        """Have all that are there, the newest first, until this is left. What is taken out of the list stays away."""
        names = sorted(self._names()) if queue is None else [queue]
        found: list[_Found] = []
        async with self._looking:
            try:
                await together([self._read(name, found) for name in names])
                found.sort(key=lambda each: each.letter.died_at, reverse=True)
                yield found
            finally:
                with suppress(OperationalError, TimeoutError):  # then they come back by themselves
                    await finish(self._give_back(found), _LAST_WORDS, once_cancelled=True)

    async def _read(self, name: str, found: list[_Found]) -> None:
        url = await self._topology.known(self._topology.dead(name))
        if url is None:
            return
        expected = await self._expected(url)
        own, looks = 0, 0
        while own < expected and looks < _LOOKS:
            arrivals = await self._client.receive(url, AT_ONCE, wait=0 if looks == 0 else 1, hold=_LOOK)
            looks = 0 if arrivals else looks + 1
            own += len(arrivals)
            found += [self._found(name, url, arrival) for arrival in arrivals]

    async def _expected(self, url: str) -> int:
        """Return how many letters there are, once nobody else looks at them."""
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        while True:
            ready, held, _ = await self._client.counts(url)
            if not held or asyncio.get_running_loop().time() > deadline:
                return ready
            await asyncio.sleep(_PAUSE)

    def _found(self, name: str, url: str, arrival: Arrival) -> _Found:
        return _Found(letter_from(arrival.text, name, self._clock.time()), url, arrival.handle)

    async def _give_back(self, found: Sequence[_Found]) -> None:
        await together([self._client.hold(url, [(each.handle, 0) for each in some]) for url, some in _by_url(found)])


def _by_url(found: Sequence[_Found]) -> Sequence[tuple[str, Sequence[_Found]]]:
    """Return `found` in parts of as many as fit into one request."""
    by_url: dict[str, list[_Found]] = {}
    for each in found:
        by_url.setdefault(each.url, []).append(each)
    return [(url, some[at : at + AT_ONCE]) for url, some in by_url.items() for at in range(0, len(some), AT_ONCE)]
