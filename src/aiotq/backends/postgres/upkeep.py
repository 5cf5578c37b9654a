"""What is done now and then by each process: what has expired is deleted, what is watched is renewed."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from ...exceptions import OperationalError
from ...results.fleet import MISSING_KEPT

logger = logging.getLogger("aiotq.postgres")

#: Seconds between purges of what is expired, by each process.
_EVERY: Final = 60.0
#: Rows of each kind that one purge deletes.
_BATCH: Final = 1000
#: Seconds for which the last writes of senders are remembered: longer than any of them tries to find out.
_LINES_KEPT: Final = 86_400.0
_PURGE: Final = b"select aiotq.purge($1::int, $2::float8, $3::float8, $4::float8)"

#: Runs a statement and returns its row.
Row = Callable[..., Awaitable[Any]]


class Upkeep:
    """What is done now and then; `keep` is to be run in a task."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self._others: tuple[Callable[[], Awaitable[None]], ...] = ()
        self.letters_kept = 30 * 86_400.0  #: seconds for which dead letters are kept

    def also(self, work: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        """Have `work` done as well; return what ends it."""
        self._others = (*self._others, work)

        def end() -> None:
            self._others = tuple(each for each in self._others if each != work)

        return end

    async def keep(self) -> None:
        await asyncio.sleep(_EVERY / 10 * random.uniform(0.5, 1.5))
        while True:
            try:
                await self.purge()
                for work in self._others:
                    await work()
            except OperationalError as exc:
                logger.warning("can't delete what has expired, trying again: %s", exc)
            except Exception:  # a defect must not end it
                logger.exception("upkeep failed; it goes on")
            await asyncio.sleep(_EVERY * random.uniform(0.7, 1.3))

    async def purge(self) -> None:
        """Delete all that is expired, a batch at a time."""
        is_more = True
        while is_more:
            values: Sequence[float] = (_BATCH, self.letters_kept, MISSING_KEPT, _LINES_KEPT)
            (is_more,) = await self._row(_PURGE, *values)
