"""Asks workers something: one message to all of them, and an end as soon as all that are registered have answered (P7).

Nothing is left behind: the answers come to this process's own address on the bus, and are heard no longer than that.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, cast

import orjson

from ..calling.core import AppCore
from ..exceptions import BadSignature, InvalidOption, MalformedMessage, Unsigned
from ..results import Ledger
from ..wire.message import is_name, new_id
from ..wire.signing import Signer
from .bus import Bus
from .celery_mail import theirs
from .fleet import FleetMember, read_member
from .messages import ANSWERS, COMMANDS, MAX_ANSWER, AnswerPart, Command, is_meant, pack_command, unpack_answer

#: Seconds that workers have to answer, unless told otherwise.
TIMEOUT: Final = 1.0
#: What can be answered from the row of a worker whose loop is blocked.
_ANSWERED_BY_THREAD: Final = frozenset({"ping", "stacks"})
#: The part of the timeout after which those that have not answered are asked again: the bus may drop a message.
_AGAIN: Final = 0.3
#: Answers of Celery's workers that are gathered, at most.
_MOST_THEIRS: Final = 10_000
#: Bytes of answers that are gathered for one question, at most: further answers are dropped.
_MOST_GATHERED: Final = 256 * 1024 * 1024


class Answers(dict[str, Any]):
    """The answers of workers, by their names; an error is `{"error": "…"}`, as in Celery.

    Where two workers have one name, the second goes by its key in the registry.
    """

    def __init__(self) -> None:
        super().__init__()
        #: Names of registered workers that did not answer in time.
        self.silent: tuple[str, ...] = ()
        #: Workers whose event loop is blocked, and by what, since when.
        self.blocked: dict[str, str] = {}
        #: Whether there is a registry that says who should answer.
        self.is_complete_known = False
        #: Messages that were no answers, or not signed as they must be.
        self.refused = 0

    @property
    def failed(self) -> Mapping[str, str]:
        """The workers that answered with an error, and which."""
        return {
            name: str(cast("dict[str, Any]", answer)["error"])
            for name, answer in self.items()
            if isinstance(answer, dict) and set(cast("dict[str, Any]", answer)) == {"error"}
        }


async def registered(ledger: Ledger) -> list[FleetMember]:
    """Return the fleet registry; rows that can't be read are left out."""
    members: list[FleetMember] = []
    for presence in await ledger.fleet():
        with suppress(MalformedMessage):  # of a version to come, perhaps
            members.append(read_member(presence))
    return members


async def ask(
    core: AppCore,
    name: str,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    destination: Sequence[str] | str | None = None,
    timeout: float = TIMEOUT,
    members: Sequence[FleetMember] | None = None,
) -> Answers:
    """Return what the workers in `destination` (names and globs; None: all) answer in `timeout` seconds.

    `members` is the fleet registry, of whoever has just read it.

    Raises:
        InvalidOption: the name, the destination or the timeout is impossible.
        CallError: the arguments have no form in JSON.
        OperationalError: broker or store can't be reached.
    """
    names = _checked(name, destination, timeout)
    connection = await core.connection()
    ledger, bus = connection.ledger, connection.bus
    expected = await _expected(ledger, names, members)
    gathering = _Gathering(new_id(), core.signer, expected)
    command = Command(gathering.command_id, name, args, kwargs or {}, names, bus.address, core.clock.time())
    packed = pack_command(command, core.signer)
    others = connection.celery if core.signer is None else None
    asked = theirs(name, args, kwargs or {})
    if others is not None and asked is not None and not set(names or ("",)) <= set((expected or {}).values()):
        async with others.asking(name, asked, names, gathering.heard_theirs):
            await _ask_ours(ledger, bus, gathering, packed, timeout, is_all=False)
    elif expected is None or expected:
        await _ask_ours(ledger, bus, gathering, packed, timeout, is_all=True)
    if gathering.missing:
        _explain(gathering, name, await registered(ledger) if members is None else members, core.clock.time())
    return gathering.answers


async def _ask_ours(
    ledger: Ledger, bus: Bus, gathering: _Gathering, packed: bytes, timeout: float, *, is_all: bool
) -> None:
    """Ask the workers that hear the bus; unless they are all there are, wait for others until the end."""
    end = bus.hear(ANSWERS, gathering.heard)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await bus.tell_all(COMMANDS, packed)
                while not await gathering.completed(_AGAIN * timeout if gathering.missing else timeout):
                    await bus.tell_all(COMMANDS, packed)
                if not is_all:
                    await asyncio.sleep(timeout)
    finally:
        end()


class _Gathering:
    """The answers to one command; it is complete when all that are expected have answered (None: that is not known)."""

    def __init__(self, command_id: str, signer: Signer | None, expected: Mapping[str, str] | None) -> None:
        self.command_id = command_id
        self.answers = Answers()
        self.answers.is_complete_known = expected is not None
        self.is_complete = asyncio.Event()
        self.missing = dict(expected or {})  #: keys of workers, with their names
        self._signer = signer
        self._parts: dict[str, dict[int, AnswerPart]] = {}
        self._done: set[str] = set()
        self._bytes = 0

    def heard_theirs(self, answers: Mapping[str, Any]) -> None:
        """Take what Celery's workers answer; a name that one of ours has is ours."""
        for name, answer in answers.items():
            if len(self.answers) < _MOST_THEIRS:
                self.answers.setdefault(name, answer)

    async def completed(self, seconds: float) -> bool:
        """Wait for the rest, at most so long; return whether it came."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.is_complete.wait()
        return self.is_complete.is_set()

    def heard(self, payload: bytes) -> None:
        """Take what came under the topic; what is for others, late or comes twice is nothing to us."""
        try:
            part = unpack_answer(payload, self._signer)
        except (MalformedMessage, Unsigned, BadSignature):
            self.answers.refused += 1
            return
        if part.command_id != self.command_id or part.key in self._done:
            return
        parts = self._parts.setdefault(part.key, {})
        if self._bytes + len(part.data) > _MOST_GATHERED or part.number in parts:
            return
        parts[part.number] = part
        self._bytes += len(part.data)
        if len(parts) == part.count:
            del self._parts[part.key]
            self._take(part, b"".join(parts[number].data for number in sorted(parts)))

    def _take(self, part: AnswerPart, data: bytes) -> None:
        self._bytes -= len(data)
        if len(data) > MAX_ANSWER:
            return
        try:
            answer = orjson.loads(data)
        except orjson.JSONDecodeError:
            self.answers.refused += 1
            return
        self._done.add(part.key)
        name = part.worker if part.worker not in self.answers else part.key
        self.answers[name] = {"error": answer} if part.is_error else answer
        self.missing.pop(part.key, None)
        if self.answers.is_complete_known and not self.missing:
            self.is_complete.set()


async def _expected(
    ledger: Ledger, names: Sequence[str] | None, members: Sequence[FleetMember] | None
) -> Mapping[str, str] | None:
    """Return the keys and names of the registered workers that are meant; None: there is no registry."""
    if not ledger.has_fleet:
        return None
    return {
        each.key: each.name
        for each in (await registered(ledger) if members is None else members)
        if each.kind == "worker" and not each.is_missing and is_meant(each.name, names)
    }


def _explain(gathering: _Gathering, command: str, members: Sequence[FleetMember], now: float) -> None:
    """Say of those that did not answer whether they have stopped meanwhile, or what blocks them.

    The thread that renews a worker's leases says where a blocked loop stands: that is an answer to some commands.
    """
    answers = gathering.answers
    there = {each.key: each for each in members}
    silent: list[str] = []
    for key, name in gathering.missing.items():
        member = there.get(key)
        if member is None:
            continue  # it has said good-bye
        if member.blocked is not None:
            answers.blocked[name] = _as_blocked(member, now)
            if command in _ANSWERED_BY_THREAD:
                answers[name] = _of_blocked(command, member, now)
                continue
        silent.append(name)
    answers.silent = tuple(sorted(silent))


def _checked(name: str, destination: Sequence[str] | str | None, timeout: float) -> Sequence[str] | None:
    if not is_name(name):
        raise InvalidOption(f"a command's name is text, not {name!r}")
    if not 0 < timeout < math.inf:
        raise InvalidOption(f"{name}: timeout must be seconds, more than 0, not {timeout!r}")
    if destination is None:
        return None
    names = [destination] if isinstance(destination, str) else list(destination)
    if not names or not all(is_name(each) for each in cast("Collection[object]", names)):
        raise InvalidOption(f"{name}: destination is a list of workers' names, or globs of them: {destination!r}")
    return names


def _as_blocked(member: FleetMember, now: float) -> str:
    since = now - (member.blocked_since if member.blocked_since is not None else now)
    return f"its event loop has been blocked for {since:.1f} s by {member.blocked}"


def _of_blocked(command: str, member: FleetMember, now: float) -> object:
    text = _as_blocked(member, now)
    if command == "ping":
        return {"ok": "pong", "blocked": text}
    return {"ok": f"{text}\n{member.blocked_stack}"}
