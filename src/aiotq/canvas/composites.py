"""Chains, groups and chords: compositions of signatures and of each other.

Options of a composite are passed on at once to the signatures that they apply to, so only signatures have options.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Self, TypeVar, cast

from ..core.values import replace, value
from ..exceptions import CallError
from ..results.sets import GroupResult
from .signature import MAX_SHOWN_DEPTH, Canvas, Signature, WhenFailed, as_callbacks, sender_of

R_co = TypeVar("R_co", covariant=True)
Handle_co = TypeVar("Handle_co", covariant=True)

#: Options of a chord that apply to its header only, and to its body only; all others apply to both.
_OF_HEADER: Final = frozenset({"countdown", "eta"})
_OF_LAST: Final = frozenset({"task_id", "link"})


@value(eq=False)
class Chain(Canvas[Handle_co]):
    """Steps, each called with the value of the step before; made by `chain` and `|`.

    `tasks` has no chains (except those with an `allow_failure` of their own), and no step after a group: that is a
    chord.
    """

    tasks: tuple[Canvas[Any], ...]
    when_failed: WhenFailed = "fail"

    def __repr__(self) -> str:
        return self.text()

    def text(self, depth: int = 0) -> str:
        text = " | ".join(_texts(self.tasks, depth)) or "chain()"
        return text if self.when_failed == "fail" else f"({text})"

    @property
    def id(self) -> str | None:
        return self.tasks[-1].id if self.tasks else None

    def as_part(self) -> Canvas[Any]:
        """Return its only step, if it has one: a chain of one step differs only when it is called."""
        if len(self.tasks) != 1:
            return self
        step = self.tasks[0].as_part()
        return step if self.when_failed == "fail" else step.allow_failure(self.when_failed)

    @property
    def parts(self) -> Sequence[Canvas[Any]]:
        return self.tasks

    def clone(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
        """Return a copy with arguments and options for its first task; `task_id` and `link` go to the last one."""
        if not (args or kwargs or options):
            return self
        self._refuse_empty()
        of_last = {option: options.pop(option) for option in _OF_LAST if option in options}
        errbacks = options.pop("link_error", None)
        first, *others = self.tasks
        steps = [first.clone(args, kwargs, **options), *others]
        if of_last:
            steps[-1] = steps[-1].clone(**of_last)
        changed = replace(self, tasks=tuple(steps))
        return changed if errbacks is None else changed.link_error(*as_callbacks("link_error", errbacks))

    def link(self, *callbacks: Canvas[Any]) -> Self:
        self._refuse_empty()
        return replace(self, tasks=(*self.tasks[:-1], self.tasks[-1].link(*callbacks)))

    def link_error(self, *callbacks: Canvas[Any]) -> Self:
        return replace(self, tasks=tuple(step.link_error(*callbacks) for step in self.tasks))

    def set_immutable(self, immutable: bool) -> Self:
        return replace(self, tasks=tuple(each.set_immutable(immutable) for each in self.tasks[:1]) + self.tasks[1:])

    def unchain_tasks(self) -> list[Canvas[Any]]:
        """Return its steps."""
        return list(self.tasks)

    def _refuse_empty(self) -> None:
        if not self.tasks:
            raise CallError("an empty chain has nothing to call: leave it out")


@value(eq=False)
class Group(Canvas[GroupResult[R_co]]):
    """Tasks and workflows that run at the same time; made by `group`. Its value is the list of their values."""

    tasks: tuple[Canvas[Any], ...]
    id: str | None = None  # pyright: ignore[reportIncompatibleMethodOverride]  # a field is read as a property is
    when_failed: WhenFailed = "fail"  #: always: a group passes `allow_failure` on to its tasks

    def __repr__(self) -> str:
        return self.text()

    def text(self, depth: int = 0) -> str:
        return f"group([{', '.join(_texts(self.tasks, depth))}])"

    @property
    def fields(self) -> tuple[Any, ...]:
        return (self.id,)

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def parts(self) -> Sequence[Canvas[Any]]:
        return self.tasks

    def clone(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
        """Return a copy with arguments and options for each of its tasks; `task_id` is the group's own id."""
        if not (args or kwargs or options):
            return self
        group_id = options.pop("task_id", None) or self.id
        if "link" in options:
            self.link()
        return replace(self, tasks=tuple(task.clone(args, kwargs, **options) for task in self.tasks), id=group_id)

    def allow_failure(self, what: WhenFailed) -> Self:
        """Return a copy with this for each of its tasks without an `allow_failure` of its own."""
        return replace(
            self, tasks=tuple(task if task.when_failed != "fail" else task.allow_failure(what) for task in self.tasks)
        )

    def link(self, *callbacks: Canvas[Any]) -> Self:
        """Refuse: a group has no single end.

        Raises:
            CallError: always.
        """
        raise CallError(f"{self!r} has no single end to link to: use group | task, or link its tasks")

    def link_error(self, *callbacks: Canvas[Any]) -> Self:
        return replace(self, tasks=tuple(task.link_error(*callbacks) for task in self.tasks))

    def set_immutable(self, immutable: bool) -> Self:
        return replace(self, tasks=tuple(task.set_immutable(immutable) for task in self.tasks))

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> Self:
        """Return a copy whose tasks start one after the other: the first after `start` seconds, then `step` apart.

        Tasks that would start later than `stop` seconds after sending start with the last one that does not.
        """
        starts = (start + step * number for number in range(len(self.tasks)))
        last = math.inf if not stop else start + step * max(math.floor((stop - start) / step), 0)
        return replace(
            self,
            tasks=tuple(task.set(countdown=min(at, last)) for task, at in zip(self.tasks, starts, strict=True)),
        )


@value(eq=False)
class Chunks(Group[R_co]):
    """Many calls of a task, several in each message; made by `Task.chunks`."""

    def __repr__(self) -> str:
        return self.text()

    def group(self) -> Group[R_co]:
        """Return it as a plain group."""
        return Group(self.tasks, self.id)


@value(eq=False)
class Chord(Canvas[Handle_co]):
    """A group (the header), and a body that is called once with the list of its values; made by `chord` and `|`."""

    header: Group[Any]
    body: Canvas[Handle_co]
    when_failed: WhenFailed = "fail"

    def __repr__(self) -> str:
        return self.text()

    def text(self, depth: int = 0) -> str:
        body = self.body
        first, rest = (body.tasks[0], body.tasks[1:]) if isinstance(body, Chain) and body.tasks else (body, ())
        if isinstance(first, Signature):
            call = cast("Signature[Any]", first)
            members = f"[{', '.join(_texts(self.header.tasks, depth))}]"
            text = f"%{call.called_with([members, *map(repr, call.args)])}"
        else:
            text = " | ".join(_texts((self.header, first), depth))
        return " | ".join([text, *_texts(rest, depth)])

    @property
    def id(self) -> str | None:
        return self.body.id

    @property
    def tasks(self) -> tuple[Canvas[Any], ...]:
        """The tasks of the header."""
        return self.header.tasks

    @property
    def parts(self) -> Sequence[Canvas[Any]]:
        return self.header, self.body

    def clone(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
        """Return a copy with arguments for each task of its header.

        `task_id` and `link` go to the body, `countdown` and `eta` to the header, other options to both. `link_error`
        goes to the body, and to the header too if the setting `task_allow_error_cb_on_chord_header` is True.
        """
        if not (args or kwargs or options):
            return self
        errbacks = options.pop("link_error", None)
        of_header = {option: given for option, given in options.items() if option not in _OF_LAST}
        of_body = {option: given for option, given in options.items() if option not in _OF_HEADER}
        changed = replace(self, header=self.header.clone(args, kwargs, **of_header), body=self.body.clone(**of_body))
        return changed if errbacks is None else changed.link_error(*as_callbacks("link_error", errbacks))

    def link(self, *callbacks: Canvas[Any]) -> Self:
        return replace(self, body=self.body.link(*callbacks))

    def set_immutable(self, immutable: bool) -> Self:
        return replace(self, body=self.body.set_immutable(immutable))

    def link_error(self, *callbacks: Canvas[Any]) -> Self:
        sender = sender_of(self)
        both = sender is not None and sender.conf.task_allow_error_cb_on_chord_header
        header = self.header.link_error(*callbacks) if both else self.header
        return replace(self, header=header, body=self.body.link_error(*callbacks))


def chained(steps: Iterable[Canvas[Any]], *, is_called: bool = False) -> Canvas[Any]:
    """Return the chain of `steps`; a single step is returned as it is, except a call with `is_called`."""
    flat: list[Canvas[Any]] = []
    for each in steps:
        given = each.as_part()
        for step in given.tasks if isinstance(given, Chain) and given.when_failed == "fail" else (given,):
            last = flat[-1] if flat else None
            if isinstance(last, Group):
                flat[-1] = Chord(cast("Group[Any]", last), step)
            elif isinstance(last, Chord) and last.when_failed == "fail":
                flat[-1] = replace(last, body=chained((last.body, step)))
            else:
                flat.append(step)
    is_itself = len(flat) == 1 and not (is_called and isinstance(cast(object, flat[0]), Signature))
    return flat[0] if is_itself else Chain(tuple(flat))


def _texts(parts: Iterable[Canvas[Any]], depth: int) -> Iterable[str]:
    if depth >= MAX_SHOWN_DEPTH:
        return ("...",)
    return (part.text(depth + 1) for part in parts)
