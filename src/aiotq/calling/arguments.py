"""The arguments of calls: whether they have the right form, and fit the signature of the task's function."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

from ..exceptions import InvalidArguments, InvalidOption


class ArgumentCheck:
    """Whether arguments fit a signature, decided quickly; the slow way words the error.

    What the worker gives itself (`injected`) is no argument of calls.
    """

    def __init__(self, fn: Callable[..., Any], name: str, *, skip_first: bool, injected: Collection[str] = ()) -> None:
        # A decorator may give arguments, or take them: what is called is the wrapper.
        parameters = list(inspect.signature(fn, follow_wrapped=False).parameters.values())
        if skip_first and not (parameters and parameters[0].kind is inspect.Parameter.VAR_POSITIONAL):
            if not parameters:
                raise InvalidOption(f"task {name}: bind=True needs a first parameter for the task itself (self)")
            parameters = parameters[1:]
        if injected:
            parameters = [p for p in parameters if p.name not in injected]
        self._name = name
        self._injected = injected
        self._signature = inspect.Signature(parameters)
        plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self.names = tuple(p.name for p in plain)
        self._simple = len(plain) == len(parameters) and all(p.kind is p.POSITIONAL_OR_KEYWORD for p in plain)
        is_open = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self._positional = math.inf if is_open else len(plain)
        self.takes_any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self._least = sum(p.default is p.empty for p in plain)

    @property
    def parameters(self) -> Sequence[inspect.Parameter]:
        """What calls have arguments for."""
        return tuple(self._signature.parameters.values())

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        if self._simple and not kwargs and self._least <= len(args) <= len(self.names):
            return
        for each in self._injected:
            if each in kwargs:
                raise InvalidArguments(f"{self._name}{self._signature}: the worker gives {each!r}; a call can't")
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as exc:
            raise InvalidArguments(f"{self._name}{self._signature}: {exc}") from None

    def bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return arguments by the names of their parameters, those of defaults and `**kwargs` too.

        Raises:
            InvalidArguments: they don't fit.
        """
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as exc:
            raise InvalidArguments(f"{self._name}{self._signature}: {exc}") from None
        bound.apply_defaults()
        given = dict(bound.arguments)
        for each in self._signature.parameters.values():
            if each.kind is each.VAR_KEYWORD:
                given.update(given.pop(each.name))
        return given

    def room_for(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
        """Return with how many positional arguments it can be called beside these."""
        return self._positional - len(args) - sum(name in self.names for name in kwargs)

    def name_of(self, index: int) -> str:
        return self.names[index] if index < len(self.names) else f"#{index}"


def given_arguments(
    name: str, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Return the arguments that a call to `name` was given; None, as in Celery, are none.

    Raises:
        InvalidArguments: they are no list or tuple, and mapping.
    """
    if args is None:
        args = ()
    elif not isinstance(args, (list, tuple)):  # a string would be taken for its letters
        raise InvalidArguments(f"{name}: args must be a list or tuple, not a {type(args).__name__}")
    if kwargs is not None and not isinstance(cast(object, kwargs), Mapping):
        raise InvalidArguments(f"{name}: kwargs must be a mapping of names to values, not a {type(kwargs).__name__}")
    return args, kwargs or {}
