"""All that is known of one call, gathered from its record, the index, the broker and whoever runs it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import Any, Final, cast

from ..calling.core import AppCore
from ..core.tracebacks import described
from ..core.values import replace
from ..exceptions import AioTQError, CallError, OperationalError, ResultsDisabled, StoreRequired
from ..results.document import Document
from ..results.handle import AsyncResult
from ..results.index import Finished, FinishedPage, FinishedQuery
from ..results.records import Record
from ..states import EXCEPTION_STATES, PENDING, RETRY, SUCCESS, is_ready
from ..tasks.request import PERIODIC_NAME
from ..transport import DeadLetter
from ..wire.message import Message
from .recent import Recent
from .views import DEAD, Argument, CallView, DeadView, LiveCall

Find = Callable[[FinishedQuery], Awaitable[FinishedPage]]

#: Seconds around its end in which the entry of a call is searched for.
_AROUND: Final = 120.0
#: Attempts of a call that are read.
_MOST_ATTEMPTS: Final = 20
#: Letters of a value, and of a traceback.
_MOST_TEXT: Final = 20_000
#: Bytes of a body that is decoded to be shown.
_MOST_DECODED: Final = 256 * 1024
#: Nodes of a graph that are read with a call.
_MOST_NODES: Final = 300


async def look_at_call(core: AppCore, task_id: str, live: LiveCall | None, recent: Recent, find: Find) -> CallView:
    """Return what is known of the call `task_id`, which is `live` as workers and broker say.

    Raises:
        OperationalError: broker or store can't be reached.
    """
    view = CallView(task_id, PENDING)
    with suppress(ResultsDisabled, StoreRequired):
        reader = await core.reader()
        (record,) = await reader.records.get([task_id])
        if record is not None:
            view = _of_record(core, view, record, reader.codec.decode(record))
        view = await _with_attempts(await _with_entry(view, find), find)
    letter = await (await core.connection()).broker.dead_letter(task_id)
    if letter is not None:
        view = _with_letter(core, view, letter)
    if live is not None:
        view = replace(
            view,
            live=live,
            state=live.state if not is_ready(view.state) else view.state,
            name=view.name or live.name,
            queue=view.queue or live.queue,
            worker=view.worker or live.worker or None,
            root_id=view.root_id or live.root_id,
            parent_id=view.parent_id or live.parent_id,
        )
    figures = next((each for each in recent.by_task() if each.task == view.name), None)
    return replace(view, recent=figures, graph=await _graph(core, task_id, view))


def shown_letter(core: AppCore, letter: DeadLetter) -> DeadView:
    """Return a dead letter as it may be shown."""
    message = letter.message
    view = DeadView(
        letter.key, letter.queue, letter.reason, letter.detail, letter.died_at, letter.deaths, size=len(letter.raw)
    )
    if message is None:
        return view
    called = arguments_of(core, message)
    args = None if called is None else core.arguments.call(*called, core.parameters_of(message.task))
    return replace(
        view,
        id=message.id,
        name=message.task,
        retries=message.retries,
        origin=message.origin,
        args=args,
        size=len(message.body),
    )


def arguments_of(core: AppCore, message: Message) -> tuple[Sequence[Any], Mapping[str, Any]] | None:
    """Return the arguments in a message; None if they can't be read, or are very large."""
    body = body_of(core, message)
    return None if body is None else body[:2]


def body_of(core: AppCore, message: Message) -> tuple[Sequence[Any], Mapping[str, Any], Mapping[str, Any]] | None:
    """Return the arguments in a message, and what it carries of its workflow; None as `arguments_of`."""
    if len(message.body) > _MOST_DECODED:
        return None
    accept, most = frozenset(core.conf.accept_content), _MOST_DECODED
    try:
        body: Any = core.serializers.decode(
            message.content_type, message.body, accept, compression=message.compression, max_size=most
        )
        args, kwargs, embed = body
    except (AioTQError, TypeError, ValueError):
        return None
    if not isinstance(args, (list, tuple)) or not isinstance(kwargs, dict):
        return None
    carried: Mapping[str, Any] = cast("Mapping[str, Any]", embed) if isinstance(embed, dict) else {}
    return cast("Sequence[Any]", args), cast("Mapping[str, Any]", kwargs), carried


def named_arguments(core: AppCore, task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Argument, ...]:
    """Return the arguments of a call, each with its name; those by position that have none are `#0` and so on."""
    names = core.parameters_of(task)
    pairs = [(name or f"#{place}", given) for place, (name, given) in enumerate(zip_longest(names[: len(args)], args))]
    return tuple(
        Argument(name, type(given).__name__, core.arguments.value(given, name), core.arguments.hides(name))
        for name, given in (*pairs, *kwargs.items())
    )


def _of_record(core: AppCore, view: CallView, record: Record, found: Document) -> CallView:
    called, ended = found.called, found.date_done
    arguments = None
    if called.args is not None:
        arguments = named_arguments(core, found.name or "", called.args, called.kwargs or {})
    error = found.result if found.state in EXCEPTION_STATES and isinstance(found.result, BaseException) else None
    traceback = None if core.conf.encryption_keys else found.traceback
    shown = None if error is not None or found.result is None else core.arguments.value(found.result)[:_MOST_TEXT]
    return replace(
        view,
        state=found.state,
        name=found.name,
        result=shown if found.state == SUCCESS else None,
        info=shown if not is_ready(found.state) else None,
        error=None if error is None else _described(core, error)[:_MOST_TEXT],
        traceback=None if traceback is None else traceback[-_MOST_TEXT:],
        ended=None if ended is None else ended.timestamp(),
        worker=found.worker,
        queue=called.queue,
        retries=called.retries,
        arguments=arguments,
        root_id=found.lineage.root_id,
        parent_id=found.parent_id,
        children=found.children,
        expires=record.expires,
    )


def _described(core: AppCore, error: BaseException) -> str:
    """Return what an exception says; its class alone where content is secret."""
    return type(error).__name__ if core.conf.encryption_keys else described(error)


async def _with_entry(view: CallView, find: Find) -> CallView:
    """Return `view` with what only the index knows."""
    query = FinishedQuery(id_prefix=view.id, limit=1)
    if view.ended is not None:
        query = replace(query, states=(view.state,), since=view.ended - _AROUND, until=view.ended + _AROUND)
    found: Sequence[Finished] = (await find(query)).tasks
    if not found or found[0].id != view.id:
        return view
    (entry,) = found
    return replace(
        view,
        state=view.state if view.state != PENDING else entry.state,
        name=view.name or entry.name,
        ended=view.ended or entry.ended,
        error=view.error or entry.error or None,
        worker=view.worker or entry.worker or None,
        queue=view.queue or entry.queue or None,
        retries=entry.retries if view.retries is None else view.retries,
        waited=entry.waited,
        ran=entry.ran,
        arguments=view.arguments or ((Argument("", "", entry.args),) if entry.args else None),
        root_id=view.root_id or entry.root_id,
        parent_id=view.parent_id or entry.parent_id,
        periodic=entry.periodic,
        key=entry.key,
    )


async def _with_attempts(view: CallView, find: Find) -> CallView:
    """Return `view` with the attempts after which there was another one."""
    if not view.is_known or (is_ready(view.state) and view.retries == 0):
        return view
    query = FinishedQuery(states=(RETRY,), id_prefix=view.id, limit=_MOST_ATTEMPTS)
    found = (await find(query)).tasks
    return replace(view, attempts=tuple(each for each in reversed(found) if each.id == view.id))


def _with_letter(core: AppCore, view: CallView, letter: DeadLetter) -> CallView:
    message = letter.message
    view = replace(view, dead=letter.key, dead_reason=letter.reason, state=DEAD, error=view.error or letter.detail)
    if message is None:
        return view
    called = arguments_of(core, message)
    periodic = message.headers.get(PERIODIC_NAME) if message.headers else None
    return replace(
        view,
        name=view.name or message.task,
        queue=view.queue or letter.queue,
        retries=message.retries,
        ended=view.ended or letter.died_at,
        arguments=view.arguments if called is None else named_arguments(core, message.task, *called),
        root_id=view.root_id or message.root_id,
        parent_id=view.parent_id or message.parent_id,
        periodic=view.periodic or (periodic if isinstance(periodic, str) else None),
    )


async def _graph(core: AppCore, task_id: str, view: CallView) -> Any:
    """Return the graph of the call's workflow; None if it is in none, or that is too large or can't be drawn."""
    if not view.is_known:
        return None
    with suppress(CallError, OperationalError):
        graph = await AsyncResult[Any](view.root_id or task_id, core).graph()
        if 1 < len(graph) <= _MOST_NODES:
            return graph
    return None
