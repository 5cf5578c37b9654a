"""What a task's parameters ask for with `Depends`: found when the task is declared, made for each run in a worker.

The dependency functions are FastAPI's: its `Depends` is known by its shape, and nothing of it is imported. A run makes
each of them once, in the order in which they are asked for, and closes them in the reverse order, after the task's
function has ended and before the outcome is committed.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Final, Literal, NamedTuple, NoReturn, cast, get_args, get_origin

from ..core.hints import hints_of
from ..core.values import shown
from ..exceptions import CallError, InvalidArguments, InvalidOption
from ..worker.lifespans import WorkerLifespan

#: How a dependency is made: called, awaited, entered, or there already.
Way = Literal["call", "await", "enter", "enter async", "lifespan"]
Overrides = Mapping[Callable[..., Any], Callable[..., Any]]

#: Modules whose objects stand for a part of an HTTP request, or for the request itself.
_OF_REQUESTS: Final = frozenset({"fastapi", "starlette"})
_PLAIN: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_OPEN: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Marker:
    """Says what a parameter gets; what `Depends` returns."""

    dependency: Callable[..., Any] | None = None
    use_cache: bool = True


def Depends(dependency: Callable[..., Any] | None = None, *, use_cache: bool = True) -> Any:
    """Have the worker give a parameter what `dependency` returns or yields: `Annotated[Session, Depends(get_session)]`.

    `dependency` is a function (`async def` or plain), a class, or an `@app.worker_lifespan`; without one it is the
    class that the parameter is annotated with. What it yields is closed when the task has ended. A run makes it once,
    unless `use_cache=False`.
    """
    return Marker(dependency, use_cache)


_NOT_GIVEN: Final = "a worker gives this parameter its value; a direct call of the function must give one"


class _Injected:
    """Stands for what a worker gives."""

    def __repr__(self) -> str:
        return "INJECTED"

    def __getattr__(self, name: str) -> NoReturn:
        text = f"{name}: {_NOT_GIVEN}"
        raise AttributeError(text) if name.startswith("__") else CallError(text)

    def _refuse(self, *_: object) -> NoReturn:
        raise CallError(f"INJECTED: {_NOT_GIVEN}")

    __call__ = __getitem__ = __setitem__ = __contains__ = __len__ = __iter__ = __next__ = __aiter__ = _refuse
    __await__ = __enter__ = __exit__ = __aenter__ = __aexit__ = __add__ = __radd__ = __lt__ = __int__ = _refuse


#: A default for parameters with `Depends`, so that type checkers don't ask calls for them.
INJECTED: Final[Any] = _Injected()


class Asked(NamedTuple):
    """A parameter that gets what `call` makes."""

    name: str
    call: Callable[..., Any]
    use_cache: bool


class Step(NamedTuple):
    """One dependency of a run: how it is made, and which earlier steps its parameters get."""

    call: Callable[..., Any]
    way: Way
    given: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run makes, in order, and which of it the task's parameters get."""

    steps: tuple[Step, ...]
    given: tuple[tuple[str, int], ...]

    @property
    def needs_loop(self) -> bool:
        """Whether one of the steps is a coroutine."""
        return any(step.way in {"await", "enter async"} for step in self.steps)


class Dependencies:
    """The dependencies of one task.

    Raises:
        InvalidOption: one of them can't be given in a worker; the text names the parameter.
    """

    def __init__(self, task: str, asked: Sequence[Asked], positional: Sequence[str | None] | None) -> None:
        """`positional` has the names of the other parameters, if one of them stands after one of these; None: it has
        no name for callers."""
        self._task = task
        self._asked = asked
        self._positional = positional
        self._plan = planned(task, asked, {})
        self.names = frozenset(each.name for each in asked)

    def plan(self, overrides: Overrides) -> Plan:
        """Return what a run makes, with `overrides` in place of what they stand for."""
        return planned(self._task, self._asked, overrides) if overrides else self._plan

    def check_way(self, *, runs_in: str, is_coroutine: bool) -> None:
        """Raise `InvalidOption` if a task that runs so can't have them."""
        if runs_in != "process":
            return
        for step in self._plan.steps:
            what = f'task {self._task}: run="process" and Depends({_name(step.call)})'
            if step.way == "lifespan":
                raise InvalidOption(f"{what}: a child process has no worker lifespans; open it in worker_process_init")
            if not is_coroutine and step.way in {"await", "enter async"}:
                raise InvalidOption(f"{what}: there is no loop in it for an async dependency; make the task async too")

    def check_overrides(self, overrides: Overrides) -> None:
        """Raise `CallError` if one of `overrides` is for a run in a child process."""
        for step in self._plan.steps:
            if step.call in overrides:
                raise CallError(
                    f"task {self._task} runs in a child process, where dependency_overrides has nothing for "
                    f"{_name(step.call)}: test its function, or run it with apply()"
                )

    def given_to(self, function: Callable[..., Any], given: Mapping[str, Any]) -> Callable[..., Any]:
        """Return `function`, which takes the arguments of a call, with what is `given` to its other parameters."""
        if self._positional is None:
            return functools.partial(function, **given)
        return functools.partial(self._by_name, self._positional, function, given)

    def _by_name(
        self,
        names: Sequence[str | None],
        function: Callable[..., Any],
        given: Mapping[str, Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if len(args) > len(names):
            raise InvalidArguments(f"{self._task} takes {len(names)} positional arguments, not {len(args)}")
        first = names.count(None)
        named = dict(zip(names[first:], args[first:], strict=False))
        return function(*args[:first], **cast("Any", named), **kwargs, **given)  # Python refuses what is given twice


def dependencies_of(fn: Callable[..., Any], task: str, *, skip_first: bool) -> Dependencies | None:
    """Return the dependencies of a task's function; None if it has none.

    Raises:
        InvalidOption: one of them can't be given in a worker.
    """
    fn, is_inner = _asking(fn)
    parameters = list(inspect.signature(fn, follow_wrapped=False).parameters.values())[1 if skip_first else 0 :]
    hints = hints_of(fn)
    asked: list[Asked] = []
    others: list[str | None] = []
    is_mixed = False
    for each in parameters:
        owner = f"task {task}: parameter {each.name!r}"
        marker = _marker_of(each, hints, owner)
        if marker is None:
            is_mixed = is_mixed or (bool(asked) and each.kind is each.POSITIONAL_OR_KEYWORD)
            if asked and each.kind is each.VAR_POSITIONAL:
                raise InvalidOption(f"{owner}: what is injected must stand after it")
            if each.kind in {each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD}:
                others.append(each.name if each.kind is each.POSITIONAL_OR_KEYWORD else None)
            continue
        if each.kind not in _PLAIN:
            raise InvalidOption(f"{owner}: what is injected is given by name, so it can't be positional only, * or **")
        asked.append(_asked(each, marker, hints, owner))
    if not asked:
        return None
    if is_mixed and is_inner:
        raise InvalidOption(
            f"task {task}: the arguments of calls pass through a decorator by position, so what is injected "
            f"({', '.join(each.name for each in asked)}) must stand after them"
        )
    return Dependencies(task, asked, others if is_mixed else None)


def _asking(fn: Callable[..., Any]) -> tuple[Callable[..., Any], bool]:
    """Return the function whose parameters count: that inside of decorators which pass on whatever they get."""
    is_inner = False
    while (inner := getattr(fn, "__wrapped__", None)) is not None:
        kinds = {each.kind for each in inspect.signature(fn, follow_wrapped=False).parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
        fn, is_inner = inner, True
    return fn, is_inner


def _is_marker(given: object) -> bool:
    """Whether `given` is a `Depends`: ours, FastAPI's, or one derived from that."""
    if isinstance(given, Marker):
        return True
    return (
        any(kind.__name__ == "Depends" for kind in type(given).__mro__)
        and hasattr(given, "dependency")
        and hasattr(given, "use_cache")
    )


def _marker_of(parameter: inspect.Parameter, hints: Mapping[str, Any], owner: str) -> Any:
    """Return the `Depends` of a parameter, if it has one."""
    if _is_marker(parameter.default):
        return parameter.default
    hint = hints.get(parameter.name)
    if hint is None:
        if isinstance(parameter.annotation, str) and "Depends(" in parameter.annotation:
            raise InvalidOption(
                f"{owner}: its annotation {parameter.annotation!r} can't be evaluated: import all of its names in the "
                "module, and not only for type checkers"
            )
        return None
    found = [each for each in getattr(hint, "__metadata__", ()) if _is_marker(each)]
    return found[-1] if found else None


def _asked(parameter: inspect.Parameter, marker: Any, hints: Mapping[str, Any], owner: str) -> Asked:
    call = marker.dependency
    if call is None:
        hint = hints.get(parameter.name, parameter.annotation)
        call = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if not isinstance(get_origin(call) or call, type) or get_origin(call) is UnionType:
            raise InvalidOption(f"{owner}: Depends() takes the class of the annotation, and {shown(call)} is none")
    if not callable(call):
        raise InvalidOption(f"{owner}: Depends takes a function or a class, not {shown(call)}")
    try:
        hash(call)
    except TypeError:
        raise InvalidOption(f"{owner}: {shown(call)} has no hash, so a run can't know it again") from None
    return Asked(parameter.name, call, bool(marker.use_cache))


def planned(task: str, asked: Sequence[Asked], overrides: Overrides) -> Plan:
    """Return what a run of `task` makes for `asked`.

    Raises:
        InvalidOption: one of the dependencies can't be made in a worker, or asks for itself.
    """
    steps: list[Step] = []
    known: dict[Callable[..., Any], int] = {}

    def place(each: Asked, above: tuple[Callable[..., Any], ...]) -> int:
        call = overrides.get(each.call, each.call)
        if each.use_cache and call in known:
            return known[call]
        if call in above:
            raise InvalidOption(f"task {task}: dependency {_name(call)} asks for itself")
        given = tuple((inner.name, place(inner, (*above, call))) for inner in _asked_by(call, task))
        steps.append(Step(call, _way(call), given))
        known[call] = len(steps) - 1
        return known[call]

    given = tuple((each.name, place(each, ())) for each in asked)
    return Plan(tuple(steps), given)


def _asked_by(call: Callable[..., Any], task: str) -> Iterator[Asked]:
    """Yield what a dependency asks for itself."""
    if isinstance(call, WorkerLifespan):
        return
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):  # written in C: it is called with nothing
        return
    hints = hints_of(_hinted(call))
    for each in signature.parameters.values():
        if each.kind in _OPEN:
            continue
        owner = f"task {task}: parameter {each.name!r} of dependency {_name(call)}"
        marker = _marker_of(each, hints, owner)
        if marker is not None:
            if each.kind not in _PLAIN:
                raise InvalidOption(f"{owner}: what is injected is given by name, so it can't be positional only")
            yield _asked(each, marker, hints, owner)
        elif _is_of_request(each, hints):
            raise InvalidOption(
                f"{owner} comes from an HTTP request, and a task has none: send what it needs as an argument or a "
                "header of the call, and have tasks depend on a function that takes it from there"
            )
        elif each.default is each.empty:
            raise InvalidOption(f"{owner} has no Depends and no default, so a worker has nothing to give it")


def _is_of_request(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> bool:
    hint = hints.get(parameter.name, parameter.annotation)
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    found: list[object] = [kind, *map(type, getattr(hint, "__metadata__", ()))]
    if parameter.default is not parameter.empty:
        found.append(cast(object, type(parameter.default)))
    return any(str(getattr(each, "__module__", "")).partition(".")[0] in _OF_REQUESTS for each in found)


def _hinted(call: Callable[..., Any]) -> Any:
    """Return what has the annotations of `call`."""
    while isinstance(call, functools.partial):
        call = call.func
    if isinstance(call, type):
        return vars(call).get("__init__") or getattr(call, "__init__")  # noqa: B009  # of the class, and no instance
    if not hasattr(call, "__annotations__") and not inspect.isroutine(call):
        return type(call).__call__
    return call


def _way(call: Callable[..., Any]) -> Way:
    if isinstance(call, WorkerLifespan):
        return "lifespan"
    while isinstance(call, functools.partial):
        call = call.func
    if isinstance(call, type):
        return "call"
    inner: Any = call if inspect.isroutine(call) else type(call).__call__
    for function in (call, inner, inspect.unwrap(call)):
        if inspect.isasyncgenfunction(function):
            return "enter async"
        if inspect.isgeneratorfunction(function):
            return "enter"
        if inspect.iscoroutinefunction(function):
            return "await"
    return "call"


def _name(call: Callable[..., Any]) -> str:
    if isinstance(call, WorkerLifespan):
        return call.name
    return getattr(call, "__qualname__", None) or shown(call)
