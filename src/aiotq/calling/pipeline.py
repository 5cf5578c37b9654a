"""The one way of all that is called, from its caller to the broker: single calls, many at once, workflows (P1, P7)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

from ..canvas.composites import Group
from ..canvas.handles import AnyResult, nested
from ..canvas.plan_data import plan_record
from ..canvas.planner import NOTHING, Planner, Position
from ..canvas.signature import LINKS, Canvas, Signature
from ..canvas.structure import first_calls, frozen, given_ids, shape_of, told_apart, with_first_calls
from ..canvas.validation import check_workflow
from ..core.values import replace, shown, value
from ..exceptions import CallError, ConnectionLost, PublishFailed, PublishTimeout
from ..results import Join, Record, ScheduleChange
from ..results.handle import AsyncResult
from ..results.indexing import bounds_of
from ..results.lineage import plan_id
from ..results.sets import ResultSet
from ..signals import after_task_publish, before_task_publish, connected
from ..tasks.keys import KEYED, keyed_tasks
from ..tasks.options import CallOptions, check_options
from ..tasks.request import running_request
from ..tasks.running import current_trails
from ..tasks.task import Task, calls_its_own_way
from ..wire.message import Envelope
from .callbacks import call_options, check_callbacks, forwarded, queues_in, signature_options
from .connection import Connection
from .envelopes import Callee, Part
from .given_ids import NONE_SEEN, Seen
from .middleware import OutgoingCall
from .persistence import persistently
from .publish_signals import Call, tell_after, tell_before
from .retry_policy import RetryPolicy, persistence_of_calls

if TYPE_CHECKING:
    from .core import AppCore

R = TypeVar("R")
Handle = TypeVar("Handle")

#: Options that count before a message is made.
_OF_SENDING: Final = frozenset({"publish_timeout", "retry", "retry_policy"})
#: Options of calls that are not sent as most are.
_SENT_OTHERWISE: Final = LINKS | KEYED
#: Errors after which a call may have been sent.
_SENDING_FAILED: Final = (PublishTimeout, PublishFailed, asyncio.CancelledError)


@value
class Batch:
    """The envelopes, joins and records of one send; `firsts` are the envelopes of the calls asked for, in order."""

    envelopes: Sequence[Envelope]
    firsts: Sequence[Envelope]
    joins: tuple[Join, ...] = ()
    records: tuple[Record, ...] = ()
    key: ScheduleChange | None = None  #: the row of a key that is written with it, or nothing is


class Parcel(Protocol):
    """The calls or the workflow that one send is of."""

    @property
    def calls(self) -> Sequence[Call]:
        """The calls that go out now, one or more: their options are the parcel's."""
        ...

    @property
    def is_single(self) -> bool:
        """Whether its calls stand alone: sent again with their ids, they are the same calls."""
        ...

    @property
    def given(self) -> Collection[str]:
        """The ids that callers gave to these calls, and to what follows them."""
        ...

    async def batch(self, connection: Connection, attempts: Mapping[str, int]) -> Batch:
        """Return what they are made into, as the receivers of `before_task_publish` leave it.

        `attempts`: where single calls with given ids begin, if not at 0.
        """
        ...


class Calling:
    """Sends what the app is asked to send: every call goes through the steps of `_publish`, once."""

    def __init__(self, core: AppCore) -> None:
        self._core = core

    async def call(
        self, task: Task[..., Any] | str, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions
    ) -> AsyncResult[Any]:
        """Send one call; what `Task.apply_async` and `send_task` do."""
        core = self._core
        if core.connections.is_away():
            return await core.bridge.at_home(self.call, task, args, kwargs, options)
        if options and not _SENT_OTHERWISE.isdisjoint(options):
            name = task if isinstance(task, str) else task.name
            if LINKS.isdisjoint(options):
                return (await self._calls((OutgoingCall(name, tuple(args), kwargs, options),)))[0]
            linked: Signature[Any] = Signature(name, tuple(args), kwargs, options, sender=core)
            return await self._workflow(linked)
        if keyed_tasks or connected or core.middleware.senders or core.conf.task_always_eager or "task_id" in options:
            name = task if isinstance(task, str) else task.name
            return (await self._calls((OutgoingCall(name, cast("tuple[Any, ...]", args), kwargs, options),)))[0]
        # The steps of `_publish`, for what is most often sent: one call that nobody watches.
        timeout: float | None = None
        policy: RetryPolicy | None = None
        if options:
            timeout, policy = self._terms(((task if isinstance(task, str) else task.name, options),))
        connection = await core.connections.within(timeout, None, policy)
        envelopes = core.builder.envelopes(task, args, kwargs, options, reply_to=connection.reply_to)
        try:
            await connection.publisher.publish(envelopes, timeout, (), policy)
        except _SENDING_FAILED as exc:
            _note_failed(connection, envelopes[:1], exc)
            raise
        if connection.events is not None:
            _tell_sent(core, connection, envelopes[0], args, kwargs)
        remember_child(envelopes[0].message.id, options)
        return self._handle(envelopes[0])

    async def send_many(self, signatures: Iterable[Canvas[AsyncResult[R]]]) -> ResultSet[R]:
        """Send calls, chains and chords in one round trip; their results in order.

        Raises:
            CallError: one of them has no single result, or can't be sent for another reason; none was sent.
        """
        if isinstance(signatures, Canvas):
            raise CallError(
                f"send_many takes many signatures, not one: give it a list, or await {shown(signatures)}.delay()"
            )
        asked = list(signatures)
        if self._core.connections.is_away():
            return await self._core.bridge.at_home(self.send_many, asked)
        for each in asked:
            if type(each) is not Signature and not isinstance(cast(object, each), Canvas):
                raise CallError(f"send_many takes signatures such as add.s(1, 2), not {shown(each)}")
        if all(is_plain(each) for each in asked):
            plain = cast("list[Signature[R]]", asked)
            options: list[Any] = [each.options for each in plain]
            calls = [OutgoingCall(it.task, it.args, it.kwargs, its) for it, its in zip(plain, options, strict=True)]
            return ResultSet(await self._calls(calls), self._core)
        apart = [told_apart(each) for each in asked]
        for each in apart:
            if shape_of(each) is not None or not first_calls(each):
                raise CallError(f"{shown(each)} has no single result: send it alone, or let a task follow it")
        group: Group[R] = Group(tuple(apart))
        whole = await self._frozen_workflow(frozen(group), given_ids(group))
        results = cast("list[AsyncResult[R]]", whole.results)
        return ResultSet(results, self._core)

    async def send(self, workflow: Canvas[Handle]) -> Handle:
        """Send a signature, chain, group or chord, in one round trip: its joins and first messages, or nothing.

        Raises:
            CallError: it can't be sent so.
            PublishTimeout, OperationalError: the broker did not accept it.
        """
        if self._core.connections.is_away():
            return await self._core.bridge.at_home(self.send, workflow)
        if is_plain(workflow) and not self._core.conf.task_always_eager:
            call = cast("Signature[Any]", workflow)
            task, options = self._core.tasks.get(call.task, call.task), cast(CallOptions, call.options)
            if isinstance(task, Task) and calls_its_own_way(type(task)):
                return cast(Handle, await task.apply_async(call.args, call.kwargs, **options))
            return cast(Handle, await self.call(task, call.args, call.kwargs, options))
        return await self._workflow(workflow)

    async def apply(self, workflow: Canvas[Handle], *, throw: bool | None, root_id: str | None = None) -> Handle:
        """Run a workflow here, step after step; what `workflow.apply()` does."""
        applied = await self._core.inline().apply_workflow(self._core, workflow, throw=throw, root_id=root_id)
        return cast(Handle, applied)

    async def _calls(self, calls: Sequence[OutgoingCall]) -> Sequence[AsyncResult[Any]]:
        """Send plain calls through the middleware."""
        if not self._core.middleware.senders:
            return await self._accepted(calls)
        return await self._core.middleware.send(calls, self._accepted)

    async def _accepted(self, calls: Sequence[OutgoingCall]) -> Sequence[AsyncResult[Any]]:
        """Send calls in one round trip, inside of all middleware."""
        if not calls:
            return []
        if self._core.conf.task_always_eager:
            return [await self._call_here(call) for call in calls]
        if not (keyed_tasks or [call for call in calls if call.options and not KEYED.isdisjoint(call.options)]):
            return [self._handle(envelope) for envelope in await self._sent(calls)]
        from .keyed import KeyedCalls  # noqa: PLC0415

        return await KeyedCalls(self._core, self._sent, self._handle).send(calls)

    async def _sent(
        self, calls: Sequence[OutgoingCall], change: Callable[[Envelope], ScheduleChange] | None = None
    ) -> Sequence[Envelope]:
        return (await self._publish(_Calls(self._core, calls), change)).firsts

    async def _workflow(self, workflow: Canvas[Handle]) -> Handle:
        apart = told_apart(workflow)
        return cast(Handle, await self._frozen_workflow(frozen(apart), given_ids(apart)))

    async def _frozen_workflow(self, whole: Canvas[Any], given: Iterable[str]) -> Any:
        """Send `whole`, whose ids are fixed, some of them `given`, as middleware forwards its first calls."""
        send = partial(self._send_workflow, given=frozenset(given))
        deliver = self._run_here if self._core.conf.task_always_eager else send
        if not self._core.middleware.senders:
            return await deliver(whole)
        return await self._through_middleware(whole, deliver)

    async def _through_middleware(self, whole: Canvas[Any], deliver: Callable[[Canvas[Any]], Awaitable[Any]]) -> Any:
        calls = [
            OutgoingCall(first.task, first.args, first.kwargs, cast(CallOptions, call_options(first.options)))
            for first in first_calls(whole)
        ]
        delivered: list[Any] = []

        async def innermost(given: Sequence[OutgoingCall]) -> Sequence[AsyncResult[Any]]:
            if len(given) != len(calls):
                raise CallError(f"middleware must forward all {len(calls)} calls that a workflow begins with")
            changed = forwarded(whole, given)
            delivered.append(await deliver(changed))
            return [
                AsyncResult(first.options["task_id"], self._core, task_name=first.task, sent=True)
                for first in first_calls(changed)
            ]

        await self._core.middleware.send(calls, innermost)
        if not delivered:
            raise CallError(
                f"middleware kept back what {shown(whole)} begins with: a workflow is sent, or refused by raising"
            )
        return delivered[-1]

    async def _send_workflow(self, whole: Canvas[Any], *, given: Collection[str]) -> Any:
        check_workflow(whole, self._core.builder.task)
        check_callbacks(whole, self._core.builder.task)
        for queue in queues_in(whole):
            self._core.builder.check_queue(queue)
        parcel = _Workflow(self._core, whole, given)
        queues: dict[str, str] = {}
        if parcel.calls:  # an empty group is over before it began
            batch = await self._publish(parcel)
            queues = {each.message.id: each.queue for each in batch.firsts}
        return nested(whole, self._core, partial(self._handle_in_workflow, parcel.reply_to, queues))

    async def _publish(self, parcel: Parcel, change: Callable[[Envelope], ScheduleChange] | None = None) -> Batch:
        """Have the broker accept `parcel`, in one round trip, and send the signals of publishing.

        `change`: of the row of a key, for the first envelope; raises `KeyTaken` if that is refused.
        """
        calls = parcel.calls
        timeout, policy = self._terms([(call.task, call.options) for call in calls])
        connection = await self._core.connections.within(timeout, calls[0].options.get("task_id"), policy)
        seen = NONE_SEEN
        if parcel.given and connection.keeps_results:
            seen = await self._seen(connection, parcel.given, timeout, policy)
        batch = await parcel.batch(connection, seen.attempts)
        sent = [each for each in batch.envelopes if each.message.id not in seen.ran] if seen.ran else batch.envelopes
        if change is not None:
            batch = replace(batch, key=change(batch.firsts[0]))
        try:
            if sent:
                await self._accept(connection, sent, batch, timeout, policy)
        except _SENDING_FAILED as exc:
            if parcel.is_single:
                _note_failed(connection, batch.firsts, exc)
            raise
        if seen.attempts:
            connection.given_ids.note(batch.firsts, sent=True)
        if running_request.get().id is not None:
            for call, envelope in zip(parcel.calls, batch.firsts, strict=True):
                remember_child(envelope.message.id, call.options)
        if connection.events is not None:
            for call, envelope in zip(parcel.calls, batch.firsts, strict=True):
                _tell_sent(self._core, connection, envelope, call.args, call.kwargs)
        if after_task_publish.receivers:
            for call, envelope in zip(parcel.calls, batch.firsts, strict=True):
                await tell_after(call, envelope)
        return batch

    async def _accept(
        self,
        connection: Connection,
        sent: Sequence[Envelope],
        batch: Batch,
        timeout: float | None,
        policy: RetryPolicy | None,
    ) -> None:
        """Have the broker accept `sent`, of the envelopes of `batch`, and what goes with them; raises as `publish`."""
        await connection.publisher.publish(sent, timeout, batch.joins, policy, batch.records, batch.key)

    async def _seen(
        self, connection: Connection, given: Collection[str], timeout: float | None, policy: RetryPolicy | None
    ) -> Seen:
        """Return what there is of calls with ids that callers gave; raises as `Connections.within`."""
        look = connection.given_ids.looking(given)
        named = next(iter(given))
        return await persistently(
            look, self._core.conf, seconds=timeout, task_id=named, policy=policy, again=ConnectionLost
        )

    def _terms(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[float | None, RetryPolicy | None]:
        """Return the seconds that the broker has to accept calls with these options, and how often they are sent again.

        None is as the settings say.

        Raises:
            InvalidOption: an option that says so is impossible, or they say different things.
        """
        special = [(name, options) for name, options in calls if not _OF_SENDING.isdisjoint(options)]
        if not special:
            return None, None
        conf = self._core.conf
        for name, options in special:
            check_options(name, cast(CallOptions, call_options(options)))
        timeouts = [options.get("publish_timeout") for _, options in calls]
        policy = persistence_of_calls(
            (options for _, options in calls), conf.task_publish_retry, conf.task_publish_retry_policy
        )
        return max(conf.task_publish_timeout if wanted is None else wanted for wanted in timeouts), policy

    async def _call_here(self, call: OutgoingCall) -> AsyncResult[Any]:
        core = self._core
        task = core.tasks.get(call.task, call.task)
        result = await core.inline().call_eagerly(core, task, call.args, call.kwargs, call.options)
        remember_child(result.id, call.options)
        return result

    async def _run_here(self, workflow: Canvas[Any]) -> Any:
        result = await self.apply(workflow, throw=None)
        for first in first_calls(workflow):
            remember_child(first.options["task_id"], first.options)
        return result

    def _handle(self, envelope: Envelope) -> AsyncResult[Any]:
        message = envelope.message
        return AsyncResult(
            message.id,
            self._core,
            task_name=message.task,
            reply_to=message.reply_to,
            due=envelope.due,
            queue=envelope.queue,
            ignored=message.ignore_result,
            sent=True,
        )

    def _handle_in_workflow(
        self, reply_to: str | None, queues: Mapping[str, str], call: Signature[Any], parent: AnyResult | None
    ) -> AsyncResult[Any]:
        task = self._core.tasks.get(call.task)
        ignored = call.options.get("ignore_result")
        if ignored is None and task is not None:
            ignored = task.declared.ignore_result
        return AsyncResult(
            call.options["task_id"],
            self._core,
            task_name=call.task,
            parent=parent,
            reply_to=reply_to,
            queue=queues.get(call.options["task_id"]),
            ignored=self._core.conf.task_ignore_result if ignored is None else ignored,
            sent=True,
        )


class _Calls:
    """Calls that are no workflow."""

    is_single = True

    def __init__(self, core: AppCore, calls: Sequence[OutgoingCall]) -> None:
        self._core = core
        self.calls = calls
        self.given = {task_id for call in calls if (task_id := call.options.get("task_id")) is not None}

    async def batch(self, connection: Connection, attempts: Mapping[str, int]) -> Batch:
        firsts: list[Envelope] = []
        copies: list[Envelope] = []
        make = partial(self._core.builder.envelopes, reply_to=connection.reply_to)
        for call in self.calls:
            task: Callee | str = self._core.tasks.get(call.task, call.task)
            attempt = attempts.get(call.options.get("task_id") or "") if attempts else None
            build = partial(make, attempt=attempt) if attempt else make
            envelopes = build(task, call.args, call.kwargs, call.options)
            if before_task_publish.receivers:
                envelopes = await tell_before(call, envelopes, partial(build, task))
            firsts.append(envelopes[0])
            copies.extend(envelopes[1:])
        return Batch([*firsts, *copies] if copies else firsts, firsts)


class _Workflow:
    """A workflow whose ids are fixed, some of them `given`."""

    def __init__(self, core: AppCore, whole: Canvas[Any], given: Collection[str]) -> None:
        self._core = core
        self._whole = whole
        self.given = given
        self.is_single = isinstance(whole, Signature)
        self.calls: Sequence[Signature[Any]] = first_calls(whole)
        self.reply_to: str | None = None  #: the address that its results are pushed to, when it is sent

    async def batch(self, connection: Connection, attempts: Mapping[str, int]) -> Batch:
        self.reply_to = connection.reply_to
        if self.is_single and (attempt := attempts.get(self._whole.id or "")):  # others are told apart anyway
            call = cast("Signature[Any]", self._whole)
            self._whole = replace(call, options={**call.options, "attempt": attempt})
        if before_task_publish.receivers:
            self._whole = with_first_calls(self._whole, [await self._announced(call) for call in self.calls])
            self.calls = first_calls(self._whole)
        parent = running_request.get()
        root_id = parent.root_id or parent.id or self.calls[0].options["task_id"]
        position = Position(parent_id=parent.id, root_id=root_id, reply_to=self.reply_to)
        planner = Planner(self._core.builder, has_joins=connection.ledger.has_joins)
        plan = planner.plan(self._whole, NOTHING, position)
        by_id = {envelope.message.id: envelope for envelope in plan.envelopes}
        return Batch(
            plan.envelopes,
            [by_id[call.options["task_id"]] for call in self.calls],
            plan.joins,
            self._records(connection),
        )

    def _records(self, connection: Connection) -> tuple[Record, ...]:
        """Return the plan to store, from which the workflow is drawn by an id: none where no results are kept."""
        conf = self._core.conf
        if not (connection.keeps_results and connection.ledger.has_joins) or conf.task_ignore_result:
            return ()
        key = plan_id(self.calls[0].options["task_id"])
        now, bounds = self._core.now(), bounds_of(conf)
        plan = plan_record(self._whole, key, self._core.codec, now, conf.result_expires, bounds)
        return () if plan is None else (plan,)

    async def _announced(self, call: Signature[Any]) -> Signature[Any]:
        """Return `call` as the receivers of `before_task_publish` left it."""
        task: Callee | str = self._core.tasks.get(call.task, call.task)
        part = Part(None, None, None, {})
        options = call_options(call.options)
        built = self._core.builder.envelopes(task, call.args, call.kwargs, options, reply_to=self.reply_to, part=part)
        changed = call

        def build(args: Sequence[Any], kwargs: Mapping[str, Any], left: CallOptions) -> Sequence[Envelope]:
            nonlocal changed
            changed = replace(
                call, args=tuple(args), kwargs=kwargs, options={**left, **signature_options(call.options)}
            )
            return built

        await tell_before(call, built, build)
        return changed


def is_plain(workflow: Canvas[Any]) -> bool:
    """Whether it is one call that nothing follows, for which no plan is needed."""
    return isinstance(workflow, Signature) and workflow.mode == "once" and LINKS.isdisjoint(workflow.options)


def _tell_sent(
    core: AppCore, connection: Connection, envelope: Envelope, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    if connection.events is not None and connection.events.is_on:
        from .sent_events import tell_sent  # noqa: PLC0415

        shown = core.arguments.reprs(args, kwargs, core.parameters_of(envelope.message.task))
        tell_sent(connection.events, envelope, shown)


def remember_child(task_id: str, options: Mapping[str, Any]) -> None:
    """Note a call that was made by the task which runs here, for the `children` of its result."""
    request = running_request.get()
    if request.id is not None and current_trails() and options.get("add_to_parent", True):
        request.children.append(task_id)


def _note_failed(
    connection: Connection, calls: Sequence[Envelope], exc: PublishTimeout | PublishFailed | asyncio.CancelledError
) -> None:
    """Note that these calls may have been sent, for who sends them again with their ids."""
    if isinstance(exc, asyncio.CancelledError) or exc.maybe_sent:
        connection.given_ids.note(calls, sent=False)
