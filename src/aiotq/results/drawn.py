"""Finding out who stands around a task: from the handles that one holds, and from what records say of each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol, runtime_checkable

from .. import states
from ..exceptions import AioTQError
from ..graph.graph import Graph, GraphBuilder
from ..graph.nodes import EdgeKind
from .document import Document, DocumentCodec
from .records import Record, RecordStore

#: Records read at once, and tasks found by way of records (a task may have sent any number of others).
_AT_ONCE: Final = 100
_MOST_FOUND: Final = 1000


class Call(Protocol):
    """The handle of a call, as drawing it needs it."""

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
    """Return the workflow of `handle`: what its handles say, and what the records of its calls say of further ones."""
    sketch = GraphBuilder()
    seen = {call.id: call.document for step in steps_to(handle) for call in calls_in(step)}
    is_alone = not isinstance(handle, Members) and handle.parent is None and handle.task_name is None
    if not is_alone:
        _draw(handle, sketch, None, None)
    walk = _Walk(sketch, tuple(seen), goes_up=is_alone)
    unread = walk.take({each: document for each, document in seen.items() if document is not None})
    unread += [each for each, document in seen.items() if document is None]
    while unread:
        source = await connect()
        batch, unread = unread[:_AT_ONCE], unread[_AT_ONCE:]
        records = await source.records.get(batch)
        found = {each: _decoded(source.codec, record) for each, record in zip(batch, records, strict=True)}
        unread += walk.take(found)
        await asyncio.sleep(0)  # decoding is work
    walk.finish()
    return sketch.graph()


def _draw(handle: Handle, sketch: GraphBuilder, inside: str | None, until: Handle | None) -> None:
    after: str | None = None
    for step in steps_to(handle, until):
        if not isinstance(step, Members):
            after = sketch.call(step.id, step.task_name, inside=inside, after=after)
            continue
        after = sketch.group(step.id or sketch.unused_id(), inside=inside, after=after)
        for member in step.results:
            _draw(member, sketch, after, step.parent)


def _decoded(codec: DocumentCodec, record: Record | None) -> Document | None:
    """Return what `record` says; of one that can't be read here, its state."""
    if record is None:
        return None
    try:
        return codec.decode(record)
    except AioTQError:
        return Document(record.id, record.state, None, {})


class _Walk:
    """Takes what records say, and puts those that were found by it into the sketch once all is read."""

    def __init__(self, sketch: GraphBuilder, calls: Sequence[str], *, goes_up: bool) -> None:
        self._sketch = sketch
        self._drawn = frozenset(sketch.calls)
        self._goes_up = goes_up
        self._documents: dict[str, Document | None] = {}
        self._asked: dict[str, None] = dict.fromkeys(calls)
        self._left = _MOST_FOUND

    def take(self, found: Mapping[str, Document | None]) -> list[str]:
        """Take documents of tasks, None for those that there are none of; return ids of tasks that they name."""
        self._documents.update(found)
        named: list[str] = []
        for document in found.values():
            if document is not None:
                named += [each for each in self._named(document) if self._wants(each)]
        return named

    def _named(self, document: Document) -> Iterator[str]:
        around = document.neighbours
        if self._goes_up:
            yield from (each for each in (around.root_id, document.parent_id) if each is not None)
        if document.task_id not in self._drawn:
            yield from (each for each in around.members if each != around.awaits)
            yield from around.body
        yield from around.next
        yield from around.prevented
        yield from around.callbacks
        yield from around.errbacks
        yield from document.children

    def _wants(self, task_id: str) -> bool:
        if task_id in self._asked or self._left <= 0:
            return False
        self._left -= 1
        self._asked[task_id] = None
        return True

    def finish(self) -> None:
        """Draw what was found, and say how all calls are."""
        _Drawing(self._sketch, self._documents, self._drawn).draw(self._asked)
        for call in self._sketch.calls:
            document = self._documents.get(call)
            if document is None:
                self._sketch.tell(call, states.PENDING, None)
            else:
                self._sketch.tell(call, document.state, document.name)


class _Drawing:
    """Draws tasks as their records say that they stand to each other."""

    def __init__(self, sketch: GraphBuilder, documents: Mapping[str, Document | None], drawn: frozenset[str]) -> None:
        self._sketch = sketch
        self._documents = documents
        self._drawn = drawn
        #: Of each task the step before it; of each group the call after which it comes, and the group it is in.
        self._after: dict[str, str] = {}
        self._hangs: dict[str, tuple[str, EdgeKind]] = {}
        self._inside = {call: group for call in drawn if (group := sketch.group_of(call)) is not None}
        self._groups: dict[str, None] = {}
        #: Which member of its group each of them is part of.
        self._places: dict[str, int] = {}

    def draw(self, tasks: Iterable[str]) -> None:
        told = [document for document in self._documents.values() if document is not None]
        self._places = {document.task_id: document.neighbours.index or 0 for document in told}
        for document in told:
            self._of_groups(document)
        for document in told:
            self._of_awaited(document)
        for document in told:
            self._of_followers(document)
        for document in told:
            self._of_parent(document)
        found = self._in_order(tasks)
        for element in sorted(found, key=lambda each: self._places.get(each, 0)):
            self._put(element, is_group=element in self._groups)

    def _in_order(self, tasks: Iterable[str]) -> list[str]:
        """Return `tasks` as they were found, and before each the groups that begin with it."""
        found: dict[str, None] = {}
        for task in tasks:
            element: str | None = task
            around: list[str] = []
            while element is not None and element not in found and element not in around:
                around.append(element)
                element = self._inside.get(element)
            found.update(dict.fromkeys(reversed(around)))
        return [*found, *(group for group in self._groups if group not in found)]

    def _of_groups(self, document: Document) -> None:
        """See which groups there are, which calls are in them, and which get their values."""
        around, task = document.neighbours, document.task_id
        if task in self._drawn:
            return
        self._groups.update(dict.fromkeys(each for each in (around.group_id, around.awaits, around.join) if each))
        if around.group_id is not None:
            self._inside[task] = around.group_id
            if around.join is not None and around.join != around.group_id:
                self._inside.setdefault(around.group_id, around.join)
                place = self._places.get(task, 0)
                self._places[around.group_id] = min(place, self._places.get(around.group_id, place))
        if around.awaits is not None:
            self._places[around.awaits] = self._places.get(task, 0) if around.begins is None else 0
            if around.group_id is not None and around.begins is None:
                self._inside[around.awaits] = around.group_id

    def _of_awaited(self, document: Document) -> None:
        """See what comes after which group."""
        around, task = document.neighbours, document.task_id
        if around.awaits is not None:
            if around.begins is not None and (outer := self._inside.get(around.begins)) is not None:
                self._inside.setdefault(around.awaits, outer)
            self._lead(around.awaits, task, self._inside.get(around.awaits))
        if around.join is not None:
            for each in around.body:
                self._lead(around.join, each, self._inside.get(around.join))

    def _of_followers(self, document: Document) -> None:
        """See what each task sent, or had sent."""
        around, task = document.neighbours, document.task_id
        before = task
        for each in around.next:
            self._lead(task, each, self._inside.get(task))
            before = each
        for each in around.prevented:
            if each != before:
                self._lead(before, each, self._inside.get(task))
                before = each
        for kind, ids in _hanging(document):
            for each in ids:
                if each not in self._drawn and (
                    each not in self._inside or self._inside[each] != self._inside.get(task)
                ):
                    self._hangs.setdefault(self._outermost(each, None), (task, kind))

    def _of_parent(self, document: Document) -> None:
        """See to those whom nobody named but they themselves: of a longer list, or put in a task's place."""
        task, before = document.task_id, self._documents.get(document.parent_id or "")
        if before is None or task in self._drawn:
            return
        parent = before.task_id
        first = self._outermost(task, self._inside.get(parent))
        if first == parent or first in self._after or first in self._hangs or self._inside.get(first) in self._groups:
            return
        if before.neighbours.next and all(self._after.get(each) != parent for each in before.neighbours.next):
            self._after[first] = parent
        else:
            self._hangs[first] = (parent, "child")

    def _lead(self, before: str, task: str, inside: str | None) -> None:
        """Have `task` come after `before`, or the outermost group that begins with it there."""
        parent = self._parent_of(task)
        if task in self._drawn or (parent not in (None, before) and task in self._next_of(parent)):
            return
        first = self._outermost(task, inside)
        self._after.setdefault(first, before)
        if inside is not None:
            self._inside.setdefault(first, inside)

    def _parent_of(self, task: str) -> str | None:
        document = self._documents.get(task)
        return None if document is None else document.parent_id

    def _next_of(self, task: str | None) -> Sequence[str]:
        document = self._documents.get(task or "")
        return () if document is None else document.neighbours.next

    def _outermost(self, element: str, within: str | None) -> str:
        """Return the outermost group within `within` that `element` is in, or `element`."""
        seen = {element}
        while (group := self._inside.get(element)) is not None and group != within and group not in seen:
            seen.add(group)
            element = group
        return element

    def _put(self, element: str, *, is_group: bool) -> None:
        after = self._after.get(element)
        inside = self._inside.get(element)
        on = self._hangs.get(element)
        if is_group:
            self._sketch.group(element, inside=inside, after=after, on=on)
        else:
            self._sketch.call(element, inside=inside, after=after, on=on)


def _hanging(document: Document) -> Iterator[tuple[EdgeKind, Sequence[str]]]:
    around = document.neighbours
    yield "callback", around.callbacks
    yield "errback", around.errbacks
    named = {*around.next, *around.callbacks, *around.errbacks}
    yield "child", [each for each in document.children if each not in named]
