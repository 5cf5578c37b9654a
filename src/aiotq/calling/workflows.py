"""Sending workflows from an app: announced, planned, accepted as one, and the handles of their results."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar, cast

from ..canvas.handles import HandleHome, handle_of
from ..canvas.planner import NOTHING, Planner, Position, firsts, frozen, with_firsts
from ..canvas.signature import Canvas, Signature, as_callbacks
from ..canvas.validation import check_arguments, check_workflow
from ..core.values import replace, shown
from ..exceptions import CallError, InvalidArguments
from ..results import Ledger, RecordStore
from ..results.handle import AsyncResult
from ..signals import after_task_publish, before_task_publish
from ..tasks.options import CallOptions, check_options
from ..tasks.request import running_request
from ..wire.message import Envelope
from .builder import Builder, BuilderHome
from .envelopes import Callee, Part
from .middleware import MiddlewareStack, OutgoingCall
from .publish_signals import tell_after, tell_before
from .publisher import Publisher, RetryPolicy

Handle = TypeVar("Handle")

_LINKS: Final = ("link", "link_error")


class WorkflowConnection(Protocol):
    """An app's connection, as sending a workflow needs it."""

    @property
    def records(self) -> RecordStore: ...

    @property
    def ledger(self) -> Ledger: ...

    @property
    def keeps_results(self) -> bool: ...

    @property
    def publisher(self) -> Publisher: ...


class WorkflowHome(BuilderHome, HandleHome, Protocol):
    """An app, as workflows need it."""

    @property
    def onion(self) -> MiddlewareStack: ...

    @property
    def builder(self) -> Builder: ...

    async def connected_within(
        self, seconds: float | None, task_id: str | None, persistence: RetryPolicy | None
    ) -> WorkflowConnection: ...

    def persistence(self, calls: Iterable[Mapping[str, Any]]) -> RetryPolicy | None: ...

    def remember_children(self, envelopes: Sequence[Envelope], options: Mapping[str, Any]) -> None: ...


async def send_workflow(home: WorkflowHome, canvas: Canvas[Handle]) -> Handle:
    """Send `canvas` in one round trip: its joins and first messages together, or nothing.

    Raises:
        CallError: it can't be sent so.
        PublishTimeout, OperationalError: the broker did not accept it.
    """

    async def deliver(whole: Canvas[Any]) -> Handle:
        reply_to = await _send(home, whole)
        return cast(Handle, handle_of(whole, home, None, reply_to))

    return await through_middleware(home, canvas, deliver)


async def through_middleware(
    home: WorkflowHome, canvas: Canvas[Any], deliver: Callable[[Canvas[Any]], Awaitable[Handle]]
) -> Handle:
    """Have `deliver` take `canvas`, its ids fixed, as middleware forwards its first calls; return its answer."""
    whole = frozen(canvas)
    if not home.onion.senders:
        return await deliver(whole)
    calls = [
        OutgoingCall(first.task, first.args, first.kwargs, cast(CallOptions, _plain(first.options)))
        for first in firsts(whole)
    ]
    delivered: list[Handle] = []

    async def innermost(given: Sequence[OutgoingCall]) -> Sequence[AsyncResult[Any]]:
        if len(given) != len(calls):
            raise CallError(f"middleware must forward all {len(calls)} calls that a workflow begins with")
        changed = _changed(whole, given)
        delivered.append(await deliver(changed))
        return [AsyncResult(first.options["task_id"], home, task_name=first.task) for first in firsts(changed)]

    await home.onion.send(calls, innermost)
    if not delivered:
        raise CallError(
            f"middleware kept back what {shown(whole)} begins with: a workflow is sent, or refused by raising"
        )
    return delivered[-1]


async def _send(home: WorkflowHome, whole: Canvas[Any]) -> str | None:
    """Send `whole`; return the address that its results are pushed to."""
    check_workflow(whole, home.builder.task)
    check_callbacks(whole, home.builder.task)
    first_calls = firsts(whole)
    if not first_calls:
        return None  # an empty group is over before it began
    timeouts = [first.options["publish_timeout"] for first in first_calls if "publish_timeout" in first.options]
    for first in first_calls:
        check_options(first.task, cast(CallOptions, _plain(first.options)))
    timeout = max(timeouts, default=None)
    persistence = home.persistence(first.options for first in first_calls)
    connection = await home.connected_within(timeout, first_calls[0].options["task_id"], persistence)
    reply_to = connection.records.address if connection.keeps_results else None
    if before_task_publish.receivers:
        whole = with_firsts(whole, [await _announced(home, first, reply_to) for first in first_calls])
    parent = running_request.get()
    root_id = parent.root_id or parent.id or first_calls[0].options["task_id"]
    place = Position(parent_id=parent.id, root_id=root_id, reply_to=reply_to)
    plan = Planner(home.builder, has_joins=connection.ledger.has_joins).plan(whole, NOTHING, place)
    await connection.publisher.publish(plan.envelopes, timeout, plan.joins, persistence)
    if parent.id is not None:
        home.remember_children(plan.envelopes, first_calls[0].options)
    if after_task_publish.receivers:
        sent = {envelope.message.id: envelope for envelope in plan.envelopes}
        for first in firsts(whole):
            await tell_after(first, sent[first.options["task_id"]])
    return reply_to


async def _announced(home: WorkflowHome, call: Signature[Any], reply_to: str | None) -> Signature[Any]:
    """Return `call` as the receivers of `before_task_publish` left it."""
    options = _plain(call.options)
    part = Part(None, None, None, {})
    task: Callee | str = home.tasks.get(call.task, call.task)
    built = home.builder.envelopes(task, call.args, call.kwargs, options, reply_to=reply_to, part=part)
    changed = call

    def build(args: Sequence[Any], kwargs: Mapping[str, Any], left: CallOptions) -> Sequence[Envelope]:
        nonlocal changed
        links = {option: call.options[option] for option in _LINKS if option in call.options}
        changed = replace(call, args=tuple(args), kwargs=kwargs, options={**left, **links})
        return built

    await tell_before(call, built, build)
    return changed


def _changed(whole: Canvas[Any], given: Sequence[OutgoingCall]) -> Canvas[Any]:
    """Return `whole` with its first calls as middleware forwards them."""
    changed = [
        replace(
            first,
            task=call.task,
            args=call.args,
            kwargs=call.kwargs,
            options={**{name: first.options[name] for name in _LINKS if name in first.options}, **call.options},
        )
        for first, call in zip(firsts(whole), given, strict=True)
    ]
    return with_firsts(whole, changed)


def check_callbacks(canvas: Canvas[Any], find: Callable[[str], Callee | None]) -> None:
    """Raise `InvalidArguments` for callbacks that could not be called; those of tasks not known here may be."""
    for part in canvas.parts:
        check_callbacks(part, find)
    if not isinstance(canvas, Signature) or canvas.options.keys().isdisjoint(_LINKS):
        return
    call = cast("Signature[Any]", canvas)
    for option in _LINKS:
        for callback in as_callbacks(option, call.options.get(option)):
            check_workflow(callback, find)
            check_callbacks(callback, find)
            for first in firsts(callback):
                task = find(first.task)
                if task is None or first.immutable:
                    given = 0
                elif option == "link":
                    given = 1
                else:
                    given = 3 if task.takes_several else 1
                try:
                    check_arguments(first, task or first.task, first.args, given)
                except InvalidArguments as exc:
                    raise InvalidArguments(f"{call.task}: {option} {shown(callback)} can't be called: {exc}") from None


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    return {option: given for option, given in options.items() if option not in _LINKS}
