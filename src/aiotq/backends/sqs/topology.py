"""The queues of a name in SQS: what they are called, and that they are there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from .connection import MissingQueue, SqsClient
from .messages import LARGEST

#: Characters of a queue's name, with everything behind it. Source: Amazon SQS, "Queue quotas".
_LONGEST: Final = 80
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]+")
_DEAD: Final = "-dead"
#: Where what is due later waits beside a FIFO queue, which can't delay single messages.
_LATER: Final = "-later"
_FIFO: Final = ".fifo"
#: With priorities: the lowest priority of each class, and what its queue's name ends with.
_CLASSES: Final = {9: "-p9", 6: "-p6", 3: "", 0: "-p0"}
_ENDINGS: Final = (_DEAD, _LATER, *filter(None, _CLASSES.values()))
#: The longest name of ours that fits with the longest ending.
LONGEST_NAME: Final = _LONGEST - max(map(len, (*_ENDINGS, _FIFO)))
#: Seconds that SQS keeps a message, at most.
LONGEST_RETENTION: Final = 14 * 86_400
_SHORTEST_RETENTION: Final = 60


def name_problem(name: str, prefix: str = "") -> str | None:
    """Return why no queue of tasks can be called `name`; None: one can."""
    if not _NAME.fullmatch(name):
        return "on SQS the name of a queue has letters (a to z), digits, - and _ alone"
    if len(prefix) + len(name) > LONGEST_NAME:
        return f"on SQS a name has at most {LONGEST_NAME - len(prefix)} characters"
    for ending in _ENDINGS:
        if name.endswith(ending):
            return f"on SQS names that end with {ending!r} are not to be used: aiotq makes such queues"
    return None


class Topology:
    """Which queues there are for a name, and their URLs. Each is made when it is first needed, if it is missing."""

    def __init__(self, client: SqsClient, dead_letter_retention: float) -> None:
        self._client = client
        self._address = client.address
        self._retention = min(max(round(dead_letter_retention), _SHORTEST_RETENTION), LONGEST_RETENTION)
        self.urls: dict[str, str] = {}

    def places(self, name: str) -> Sequence[str]:
        """Return the queues that messages for `name` come from."""
        whole = self._address.prefix + name
        if self._address.is_fifo:
            return whole + _FIFO, whole + _LATER
        return [whole + ending for ending in _CLASSES.values()] if self._address.has_priorities else [whole]

    def place(self, name: str, priority: int, *, is_delayed: bool) -> str:
        """Return the queue that a message for `name` goes to."""
        whole = self._address.prefix + name
        if self._address.is_fifo:
            return whole + (_LATER if is_delayed else _FIFO)
        if self._address.has_priorities:
            return whole + next(ending for lowest, ending in _CLASSES.items() if lowest <= priority)
        return whole

    def dead(self, name: str) -> str:
        """Return the queue with the dead letters of `name`."""
        return self._address.prefix + name + _DEAD

    async def url(self, place: str) -> str:
        """Return the URL of a queue, which is made if it is missing."""
        if place not in self.urls:
            try:
                self.urls[place] = await self._client.url_of(place)
            except MissingQueue:
                self.urls[place] = await self._client.create(place, self._attributes(place))
        return self.urls[place]

    async def known(self, place: str) -> str | None:
        """Return the URL of a queue; None if there is none."""
        try:
            return self.urls.get(place) or await self._client.url_of(place)
        except MissingQueue:
            return None

    def forget(self, place: str) -> None:
        """Look for this queue again, and make it, when it is needed: it was deleted."""
        self.urls.pop(place, None)

    def _attributes(self, place: str) -> dict[str, str]:
        retention = self._retention if place.endswith(_DEAD) else LONGEST_RETENTION
        attributes = {"MessageRetentionPeriod": str(retention), "MaximumMessageSize": str(LARGEST)}
        if place.endswith(_FIFO):
            attributes |= {
                "FifoQueue": "true",
                "DeduplicationScope": "messageGroup",
                "FifoThroughputLimit": "perMessageGroupId",
            }
        return attributes
