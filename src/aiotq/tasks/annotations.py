"""Options of tasks that the settings say (`task_annotations`), in place of what their declarations say."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from types import MethodType
from typing import Any, Final, cast

from ..core.values import shown, value
from ..exceptions import InvalidOption, InvalidSetting
from .handlers import NAMES as HANDLERS
from .handlers import overridden
from .options import TUPLES, TaskOptions, check_declaration
from .task import Task

SETTING: Final = "task_annotations"
#: What makes a task the task it is: it stands in the declaration alone.
_FIXED: Final = ("name", "bind", "run", "base", "typing", "pydantic", "shadow_name")
_WANTED: Final = (
    'a mapping of task names, patterns ("feed.*") or "*" to their options, an object with annotate(task), a function '
    "of a task, or a list of these"
)
_GLOB: Final = frozenset("*?[")

Annotate = Callable[[Task[..., Any]], object]


@value
class Rule:
    """One annotation: `place` is where it stands in the setting; `options_for` gives None for tasks it leaves alone."""

    place: str
    options_for: Annotate


#: What annotated tasks declare themselves, and the names of their handlers that are annotations.
_originals: Final[weakref.WeakKeyDictionary[Task[..., Any], tuple[TaskOptions, set[str]]]] = weakref.WeakKeyDictionary()


def rules_of(given: object) -> Sequence[Rule]:
    """Return the annotations in the setting, in the order in which they are applied: a later one stands over others.

    In one mapping `"*"` comes first, then patterns in their order, then exact names.

    Raises:
        InvalidSetting: one of them can't be used; the text names the place.
    """
    if given is None:
        return ()
    if not isinstance(given, (list, tuple)):
        return _rules(given, "")
    return [rule for index, each in enumerate(cast("Sequence[object]", given)) for rule in _rules(each, f"[{index}]")]


def annotate(task: Task[..., Any], rules: Sequence[Rule]) -> None:
    """Have `task` be as it declares, but for what `rules` say of it.

    Raises:
        InvalidOption: an annotation has an option that is unknown, or impossible for this task.
    """
    if not rules and task not in _originals:
        return
    declared, handlers = _originals.setdefault(task, (task.declared, set()))
    for name in handlers:
        delattr(task, name)
    handlers.clear()
    options: dict[str, Any] = {}
    for rule in rules:
        found = rule.options_for(task)
        if found is None:
            continue
        where = f"task {task.name}: {SETTING}{rule.place}"
        if not isinstance(found, Mapping):
            raise InvalidOption(f"{where} must give a mapping of options or None, not {shown(found)}")
        said = dict(cast("Mapping[str, Any]", found))
        if (wrong := _what_is_wrong(said)) is not None:
            raise InvalidOption(f"{where}: {wrong}")
        for name in HANDLERS:
            if name in said:
                setattr(task, name, MethodType(said.pop(name), task))
                handlers.add(name)
        said.update((option, tuple(said[option])) for option in TUPLES & said.keys())
        try:
            task.declare(replace(declared, **{**options, **said}))
        except InvalidOption as exc:
            raise InvalidOption(f"{where}: {exc}") from exc
        options |= said
    if not options:
        task.declare(declared)
    task.handlers = overridden(type(task)) | handlers


def _rules(given: object, place: str) -> Sequence[Rule]:
    if isinstance(given, Mapping):
        named = cast("Mapping[object, object]", given)
        for name, options in named.items():
            if not isinstance(name, str) or not name:
                raise InvalidSetting(SETTING, name, f"{_WANTED}; this names no task{_at(place)}")
            if not isinstance(options, Mapping):
                raise InvalidSetting(SETTING, options, f"a mapping of options at {place}[{name!r}]")
            if (wrong := _what_is_wrong(cast("Mapping[str, Any]", options))) is not None:
                raise InvalidSetting(
                    SETTING, dict(cast("Mapping[str, Any]", options)), f"possible: at {place}[{name!r}]: {wrong}"
                )
        ordered = sorted(cast("Mapping[str, Mapping[str, Any]]", named).items(), key=_rank)
        return [Rule(f"{place}[{name!r}]", partial(_by_name, name, options)) for name, options in ordered]
    if not isinstance(given, type) and callable(method := getattr(given, "annotate", None)):
        return [Rule(place, cast(Annotate, method))]
    if not isinstance(given, type) and callable(given):
        return [Rule(place, cast(Annotate, given))]
    raise InvalidSetting(SETTING, given, f"{_WANTED}{_at(place)}")


def _rank(named: tuple[str, object]) -> int:
    name, _ = named
    if name == "*":
        return 0
    return 1 if _GLOB & set(name) else 2


def _by_name(name: str, options: Mapping[str, Any], task: Task[..., Any]) -> Mapping[str, Any] | None:
    return options if name == task.name or fnmatchcase(task.name, name) else None


def _what_is_wrong(options: Mapping[str, Any]) -> str | None:
    """Return why no task can be annotated so, if none can."""
    for name, given in options.items():
        if name in _FIXED:
            return f"option {name} stands in the declaration of a task alone"
        if name in HANDLERS and not callable(given):
            return f"{name} must be a function of the task and what {name} is called with, not {shown(given)}"
    try:
        check_declaration({name: given for name, given in options.items() if name not in HANDLERS})
    except InvalidOption as exc:
        return str(exc)
    return None


def _at(place: str) -> str:
    return f" at {place}" if place else ""
