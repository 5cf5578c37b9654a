"""Sends calls that have a key: each is sent in one step with the row of its key, or is the call that has it already.

Whoever dies between the two, where they are not one system, leaves the message in the row, and who finds it there sends
it. See `docs/decisions/0132-keys-of-calls.md`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from ..core.values import replace, value
from ..exceptions import ConnectionLost, DuplicateCall, InvalidOption, PublishTimeout, StoreRequired
from ..results import ScheduleChange, ScheduleRow, key_change
from ..results.handle import AsyncResult
from ..results.keys import HEADER, KEPT, KEPT_FOR_LATER, Held, Key, held_of
from ..results.record_names import flow_row
from ..states import is_ready
from ..tasks.durable import FlowTask
from ..tasks.keys import KEYED, By, Debounce, Throttle, Unique, digest, key_value
from ..tasks.options import CallOptions, check_options
from ..tasks.task import Task
from ..wire.message import Envelope
from .connection import Connection
from .middleware import OutgoingCall
from .persistence import persistently
from .publisher import KeyTaken

if TYPE_CHECKING:
    from .core import AppCore

#: Options that say when a call runs, or how it is known: a debounced call says that itself.
_NOT_DEBOUNCED: Final = ("countdown", "eta", "task_id")

#: The change of a key's row that goes with the envelope of a call.
Change = Callable[[Envelope], ScheduleChange]


class Sender(Protocol):
    """Sends calls, one of them with the change of a row."""

    async def __call__(self, calls: Sequence[OutgoingCall], change: Change | None = None) -> Sequence[Envelope]:
        """Return the envelopes that were sent.

        Raises:
            KeyTaken: the change was refused; nothing was sent.
        """
        ...


@value
class _Rule:
    """What is to be done with a call that has a key."""

    key: Key
    on_conflict: str = "return"
    seconds: float = 0.0  #: of a debounced call
    max_wait: float | None = None


#: A call with its place among those that are sent together, and what is to be done with it.
_Numbered = tuple[int, OutgoingCall, "_Rule | FlowTask[..., Any]"]


class KeyedCalls:
    """Sends the keyed calls of one app in the running loop."""

    def __init__(self, core: AppCore, send: Sender, handle: Callable[[Envelope], AsyncResult[Any]]) -> None:
        self._core = core
        self._send = send
        self._handle = handle

    async def send(self, calls: Sequence[OutgoingCall]) -> Sequence[AsyncResult[Any]]:
        """Send calls, some of which may have keys: those of one key in their order, so that the last of a burst counts.

        Raises:
            InvalidOption: its key can't be made.
            DuplicateCall: its key is taken, and it says so.
            StoreRequired: nothing keeps keys for all.
            Others as a call without a key.
        """
        rules = [self._rule(call) or self._flow(call) for call in calls]
        plain = [call for call, rule in zip(calls, rules, strict=True) if rule is None]
        sent = iter(await self._send(plain) if plain else ())
        of_key: dict[str, list[_Numbered]] = {}
        for place, (call, rule) in enumerate(zip(calls, rules, strict=True)):
            if rule is not None:
                name = rule.key.name if isinstance(rule, _Rule) else f"{place}"
                of_key.setdefault(name, []).append((place, call, rule))
        keyed = await self._beside_each_other(list(of_key.values()))
        return [self._handle(next(sent)) if rule is None else keyed[place] for place, rule in enumerate(rules)]

    async def _beside_each_other(self, groups: Sequence[Sequence[_Numbered]]) -> Mapping[int, AsyncResult[Any]]:
        """Send the calls of each key one after another, and those of different keys together; raises as the first."""
        results: dict[int, AsyncResult[Any]] = {}

        async def send(group: Sequence[_Numbered]) -> None:
            for place, call, rule in group:
                results[place] = await (self._call(call, rule) if isinstance(rule, _Rule) else self._opened(call, rule))

        if len(groups) == 1:
            await send(groups[0])
            return results
        try:
            async with asyncio.TaskGroup() as sending:
                for group in groups:
                    sending.create_task(send(group), name="aiotq.keyed")
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return results

    async def _call(self, call: OutgoingCall, rule: _Rule) -> AsyncResult[Any]:
        options: dict[str, Any] = {option: given for option, given in call.options.items() if option not in KEYED}
        if rule.key.mode != "period" or rule.key.name.startswith("unique:"):
            options["headers"] = {**(options.get("headers") or {}), HEADER: rule.key.header}
        plain = replace(call, options=cast("CallOptions", options))
        connection = await self._core.connections.within(options.get("publish_timeout"), None, None)
        if not connection.ledger.has_joins:
            raise StoreRequired(
                f"{call.task}: who has a key is decided in a store that all workers share, and rpc:// is none: set "
                "result_backend to a redis://, postgresql:// or sqlite:// URL"
            )
        return await self._sent(connection, plain, rule)

    async def _opened(self, call: OutgoingCall, flow: FlowTask[..., Any]) -> AsyncResult[Any]:
        """Send a flow with the row of its journal; a call of its id that goes on is the same call."""
        connection = await self._core.connections.within(call.options.get("publish_timeout"), None, None)
        if not connection.ledger.has_joins:
            raise StoreRequired(
                f"{call.task}: a flow's journal is kept in a store that all workers share, and there is none: set "
                "result_backend or ledger to a redis://, postgresql:// or sqlite:// URL"
            )
        seen, task_id = "", call.options.get("task_id")
        if task_id is not None and (row := await self._row(connection, flow_row(task_id), None)) is not None:
            if not await self._has_ended(connection, task_id):
                if [each.message.id for each in row.unsent] == [task_id]:  # its sender died before the broker had it
                    await connection.publisher.publish(row.unsent)
                return AsyncResult(task_id, self._core, task_name=call.task)
            seen = row.mark

        def opening(envelope: Envelope) -> ScheduleChange:
            nonlocal task_id
            task_id = envelope.message.id
            return flow.opening(envelope, seen, self._core.now())

        try:
            return self._handle((await self._send((call,), opening))[0])
        except KeyTaken:  # somebody else sent it meanwhile; or we, before an answer was lost, and it has begun
            return AsyncResult(task_id or "", self._core, task_name=call.task)

    async def _sent(self, connection: Connection, call: OutgoingCall, rule: _Rule) -> AsyncResult[Any]:
        loop = asyncio.get_running_loop()
        seconds = call.options.get("publish_timeout") or self._core.conf.task_publish_timeout
        deadline = loop.time() + seconds
        while True:
            try:
                first, change = self._first(call, rule)
                return self._handle((await self._send((first,), change))[0])
            except KeyTaken:
                pass
            row = await self._row(connection, rule.key.name, seconds)
            if row is not None:
                result = await self._in_place_of(connection, call, rule, row, seconds)
                if result is not None:
                    return result
            if loop.time() >= deadline:
                raise PublishTimeout(call.task, seconds, maybe_sent=False)

    def _first(self, call: OutgoingCall, rule: _Rule) -> tuple[OutgoingCall, Change]:
        """Return how a call is sent that gets its key."""
        key, now = rule.key, self._core.now()
        if key.mode == "debounce":
            latest = now + rule.max_wait if rule.max_wait is not None else now + 10 * KEPT
            due = now + rule.seconds
            delayed = replace(call, options=cast("CallOptions", {**call.options, "countdown": rule.seconds}))

            def opening(envelope: Envelope) -> ScheduleChange:
                return Held(envelope.message.id, 0, due, latest).change(key, "", rule.seconds + KEPT_FOR_LATER)

            return delayed, opening

        def taking(envelope: Envelope) -> ScheduleChange:
            wait = 0.0 if envelope.due is None or key.mode == "period" else max(envelope.due - now, 0.0)
            lasts = KEPT if key.mode == "idempotent" else key.seconds
            return Held(envelope.message.id, 0, attempt=envelope.message.attempt).change(key, "", wait + lasts)

        return call, taking

    async def _in_place_of(
        self, connection: Connection, call: OutgoingCall, rule: _Rule, row: ScheduleRow, seconds: float
    ) -> AsyncResult[Any] | None:
        """Return the handle of the call that has the key, as `rule` says; None: it is to be asked for again."""
        held = held_of(row)
        if row.unsent:  # its sender died before the broker had it
            await connection.publisher.publish(row.unsent, seconds)
        if rule.key.mode == "done" and await self._has_ended(connection, held.task_id):
            await self._asked(lambda: connection.ledger.change_schedules([key_change(row.name, row.mark, "", 0.0)]))
            return None
        if rule.on_conflict == "reject":
            raise DuplicateCall(call.task, held.task_id)
        replaces = rule.key.mode == "debounce" or rule.on_conflict == "replace"
        if replaces and not await self._replaced(connection, call, rule, row, held):
            return None
        return AsyncResult(held.task_id, self._core, task_name=call.task)

    async def _replaced(
        self, connection: Connection, call: OutgoingCall, rule: _Rule, row: ScheduleRow, held: Held
    ) -> bool:
        """Have the call that waits run with the arguments and options of `call`; False: it has begun meanwhile."""
        core, now = self._core, self._core.now()
        task: Any = core.tasks.get(call.task, call.task)
        options = {**call.options, "task_id": held.task_id}
        (envelope, *_) = core.builder.envelopes(
            task, call.args, call.kwargs, options, reply_to=connection.reply_to, attempt=held.attempt
        )
        number, latest = held.number + 1, held.latest
        if rule.key.mode == "debounce":
            due, lasts = min(now + rule.seconds, latest), rule.seconds + KEPT_FOR_LATER
        else:
            due, lasts = 0.0, rule.key.seconds
        later = Held(held.task_id, number, due, latest, held.attempt, envelope.message)
        change = later.change(rule.key, row.mark, lasts)
        answers = await self._asked(lambda: connection.ledger.change_schedules([change]))
        return bool(answers[0])

    async def _has_ended(self, connection: Connection, task_id: str) -> bool:
        """Whether a call has ended that has its key still: it was sent again when it had, as the answer was lost."""
        if not connection.keeps_results:
            return False
        (record,) = await self._asked(lambda: connection.records.get([task_id]))
        return record is not None and is_ready(record.state)

    async def _row(self, connection: Connection, name: str, seconds: float | None) -> ScheduleRow | None:
        rows = await self._asked(lambda: connection.ledger.keys([name]), seconds)
        return rows[0] if rows else None

    async def _asked(self, ask: Callable[[], Awaitable[Any]], seconds: float | None = None) -> Any:
        return await persistently(
            ask, self._core.conf, seconds=seconds, task_id=None, policy=None, again=ConnectionLost
        )

    def _flow(self, call: OutgoingCall) -> FlowTask[..., Any] | None:
        task = self._core.tasks.get(call.task)
        return task if isinstance(task, FlowTask) else None

    def _rule(self, call: OutgoingCall) -> _Rule | None:
        task: Task[..., Any] | str = self._core.tasks.get(call.task, call.task)
        options: Mapping[str, Any] = call.options
        if not KEYED.isdisjoint(options):
            check_options(call.task, call.options)
        declared = None if isinstance(task, str) else task.declared
        others = KEYED.intersection(options) - {"unique"}
        if others and declared is not None and declared.unique is not None:
            raise InvalidOption(
                f"{call.task} is declared with unique, and a call has one key: {min(others)} would let its runs be two "
                "at once; give it to another task, which calls this one"
            )
        if (given := options.get("idempotency_key")) is not None:
            name = f"idempotency:{call.task}:{digest(call.task, 'idempotency_key', given)}"
            return _Rule(Key(name, "idempotent", self._core.conf.result_expires))
        for option in ("unique", "debounce", "throttle"):
            wanted = options.get(option)
            if wanted is None and declared is not None and KEYED.isdisjoint(options):
                wanted = getattr(declared, option)
            if wanted is not None:
                return self._of(option, wanted, task, call)
        return None

    def _of(self, option: str, wanted: object, task: Task[..., Any] | str, call: OutgoingCall) -> _Rule:
        match wanted:
            case Unique(by, until, on_conflict, lifetime):
                name = _name(option, task, by, call)
                if isinstance(until, str):
                    return _Rule(Key(name, until, lifetime), on_conflict)
                return _Rule(Key(name, "period", until), on_conflict)
            case Debounce(seconds, by, max_wait):
                for each in _NOT_DEBOUNCED:
                    if each in call.options:
                        raise InvalidOption(
                            f"{call.task}: {each} can't be given to a debounced call, which is one with others, and "
                            "starts when there are no more"
                        )
                return _Rule(Key(_name(option, task, by, call), "debounce", seconds), "", seconds, max_wait)
            case Throttle(seconds, by):
                return _Rule(Key(_name(option, task, by, call), "period", seconds))
            case _:
                same = Debounce if option == "debounce" else Throttle
                return self._of(option, same(cast(float, wanted)), task, call)


def _name(option: str, task: Task[..., Any] | str, by: By, call: OutgoingCall) -> str:
    made_of = key_value(task, by, call.args, call.kwargs)
    return f"{option}:{call.task}:{digest(call.task, option, made_of)}"
