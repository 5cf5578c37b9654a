"""The part of a workflow that a message's body carries: callbacks, error callbacks, the rest of its chain.

Source: Celery, "Message Protocol", the third element of a body: callbacks, errbacks, chain (last step first), chord.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal, cast

from ..core.values import value
from ..exceptions import CallError, MalformedMessage
from ..tasks.options import CALL_OPTIONS
from .serialized import as_canvas, as_form, with_stamps
from .signature import Canvas, Mode

#: How a chain goes on after a failure.
Instead = Literal["skip", "continue", "leave_out"]
_INSTEAD: Final = ("skip", "continue", "leave_out")
#: Celery's word for our marker in a chain; its workers don't know it.
_RESUME: Final = "aiotq.resume"


@value
class Resume:
    """A marker among a chain's remaining steps.

    If a step between the previous marker and this one fails, the chain goes on here; `instead` says what the failure
    turns into. `given` is the value that "skip" goes on with; None: the one that the failed step was given.
    """

    instead: Instead
    given: tuple[Any, ...] | None = None


#: Of a signature in a message: `attempt` and `replacements` are those of a task that was replaced.
_OPTIONS: Final = CALL_OPTIONS | {"attempt", "replacements"}

#: What holds forms in a composite's keyword arguments.
_OF_FORMS: Final = frozenset({"tasks", "header", "body", "task"})

Rest = tuple[Canvas[Any] | Resume, ...]


@value
class Broken:
    """The failure that an error callback is called for: the call's request, exception and traceback, as documents."""

    request: Mapping[str, Any]
    error: Mapping[str, Any]
    traceback: str | None


@value
class Links:
    """The callbacks and remaining steps of a task, as its message says.

    `given` is the value of the previous step. The message carries it only if it can be found nowhere else: neither as
    the first argument (`is_given`) nor in the join that the task awaits. `called_with` are the arguments that it runs
    with.
    """

    callbacks: tuple[Canvas[Any], ...] = ()
    errbacks: tuple[Canvas[Any], ...] = ()
    rest: Rest = ()
    mode: Mode = "once"
    broken: Broken | None = None
    is_given: bool = False
    given: tuple[Any, ...] = ()
    #: Of one that awaits a join: marks and joins behind it, the nearest first, that are part of what that join starts.
    #: If none of that runs they do not count.
    scope: int = 0
    called_with: tuple[Sequence[Any], Mapping[str, Any]] = ((), MappingProxyType({}))


NO_LINKS: Final = Links()


def embedded(links: Links) -> dict[str, Any]:
    """Return `links` in the form of a body's third element; what is not there is left out."""
    embed: dict[str, Any] = {}
    if links.callbacks:
        embed["callbacks"] = [as_form(callback) for callback in links.callbacks]
    if links.errbacks:
        embed["errbacks"] = [as_form(callback) for callback in links.errbacks]
    if links.rest:
        embed["chain"] = [_rest_form(each) for each in reversed(links.rest)]
    if links.mode != "once":
        embed["mode"] = links.mode
    if links.broken is not None:
        embed["broken"] = [dict(links.broken.request), dict(links.broken.error), links.broken.traceback]
    if links.is_given:
        embed["is_given"] = True
    elif links.given and links.rest[:1] == (Resume("skip"),):
        embed["given"] = list(links.given)
    if links.scope:
        embed["scope"] = links.scope
    return embed


def links_of(embed: object) -> Links:
    """Return what a body's third element says.

    Raises:
        MalformedMessage: it can't be read, or asks for what is not done here.
    """
    if not embed:
        return NO_LINKS
    if not isinstance(embed, (dict, Mapping)):
        raise MalformedMessage("the workflow that it carries is no mapping")
    given = cast("Mapping[str, Any]", embed)
    if given.get("chord"):
        raise MalformedMessage("it is in the header of a chord of Celery's own, which only Celery's workers can count")
    mode: Any = given.get("mode") or "once"
    broken = given.get("broken")
    if mode not in ("once", "map", "starmap"):
        raise MalformedMessage(f"its task can't be called as {mode!r}")
    try:
        return Links(
            tuple(map(_embedded_canvas, _list(given, "callbacks"))),
            tuple(map(_embedded_canvas, _list(given, "errbacks"))),
            tuple(map(_rest, reversed(_list(given, "chain")))),
            mode,
            None if broken is None else Broken(*broken),
            bool(given.get("is_given")),
            tuple(_list(given, "given")),
            scope=int(given.get("scope") or 0),
        )
    except (CallError, TypeError, ValueError) as exc:
        raise MalformedMessage(f"the workflow that it carries can't be read: {exc}") from None


def _rest_form(each: Canvas[Any] | Resume) -> dict[str, Any]:
    if not isinstance(each, Resume):
        return as_form(each)
    return {"task": _RESUME, "args": [each.instead] if each.given is None else [each.instead, list(each.given)]}


def _rest(form: object) -> Canvas[Any] | Resume:
    if isinstance(form, (dict, Mapping)):
        found = cast("Mapping[str, Any]", form)
        if found.get("task") == _RESUME:
            instead, *given = found.get("args") or (None,)
            if instead not in _INSTEAD:
                raise CallError(f"a chain can't resume with {instead!r}")
            return Resume(instead, tuple(cast("Sequence[Any]", given[0])) if given else None)
        return _embedded_canvas(found)
    return _embedded_canvas(form)


def _embedded_canvas(form: object) -> Canvas[Any]:
    if not isinstance(form, (dict, Mapping)):
        raise CallError(f"a signature's form is a mapping, not a {type(form).__name__}")
    return as_canvas(_without_celerys(cast("Mapping[str, Any]", form)))


def _without_celerys(form: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `form` without those options that only Celery has."""
    changed: dict[str, Any] = {}
    options: Any = form.get("options")
    if options and isinstance(options, (dict, Mapping)):
        found = cast("Mapping[str, Any]", options)
        if found.get("chord"):
            raise CallError("a step is in the header of a chord of Celery's own")
        if not found.keys() <= _OPTIONS:
            known = with_stamps(found)
            changed["options"] = {option: given for option, given in known.items() if option in _OPTIONS}
    if form.get("subtask_type") and isinstance(kwargs := form.get("kwargs"), (dict, Mapping)):
        inside = cast("Mapping[str, Any]", kwargs)
        changed["kwargs"] = {
            name: _plain_inside(given) if name in _OF_FORMS else given for name, given in inside.items()
        }
    return {**form, **changed} if changed else form


def _plain_inside(given: object) -> object:
    """Return a form without what only Celery has, and a list with such; what is neither as it is."""
    if isinstance(given, (dict, Mapping)):
        return _without_celerys(cast("Mapping[str, Any]", given))
    if isinstance(given, (list, tuple)):
        return [_plain_inside(each) for each in cast("Sequence[object]", given)]
    return given


def _list(embed: Mapping[str, Any], name: str) -> Sequence[Any]:
    found: Any = embed.get(name)
    if not found:
        return ()
    if not isinstance(found, (list, tuple)):
        raise CallError(f"its {name} are no list")
    return cast("Sequence[Any]", found)


def steps_of(rest: Rest) -> tuple[Canvas[Any], ...]:
    """Return the steps in `rest`."""
    return tuple(each for each in rest if not isinstance(each, Resume))
