"""Arguments and return values by their annotations: plain data becomes the models that a task's function names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, get_args

from ..core.hints import hints_of
from ..exceptions import InvalidArguments
from ..wire.shapes import Mismatch, Shape, shape_of


class Rebuilding:
    """What becomes of the arguments of one task before it runs."""

    def __init__(self, name: str, shapes: Mapping[str, Shape], parameters: Sequence[inspect.Parameter]) -> None:
        self._name = name
        self._shapes = shapes
        self._positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self._rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        self._named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        self._others = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
        self._defaults = {p.name: p.default for p in parameters}

    def rebuilt(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], mode: str
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Return the arguments of a call as the function's parameters want them.

        Raises:
            InvalidArguments: one of them does not fit its annotation; the text has the place in it.
        """
        try:
            if mode == "once":
                return self._of_one(args), {name: self._of_keyword(name, given) for name, given in kwargs.items()}
            items = args[0] if args else ()
            if mode == "map":
                return ([self._of_one((item,))[0] for item in items], *args[1:]), kwargs
            return ([self._of_one(item) for item in items], *args[1:]), kwargs
        except Mismatch as exc:
            raise InvalidArguments(f"{self._name}: argument {exc}") from exc.__cause__

    def _of_one(self, args: Sequence[Any]) -> tuple[Any, ...]:
        names = self._positional
        return tuple(
            self._of(names[index], given, names[index]) if index < len(names) else self._of_rest(index, given)
            for index, given in enumerate(args)
        )

    def _of_rest(self, index: int, given: Any) -> Any:
        name = self._rest
        return given if name is None else self._of(name, given, f"{name}[{index - len(self._positional)}]")

    def _of_keyword(self, name: str, given: Any) -> Any:
        if name in self._named:
            return self._of(name, given, name)
        return given if self._others is None else self._of(self._others, given, name)

    def _of(self, name: str, given: Any, place: str) -> Any:
        shape = self._shapes.get(name)
        if shape is None or (given is None and self._defaults[name] is None):
            return given
        return shape(given, place)


def rebuilding_of(
    fn: Callable[..., Any], name: str, *, skip_first: bool, injected: Collection[str]
) -> Rebuilding | None:
    """Return what becomes of the arguments of `fn`; None if its annotations ask for nothing."""
    parameters = list(inspect.signature(fn, follow_wrapped=False).parameters.values())[1 if skip_first else 0 :]
    hints = hints_of(fn)
    wanted = [each for each in parameters if each.name in hints and each.name not in injected]
    shapes = {each.name: shape for each in wanted if (shape := shape_of(hints[each.name])) is not None}
    left = [each for each in parameters if each.name not in injected]
    return Rebuilding(name, shapes, left) if shapes else None


def returned_shape(fn: Callable[..., Any]) -> Shape | None:
    """Return what becomes of the value that `fn` returned, or of each that it yields, where its caller gets it."""
    hints = hints_of(fn)
    if "return" not in hints:
        return None
    if inspect.isasyncgenfunction(fn):  # what it yields: it has no value
        yielded = get_args(hints["return"])
        return shape_of(yielded[0]) if yielded else None
    return shape_of(hints["return"])


class Returning(Protocol):
    """A task, as its value needs it."""

    @property
    def returned_shape(self) -> Shape | None: ...


def shaped(tasks: Mapping[str, Returning], name: str | None, value: Any) -> Any:
    """Return the value of the task called `name` as its return annotation says, as far as it fits that.

    A task may have returned something else: each member of a `map`, or what replaced it.
    """
    task = None if name is None else tasks.get(name)
    shape = None if task is None else task.returned_shape
    if shape is None:
        return value
    try:
        return shape(value, "")
    except Mismatch:
        return value
