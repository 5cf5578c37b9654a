"""Obeys commands that come over the bus, and answers each once (P10).

What comes too fast, can't be read, is not signed as it must be, is too old or comes twice is counted and dropped.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..control.bus import Bus
from ..control.commands import Steered, builtin_commands
from ..control.declared import DeclaredCommand
from ..control.messages import (
    ANSWERS,
    COMMANDS,
    MAX_ANSWER,
    STALE,
    Command,
    as_json,
    is_meant,
    pack_answer,
    unpack_command,
)
from ..core.aio import finish
from ..exceptions import AioTQError, BadSignature, CallError, MalformedMessage, OperationalError, Unsigned
from ..wire.signing import Signer

logger = logging.getLogger("aiotq.control")

#: Commands that wait for their turn, at most; more are dropped.
_MOST_WAITING: Final = 1_000
#: Commands that are obeyed at once: one of a user's that takes its time does not hold up the others.
_AT_ONCE: Final = 8
#: Commands that are remembered, to know one that comes twice, and bytes of an answer that is kept for that.
_MOST_KNOWN: Final = 1_000
_MOST_KEPT: Final = 16_384
#: Seconds that a user's command may take, and that an answer may take to be sent.
LONGEST: Final = 60.0
_SENDING: Final = 5.0


class Obeying:
    """Hears commands on `bus` while `run` lasts, and has `worker` obey those that are meant for it."""

    def __init__(
        self, bus: Bus, worker: Steered, own: Mapping[str, DeclaredCommand], *, key: str, signer: Signer | None
    ) -> None:
        self._bus = bus
        self._worker = worker
        self._commands = {**builtin_commands(), **own}
        self._key = key
        self._signer = signer
        self._counts = worker.commands
        self._waiting: asyncio.Queue[Command] = asyncio.Queue(_MOST_WAITING)
        #: Commands by their ids, with what was answered: who asks again had no answer.
        self._known: OrderedDict[str, Sequence[bytes]] = OrderedDict()

    async def run(self) -> None:
        """Obey until cancelled."""
        end = self._bus.hear(COMMANDS, self._heard)
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(_AT_ONCE):
                    group.create_task(self._obey_all(), name=f"aiotq.control.{number}")
        finally:
            end()

    def _heard(self, payload: bytes) -> None:
        """Called in the loop with what came; it returns at once."""
        try:
            command = unpack_command(payload, self._signer)
        except (Unsigned, BadSignature) as exc:
            self._drop("refused", exc)
            return
        except MalformedMessage as exc:
            self._drop("malformed", exc)
            return
        if not is_meant(self._worker.name, command.destination):
            return
        if abs(self._worker.core.clock.time() - command.sent_at) > STALE:
            self._drop("stale", f"{command.name!r} was sent more than {STALE:g} s ago: do the clocks agree?")
        elif command.id in self._known:
            self._count("repeated")
            if self._known[command.id] and not self._waiting.full():
                self._waiting.put_nowait(command)
        elif self._waiting.full():
            self._drop("dropped", f"{_MOST_WAITING} commands wait")
        else:
            self._known[command.id] = ()
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
            self._waiting.put_nowait(command)

    def _drop(self, why: str, what: object) -> None:
        self._count(why)
        if self._counts[why] == 1:
            logger.warning("a command was not obeyed (further ones are counted: %s): %s", why, what)

    def _count(self, what: str) -> None:
        self._counts[what] = self._counts.get(what, 0) + 1

    async def _obey_all(self) -> None:
        while True:
            command = await self._waiting.get()
            try:
                await self._obey(command)
            except OperationalError as exc:  # who asked learns that no answer came
                logger.debug("the answer to %s could not be sent: %s", command.name, exc)
            except Exception:  # a defect must not end the worker
                logger.exception("command %s failed", command.name)

    async def _obey(self, command: Command) -> None:
        """Answer a command; one that came before is not obeyed again, and answered as then."""
        if command.reply_to is not None and (before := self._known.get(command.id)):
            await self._tell(command.reply_to, before)
            return
        is_error = False
        try:
            answer = as_json(await self.call(command.name, command.args, command.kwargs))
            if len(answer) > MAX_ANSWER:
                raise CallError(f"{command.name}: the answer has {len(answer)} bytes, and {MAX_ANSWER} can be sent")
            self._count("obeyed")
        except AioTQError as exc:
            is_error, answer = True, as_json(str(exc))
        except TimeoutError:
            is_error, answer = True, as_json(f"{command.name} took longer than {LONGEST:g} s")
        except Exception as exc:
            logger.exception("command %s failed", command.name)
            is_error, answer = True, as_json(f"{type(exc).__name__}: {exc}")
        if is_error:
            self._count("failed")
        if command.reply_to is None:
            return
        parts = list(
            pack_answer(command.id, self._worker.name, self._key, answer, is_error=is_error, signer=self._signer)
        )
        try:
            await finish(self._tell(command.reply_to, parts), _SENDING)  # a worker that is told to stop answers first
        except TimeoutError:
            logger.debug("the answer to %s could not be sent in %g s", command.name, _SENDING)
        if len(answer) <= _MOST_KEPT and command.id in self._known:
            self._known[command.id] = parts

    async def _tell(self, address: str, parts: Sequence[bytes]) -> None:
        for part in parts:
            await self._bus.tell(address, ANSWERS, part)

    async def call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return what a command answers; raises what it raises."""
        known = self._commands.get(name)
        if known is None:
            raise CallError(f"no command {name!r} here: there are {', '.join(sorted(self._commands))}")
        if known.kind == "control":
            logger.info("command %s%s", name, (*args, *kwargs.items()) or "")
        args, kwargs = known.bound(args, kwargs)
        worker = self._worker if known.function.__module__ == builtin_commands.__module__ else self._worker.user_facing
        async with asyncio.timeout(LONGEST):
            answer = known.function(worker, *args, **kwargs)
            return await answer if inspect.isawaitable(answer) else answer
