"""Calls with ids that their callers gave: which of them repeat a call, and which begin anew under an id that was used.

As long as a call has not ended, another one with its id is the same call. One that has ended leaves a record, which
nothing replaces: before its id is used again the record is forgotten, and the new call's attempts are numbered apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from ..core.values import value
from ..results import RecordStore
from ..states import is_ready
from ..wire.message import Envelope, attempt_apart

#: Calls whose sending failed, of which is remembered that they may have been sent.
_MOST_UNSURE: Final = 1000


@value
class Seen:
    """Answers about calls with given ids: the attempts at which they begin, if not 0, and which have run already."""

    attempts: Mapping[str, int]
    ran: Collection[str] = ()


NONE_SEEN: Final = Seen({})


class GivenIds:
    """Remembers the calls with given ids of which one connection does not know whether they were sent."""

    def __init__(self, records: RecordStore) -> None:
        self._records = records
        self._unsure: dict[str, int] = {}  #: attempts by id, the oldest first

    def looking(self, ids: Collection[str]) -> Look:
        """Return what looks for calls with these ids."""
        unsure = {task_id: self._unsure[task_id] for task_id in ids if task_id in self._unsure}
        return Look(self._records, ids, unsure)

    def note(self, calls: Iterable[Envelope], *, sent: bool) -> None:
        """Note that these calls were sent, or that they may have been: the next ones with their ids are the same."""
        for call in calls:
            self._unsure.pop(call.message.id, None)
            if not sent:
                self._unsure[call.message.id] = call.message.attempt
                if len(self._unsure) > _MOST_UNSURE:
                    del self._unsure[next(iter(self._unsure))]


class Look:
    """One look for calls with given ids, which may be repeated when no answer came: it remembers what it forgets."""

    def __init__(self, records: RecordStore, ids: Collection[str], unsure: Mapping[str, int]) -> None:
        self._records = records
        self._ids = list(ids)
        self._unsure = unsure
        self._anew: dict[str, int] = {}

    async def __call__(self) -> Seen:
        """Return what is there, and forget the records of calls that begin anew.

        Raises:
            OperationalError: the store did not answer.
        """
        found = await self._records.get(self._ids)
        ended = {record.id for record in found if record is not None and is_ready(record.state)}
        ran = ended & self._unsure.keys()
        for task_id in ended - ran:
            self._anew.setdefault(task_id, attempt_apart())
        if self._anew:
            await self._records.forget(list(self._anew))
        return Seen({**self._unsure, **self._anew}, ran)
