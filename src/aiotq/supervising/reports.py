"""How the processes of all workers are, asked over a socket each: a line of JSON is a question, and one its answer.

What a process had counted stays when it has ended: a sum that falls would look like a new beginning.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ..core.values import value
from .sums import Family, added, heard, latest

logger = logging.getLogger("aiotq.workers")

LIVE: Final = "live"
READY: Final = "ready"
METRICS: Final = "metrics"
#: The number of what a process tells unasked when it ends: what it has counted.
LAST: Final = 0

#: Bytes of an answer: a thousand tasks with their histograms are 4 MB.
_MOST: Final = 64 * 1024 * 1024
#: Seconds that a process has to answer: for `metrics` it may ask its broker, for 3 s.
_PATIENCE: Final[Mapping[str, float]] = {LIVE: 2.0, READY: 2.0, METRICS: 4.0}
#: Seconds for which a process that says nothing is taken to live: another one may have been starting.
_SILENT: Final = 30.0


@value
class Place:
    """A worker that is kept running, and the process that does its work now, if one does."""

    name: str
    process: str | None


class Reports:
    """Asks; `places` says which workers there are to be."""

    def __init__(self, places: Callable[[], Sequence[Place]]) -> None:
        self._places = places
        self._lines: dict[str, _Line] = {}
        self._ended: list[Family] = []

    async def follow(self, name: str, ours: socket.socket) -> None:
        """Hear the process `name` until it ends."""
        line = self._lines[name] = _Line()
        try:
            await line.hear(ours)
        finally:
            del self._lines[name]
            self._ended = added([*self._ended, *line.counted])

    async def live(self) -> list[dict[str, Any]]:
        """Return what `/live` looks at: no process hangs. One that has ended is replaced, which is as it should be."""
        return await self._checks(LIVE, tuple(self._lines))

    async def ready(self) -> list[dict[str, Any]]:
        """Return what `/ready` looks at: each worker has a process that takes tasks."""
        places = self._places()
        found = await self._checks(READY, [each.process for each in places if each.process is not None])
        absent = [each.name for each in places if each.process is None]
        return [*found, *(_check(f"worker {name}", False, "it starts, or has stopped") for name in absent)]

    async def families(self) -> list[Family]:
        """Return what `/metrics` tells; of a process that does not answer what it told before."""
        lines = tuple(self._lines.values())
        ended = self._ended
        answers = await asyncio.gather(*(line.ask(METRICS) for line in lines))
        told = [
            each
            for line, answer in zip(lines, answers, strict=True)
            for each in (line.counted if answer is None else map(heard, answer))
        ]
        return added([*ended, *told])

    async def _checks(self, what: str, names: Sequence[str]) -> list[dict[str, Any]]:
        lines = {name: self._lines.get(name) for name in names}
        answers = await asyncio.gather(*(_asked(line, what) for line in lines.values()))
        found: list[dict[str, Any]] = []
        for (name, line), answer in zip(lines.items(), answers, strict=True):
            if answer is not None:
                found += answer
            elif line is not None:
                is_well = what == LIVE and line.silence < _SILENT
                found.append(
                    _check(f"worker {name}", is_well, f"its process has said nothing for {line.silence:.0f} s")
                )
            else:
                found.append(_check(f"worker {name}", what == LIVE, "its process has ended"))
        return found


async def _asked(line: _Line | None, what: str) -> Any:
    return None if line is None else await line.ask(what)


def _check(name: str, is_well: bool, said: str) -> dict[str, Any]:
    return {"name": name, "ok": is_well, "said": said}


class _Line:
    """The way to one process."""

    def __init__(self) -> None:
        self._writer: asyncio.StreamWriter | None = None
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._count = LAST
        self._heard_at = asyncio.get_running_loop().time()
        self.counted: list[Family] = []  #: as far as it has told

    @property
    def silence(self) -> float:
        """Seconds since it said anything."""
        return asyncio.get_running_loop().time() - self._heard_at

    async def hear(self, ours: socket.socket) -> None:
        """Read answers until there are no more."""
        reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=_MOST)
        try:
            while text := await reader.readline():
                self._heard_at = asyncio.get_running_loop().time()
                number, what, answer = json.loads(text)
                if what == METRICS:
                    self.counted = latest([*self.counted, *map(heard, answer)])
                waiting = self._asked.get(number)
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        except (OSError, ValueError) as exc:  # ValueError: an answer that is too long
            logger.warning("a worker does not tell how it is: %s", exc)
        finally:
            self._writer.close()
            for each in self._asked.values():
                each.cancel()

    async def ask(self, what: str) -> Any:
        """Return the answer of the process; None: there is none in time."""
        if self._writer is None or self._writer.is_closing():
            return None
        self._count += 1
        number, answer = self._count, asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._writer.write(json.dumps([number, what]).encode() + b"\n")
            await asyncio.wait({answer}, timeout=_PATIENCE[what])
            return answer.result() if answer.done() and not answer.cancelled() else None
        finally:
            del self._asked[number]
