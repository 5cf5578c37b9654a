"""The setting `task_routes`: its forms, checked when it is set, and the routers made of it."""

from __future__ import annotations

import fnmatch
import functools
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ...core.settings import EXCHANGE_TYPES
from ...exceptions import InvalidSetting
from ...wire.message import is_name
from .declared import Exchange, Queue, listed

#: Says what an option of a call must be if it can't be `given` in a route, else None.
OptionCheck = Callable[[str, object], str | None]


class Unusable(Exception):
    """A part of a route that can't be used; `at` is where in it."""

    def __init__(self, given: object, expected: str, at: str = "") -> None:
        self.given, self.expected = given, expected
        self.at = f" at {at}" if at else ""
        super().__init__(expected)


class Names:
    """Routes by exact name, then by pattern in their order."""

    def __init__(self) -> None:
        self._exact: dict[str, Mapping[str, Any] | None] = {}
        self._patterns: list[tuple[re.Pattern[str], Mapping[str, Any] | None]] = []

    def add(self, key: object, route: object, place: str, check: OptionCheck) -> None:
        given = key
        normal = normal_route(route, f"{place}[{shown_key(key)}]", check)
        if isinstance(key, re.Pattern) and isinstance(cast("re.Pattern[Any]", key).pattern, str):
            self._patterns.append((cast("re.Pattern[str]", key), normal))
        elif isinstance(key, str) and key:
            if any(sign in key for sign in "*?["):
                self._patterns.append((re.compile(fnmatch.translate(key)), normal))
            else:
                self._exact[key] = normal
        else:
            raise Unusable(given, "a task's name, a glob or a compiled regex of text", f"a key of task_routes{place}")

    def answer(self, name: str) -> Mapping[str, Any] | None:
        if name in self._exact:
            return self._exact[name]
        matching = (route for pattern, route in self._patterns if pattern.match(name) and route is not None)
        return next(matching, None)


@dataclass(frozen=True, slots=True)
class Function:
    """A router of the user's own: a function, or an object with `route_for_task`."""

    place: str
    router: Callable[..., Any]

    def ask(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any], task: object
    ) -> object:
        if hasattr(self.router, "route_for_task"):
            return cast(Any, self.router).route_for_task(name, args, kwargs)
        return self.router(name, args, kwargs, options, task=task)


def check_routes(given: object, check: OptionCheck) -> object:
    """Return the setting `task_routes` as it is, if it can be used; what it names is not imported yet.

    Raises:
        InvalidSetting: it can't; the text names the place.
    """
    for _ in compiled(given, check, imports=False):
        pass
    return () if given is None else given


def compiled(given: object, check: OptionCheck, *, imports: bool = True) -> list[Names | Function]:
    """Return the routers in the setting `task_routes`, in their order.

    Raises:
        InvalidSetting: one of them can't be used.
    """
    try:
        if given is None:
            return []
        if not isinstance(given, (list, tuple)):
            return [_router(given, "", check, imports)]
        routers: list[Names | Function] = []
        pairs: Names | None = None  # neighbouring pairs are one router, whose exact names come first
        for index, item in enumerate(cast("Sequence[object]", given)):
            place = f"[{index}]"
            if (pair := _pair(item)) is not None:
                if pairs is None:
                    routers.append(pairs := Names())
                pairs.add(*pair, place, check)
            else:
                pairs = None
                routers.append(_router(item, place, check, imports))
    except Unusable as exc:
        raise InvalidSetting("task_routes", exc.given, f"{exc.expected}{exc.at}") from exc.__cause__
    return routers


def _pair(item: object) -> tuple[object, object] | None:
    """Return the name and the route if `item` is those two."""
    if not isinstance(item, (list, tuple)):
        return None
    parts = tuple(cast("Sequence[object]", item))
    if len(parts) != 2 or not _is_key(parts[0]):
        return None
    return parts


def _is_key(given: object) -> bool:
    return isinstance(given, (str, re.Pattern))


def _router(item: object, place: str, check: OptionCheck, imports: bool) -> Names | Function:
    if isinstance(item, Mapping):
        names = Names()
        for key, route in cast("Mapping[object, object]", item).items():
            names.add(key, route, place, check)
        return names
    if isinstance(item, (list, tuple)):
        names = Names()
        for index, each in enumerate(cast("Sequence[object]", item)):
            if (pair := _pair(each)) is None:
                raise Unusable(each, "a pair of name and route", f"{place}[{index}]")
            names.add(*pair, f"{place}[{index}]", check)
        return names
    if isinstance(item, str):
        function = _imported(item, place) if imports or not _is_path(item) else _not_imported
        return Function(f"{place} ({item})", _usable(function, item, place))
    if not callable(item) and not hasattr(item, "route_for_task"):
        raise Unusable(item, 'a mapping, a function, "module:function" or a list of these', place)
    label = getattr(item, "__qualname__", type(item).__qualname__)
    return Function(f"{place} ({label})", _usable(item, item, place))


def _usable(router: object, given: object, place: str) -> Callable[..., Any]:
    if isinstance(router, type):
        router = cast("type[Any]", router)()
    asked = getattr(router, "route_for_task", router)
    if not callable(asked):
        raise Unusable(given, "a function or an object with route_for_task", place)
    if inspect.iscoroutinefunction(asked):
        raise Unusable(given, "a plain function, which decides without waiting", place)
    return cast("Callable[..., Any]", router)


def _is_path(text: str) -> bool:
    module, colon, name = text.partition(":") if ":" in text else text.rpartition(".")
    return bool(colon) and bool(module) and name.isidentifier()


def _imported(text: str, place: str) -> object:
    module, _, name = text.partition(":") if ":" in text else text.rpartition(".")
    if not _is_path(text):
        raise Unusable(text, 'the path of a router ("module:function"), or a mapping of names to queues', place)
    try:
        return functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as exc:
        raise Unusable(text, f"the path of a router that can be imported ({exc})", place) from exc


def _not_imported(*_: object, **__: object) -> None:
    """Stands for a router that is imported when the app connects."""


def normal_route(route: object, place: str, check: OptionCheck) -> Mapping[str, Any] | None:
    """Return `route` as options, all of them checked; None: it does not say where."""
    if route is None:
        return None
    if isinstance(route, (str, Queue)):
        return {"queue": _queue_name(route, place)}
    if not isinstance(route, Mapping):
        raise Unusable(route, "a queue's name, a mapping of options or None", place)
    options = cast("Mapping[object, Any]", route)
    normal: dict[str, Any] = {}
    for option, given in options.items():
        if not isinstance(option, str):
            raise Unusable(option, "an option's name", f"a key of {place or 'the route'}")
        at = f"{place}[{option!r}]"
        if option == "queue":
            normal[option] = _queue_name(given, at)
        elif option == "exchange_type":
            if given not in EXCHANGE_TYPES or not is_name(options.get("exchange")):
                raise Unusable(given, f"{listed(EXCHANGE_TYPES)}, beside the name of an exchange,", at)
        elif not (option == "exchange" and isinstance(given, Exchange)) and (expected := check(option, given)):
            raise Unusable(given, expected, at)
        else:
            normal[option] = given
    if "exchange_type" in options:
        normal["exchange"] = Exchange(normal["exchange"], options["exchange_type"])
    return normal


def _queue_name(given: object, at: str) -> str:
    if isinstance(given, Queue):
        return given.name
    if not is_name(given):
        raise Unusable(given, "a queue's name", at)
    return cast(str, given)


def shown_key(key: object) -> str:
    return repr(cast("re.Pattern[Any]", key).pattern if isinstance(key, re.Pattern) else key)
