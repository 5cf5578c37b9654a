"""The pure tasks of the property tests, the canvases that are made of specs, and the diary of what was called."""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiotq import AioTQ, Snooze, Task, chain, chord, group
from aiotq.canvas.signature import Canvas

from .specs import NO_ID, Adds, Call, Chain, Chord, Chunked, Fails, Group, Mapped, Replaces, Spec, text_of, value_of


class TryAgain(Exception):
    """What tasks are retried for, automatically."""


@dataclass
class Story:
    """One workflow: what its calls will do, and which were made, with which arguments, how often."""

    name: str
    specs: dict[str, Call | Mapped | Chunked] = field(default_factory=dict[str, Call | Mapped | Chunked])
    calls: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])

    def id_of(self, task_id: str | None) -> str:
        """Return the label that is the id of a call, or `NO_ID`."""
        prefix = f"{self.name}."
        return task_id.removeprefix(prefix) if task_id is not None and task_id.startswith(prefix) else NO_ID


def _declared(app: AioTQ, name: str) -> Callable[[Callable[..., Any]], Task[..., Any]]:
    def declare(fn: Callable[..., Any]) -> Task[..., Any]:
        made: Task[..., Any] = app.task(
            bind=True, name=name, max_retries=None, default_retry_delay=0, autoretry_for=(TryAgain,)
        )(fn)
        return made

    return declare


class Tasks:
    """The tasks, declared for one app."""

    def __init__(self, app: AioTQ) -> None:
        self.app = app
        self.stories: dict[str, Story] = {}
        self._runs: Counter[tuple[str | None, str]] = Counter()
        declared = functools.partial(_declared, app)

        @declared("canvas.coroutine")
        async def coroutine(self_: Task[..., Any], *args: Any, at: str, fixed: bool) -> Any:
            value = self._run(self_, args, at, fixed)
            story, call = self._found(at)
            if isinstance(call, Call) and isinstance(call.does, Adds):
                await self_.add_to_chord(self.built(call.does.member, story, fixed))
            return value

        @declared("canvas.thread")
        def thread(self_: Task[..., Any], *args: Any, at: str, fixed: bool) -> Any:
            return self._run(self_, args, at, fixed)

        @declared("canvas.told_all")
        async def told_all(
            self_: Task[..., Any], request: Any, exc: Any, traceback: Any, *, at: str, fixed: bool
        ) -> Any:
            assert request.id is not None
            story, _ = self._found(at)
            return self._run(self_, (story.id_of(request.id), exc), at, fixed)

        @declared("canvas.told_id")
        async def told_id(self_: Task[..., Any], task_id: str, *, at: str, fixed: bool) -> Any:
            story, _ = self._found(at)
            return self._run(self_, (story.id_of(task_id),), at, fixed)

        @app.task(name="canvas.item")
        async def item(at: str, index: int, also: str = "") -> str:
            return self._item(at, index, also)

        @app.task(name="canvas.item_of_map")
        async def item_of_map(both: Sequence[Any]) -> str:
            return self._item(both[0], both[1], "")

        self._by_kind = {"coroutine": coroutine, "thread": thread, "told_all": told_all, "told_id": told_id}
        self._item_task = item
        self._map_task = item_of_map

    def story(self, name: str) -> Story:
        """Begin the story of a workflow."""
        return self.stories.setdefault(name, Story(name))

    def built(self, spec: Spec, story: Story, fixed: bool = True) -> Canvas[Any]:
        """Return the canvas that `spec` describes; `fixed`: its calls have their labels as ids."""
        canvas = self._composed(spec, story, fixed)
        if spec.allow_failure != "fail":
            canvas = canvas.allow_failure(spec.allow_failure)
        if not isinstance(spec, (Group, Chunked)) and spec.links:
            canvas = canvas.link(*(self.built(link, story, fixed=False) for link in spec.links))
        if spec.errlinks:
            canvas = canvas.link_error(*(self.built(link, story, fixed=False) for link in spec.errlinks))
        return canvas

    def _composed(self, spec: Spec, story: Story, fixed: bool) -> Canvas[Any]:
        inner = functools.partial(self.built, story=story, fixed=fixed)
        match spec:
            case Call(label, args, is_immutable):
                at = self._known(spec, story, label)
                task = self._by_kind[spec.kind]
                call = (task.si if is_immutable else task.s)(*args, at=at, fixed=fixed)
                options: dict[str, Any] = {"task_id": at} if fixed else {}
                if spec.is_late:
                    options["countdown"] = 0.01
                if spec.is_ignored:
                    options["ignore_result"] = True
                return call.set(**options)
            case Mapped(label):
                at = self._known(spec, story, label)
                called = (
                    self._item_task.starmap([(at, index, "also") for index in range(spec.size)])
                    if spec.is_star
                    else self._map_task.map([[at, index] for index in range(spec.size)])
                )
                return called.set(task_id=at) if fixed and spec.has_id else called
            case Chunked(label):
                at = self._known(spec, story, label)
                chunks = self._item_task.chunks([(at, index, "also") for index in range(spec.size)], spec.each)
                return chunks.group() if spec.size % 2 else chunks
            case Chain(steps):
                built = [inner(step) for step in steps]
                return functools.reduce(operator.or_, built) if spec.is_piped and built else chain(*built)
            case Group(members):
                return group([inner(member) for member in members])
            case Chord(header, body):
                return inner(header) | inner(body) if spec.is_piped else chord(inner(header), inner(body))

    def _known(self, spec: Call | Mapped | Chunked, story: Story, label: str) -> str:
        story.specs[label] = spec
        return f"{story.name}.{label}"

    def _found(self, at: str) -> tuple[Story, Call | Mapped | Chunked]:
        name, _, label = at.partition(".")
        story = self.stories[name]
        return story, story.specs[label]

    def _run(self, task: Task[..., Any], args: Sequence[Any], at: str, fixed: bool) -> str:
        story, call = self._found(at)
        assert isinstance(call, Call)
        story.calls[call.label, text_of(args)] += 1
        before = self._runs[task.request.id, at]
        self._runs[task.request.id, at] += 1
        if before < len(call.before):
            match call.before[before]:
                case "retry":
                    raise task.retry(countdown=0)
                case "autoretry":
                    raise TryAgain
                case "snooze":
                    raise Snooze(0)
        match call.does:
            case Fails():
                raise ValueError(call.label)
            case Replaces(by):
                raise task.replace(self.built(by, story, fixed))
            case _:
                return value_of(call.label, args)

    def _item(self, at: str, index: int, also: str) -> str:
        story, spec = self._found(at)
        assert isinstance(spec, (Mapped, Chunked))
        story.calls[f"{spec.label}:{index}", f"[{also}]"] += 1
        if index == spec.fails_at:
            raise ValueError(f"{spec.label}:{index}")
        return f"{spec.label}:{index}"
