"""Workflows drawn from what is stored of them: their plans, what records say of further ones, and their states."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

from .. import states
from ..exceptions import AioTQError
from ..graph.builder import GraphBuilder, Place, calls_in_plan
from ..graph.graph import EdgeKind, Graph
from .document import Document, DocumentCodec
from .lineage import NO_LINEAGE, plan_id
from .records import Record, RecordStore

#: Records read at once, and tasks found by way of records (a task may have sent any number of others).
_AT_ONCE: Final = 100
_MOST_FOUND: Final = 1000


class Call(Protocol):
    """The handle of a call, as drawing it needs it."""

    is_eager: ClassVar[bool]

    @property
    def id(self) -> str: ...

    @property
    def task_name(self) -> str | None: ...

    @property
    def parent(self) -> Handle | None: ...

    @property
    def is_known(self) -> bool: ...

    @property
    def document(self) -> Document | None:
        """How it ended, if the handle has seen that."""
        ...


@runtime_checkable
class Members(Protocol):
    """The handle of a group, as drawing it needs it."""

    @property
    def id(self) -> str: ...

    @property
    def parent(self) -> Handle | None: ...

    @property
    def results(self) -> Sequence[Handle]: ...


Handle = Call | Members


class Source(Protocol):
    """Where records are read."""

    @property
    def records(self) -> RecordStore: ...

    @property
    def codec(self) -> DocumentCodec: ...


def steps_to(handle: Handle, until: Handle | None = None) -> Sequence[Handle]:
    """Return the handles that lead up to `handle`, first step first; those up to `until` are left out."""
    steps: list[Handle] = []
    at: Handle | None = handle
    while at is not None and (until is None or at.id != until.id):
        steps.append(at)
        at = at.parent
    return steps[::-1]


def calls_in(handle: Handle) -> Iterator[Call]:
    """Yield the handles of all calls of a step: its own, or those of a group's members with all of their steps."""
    if not isinstance(handle, Members):
        yield handle
        return
    for member in handle.results:
        for step in steps_to(member, handle.parent):
            yield from calls_in(step)


async def graph_of(handle: Handle, connect: Callable[[], Awaitable[Source]]) -> Graph:
    """Return the workflow of `handle`: its plan, what its handles say, and what records say of further ones."""
    steps = steps_to(handle)
    calls = [call for step in steps for call in calls_in(step)]
    is_alone = not isinstance(handle, Members) and handle.parent is None and handle.task_name is None
    read = _Reading(goes_up=is_alone)
    for call in calls:
        read.want(call.id, begins=call is calls[0], document=call.document)
    while (ids := read.unread()) and not all(call.is_eager for call in calls):
        source = await connect()
        records = await source.records.get(ids)
        read.take({each: _decoded(source.codec, record) for each, record in zip(ids, records, strict=True)})
        await asyncio.sleep(0)  # decoding is work
    drawing = _Drawing(read)
    if is_alone:
        for each in (*read.roots, *reversed(read.above), handle.id):
            drawing.draw(each, Place())
            drawing.draw_further()
    else:
        if calls:
            drawing.draw(calls[0].id, Place(), only_plan=True)
        _draw(handle, drawing.builder, None, None)
        drawing.draw_further()
    return drawing.graph()


def _draw(handle: Handle, builder: GraphBuilder, inside: str | None, until: Handle | None) -> None:
    """Draw what the handles say."""
    after: str | None = None
    for step in steps_to(handle, until):
        place = Place(inside, after)
        if not isinstance(step, Members):
            after = builder.call(step.id, step.task_name, place)
            continue
        after = builder.group(step.id or builder.unused_id(), place)
        for member in step.results:
            _draw(member, builder, after, step.parent)


def _decoded(codec: DocumentCodec, record: Record | None) -> Document | None:
    """Return what `record` says; of one that can't be read here, its state."""
    if record is None:
        return None
    try:
        return codec.decode(record)
    except AioTQError:
        return Document(record.id, record.state, None, {})


class _Reading:
    """The records of a workflow that were read, and the ids to be read next."""

    def __init__(self, *, goes_up: bool) -> None:
        self._goes_up = goes_up
        self._left = _MOST_FOUND
        self._asked: dict[str, None] = {}
        self._unread: list[str] = []
        self._plans: dict[str, tuple[str, int]] = {}  #: ids of plans, with the calls they are of
        self._documents: dict[str, Document] = {}
        self.roots: list[str] = []  #: of the call that is asked about ...
        self.above: list[str] = []  #: ... and the calls that sent it, the nearest first

    def knows_of(self, call_id: str) -> bool:
        """Whether a call was to be read: of very many it is only the first."""
        return call_id in self._asked

    def document(self, call_id: str) -> Document | None:
        return self._documents.get(call_id)

    def plan(self, call_id: str, replacement: int = 0) -> Any:
        """Return the plan of what begins with a call, or has replaced it; None if there is none."""
        found = self._documents.get(plan_id(call_id, replacement))
        return None if found is None else found.result

    def has_ended(self, call_id: str) -> bool:
        document = self._documents.get(call_id)
        return document is not None and states.is_ready(document.state)

    def want(self, call_id: str, *, begins: bool, document: Document | None = None) -> None:
        """Have a call read, and the plan of what begins with it."""
        if begins:
            self._want_plan(call_id, 0)
        if call_id in self._asked:
            return
        self._asked[call_id] = None
        if document is None:
            self._unread.append(call_id)
        else:
            self.take({call_id: document})

    def _want_plan(self, call_id: str, replacement: int) -> None:
        key = plan_id(call_id, replacement)
        if key not in self._plans:
            self._plans[key] = (call_id, replacement)
            self._unread.append(key)

    def unread(self) -> list[str]:
        """Return the ids of records that are to be read now."""
        batch, self._unread = self._unread[:_AT_ONCE], self._unread[_AT_ONCE:]
        return batch

    def take(self, found: Mapping[str, Document | None]) -> None:
        """Take what was read, and see what else there is to read."""
        for each, document in found.items():
            if document is not None:
                self._documents[each] = document
            if each in self._plans:
                self._take_plan(*self._plans[each], document)
            else:
                self._take_call(each, document)

    def _take_plan(self, call_id: str, replacement: int, document: Document | None) -> None:
        if document is None:
            return
        for call in calls_in_plan(document.result):
            self.want(call, begins=False)
        if replacement:
            self._want_plan(call_id, replacement + 1)

    def _take_call(self, call_id: str, document: Document | None) -> None:
        lineage = NO_LINEAGE if document is None else document.lineage
        if document is None or lineage.replacements or not states.is_ready(document.state):
            self._want_plan(call_id, 1)
        if document is None:
            return
        if self._goes_up:
            for each, line in ((lineage.root_id, self.roots), (document.parent_id, self.above)):
                if each is not None and self._finds(each):
                    line.append(each)
                    self.want(each, begins=True)
        for each in (*lineage.callbacks, *lineage.errbacks, *lineage.added, *document.children):
            if self._finds(each):
                self.want(each, begins=True)

    def _finds(self, call_id: str) -> bool:
        """Whether a call is to be read that a record tells of: they may tell of any number."""
        if call_id in self._asked or self._left <= 0:
            return False
        self._left -= 1
        return True


class _Drawing:
    """Draws what has been read."""

    def __init__(self, read: _Reading) -> None:
        self.builder = GraphBuilder()
        self._read = read
        self._done: set[str] = set()

    def draw(self, first_id: str, place: Place, *, only_plan: bool = False) -> None:
        """Draw the workflow that begins with a call, unless that is drawn already."""
        if first_id in self.builder or not self._read.knows_of(first_id):
            return
        plan = self._read.plan(first_id)
        if plan is not None:
            self.builder.draw(plan, place, links=self._is_planned)
        if not only_plan and first_id not in self.builder:  # one call, or a plan that is no plan
            self.builder.call(first_id, None, place)

    def draw_further(self) -> None:
        """Draw what has taken the place of calls, and what they have sent."""
        while calls := [call for call in self.builder.calls if call not in self._done]:
            self._done.update(calls)
            for call in calls:
                self._draw_replacements(call)
            for call in calls:
                self._draw_sent(call)

    def graph(self) -> Graph:
        """Return what is drawn, with the states of all calls."""
        for call in self.builder.calls:
            document = self._read.document(call)
            if document is not None:
                self.builder.tell(call, document.state, document.name)
            elif not call.startswith("#"):
                self.builder.tell(call, states.PENDING, None)
        return self.builder.graph()

    def _is_planned(self, call: str) -> bool:
        """Whether the callbacks of a call are still to come."""
        return not self._read.has_ended(call)

    def _draw_replacements(self, call: str) -> None:
        replacement = 1
        while (plan := self._read.plan(call, replacement)) is not None:
            self.builder.put_before(call, plan, links=self._is_planned)
            replacement += 1

    def _draw_sent(self, call: str) -> None:
        document = self._read.document(call)
        if document is None:
            return
        lineage = document.lineage
        sent: tuple[tuple[EdgeKind, Iterable[str]], ...] = (
            ("callback", lineage.callbacks),
            ("errback", lineage.errbacks),
        )
        for kind, ids in sent:
            for each in ids:
                self.draw(each, Place(on=(call, kind)))
        group = self.builder.group_of(call)
        for each in lineage.added:
            self.draw(each, Place(on=(call, "child")) if group is None else Place(inside=group))
        for each in document.children:
            self.draw(each, Place(group, call) if self.builder.goes_on(call) else Place(on=(call, "child")))
