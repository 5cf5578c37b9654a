"""What a task takes and gives: the check of its arguments, and what becomes of them and of its value."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

from ..calling.arguments import ArgumentCheck
from ..exceptions import InvalidArguments
from ..wire.shapes import Shape
from .dependencies import Dependencies
from .keys import Debounce, Throttle, Unique, check_parameters
from .limits import limits_of, rate_limits_of
from .options import TaskOptions
from .rebuilding import Rebuilding, rebuilding_of, returned_shape
from .shares import fair_of
from .task_core import TaskCore


def _has_key(given: object) -> TypeGuard[Unique | Debounce | Throttle]:
    return isinstance(given, (Unique, Debounce, Throttle))


class Taking:
    """A part of every task."""

    name: str
    fn: Callable[..., Any]
    declared: TaskOptions
    dependencies: Dependencies | None  #: what a worker gives its function beside the arguments of calls
    _arguments: ArgumentCheck
    _returned: tuple[Shape | None] | None

    @property
    def _core(self) -> TaskCore:
        raise NotImplementedError

    @property
    def is_strict(self) -> bool:
        """Whether arguments are checked: its option `typing`, or else the setting `strict_arguments`."""
        typing = self.declared.typing
        return self._core.conf.strict_arguments if typing is None else typing

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise `InvalidArguments` if a call with these arguments would (unless they are not checked)."""
        try:
            self._arguments.check(args, kwargs)
        except InvalidArguments:  # whether they are checked is asked last: nearly all fit
            if self.is_strict:
                raise

    def bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return arguments by the names of their parameters, defaults too; raises `InvalidArguments` as a call."""
        return self._arguments.bound(args, kwargs)

    def check_keys(self) -> None:
        """Raise `InvalidOption` if keys of its calls are made of something that is no parameter of it."""
        declared = self.declared
        keys = [
            *(each.by for each in (declared.unique, declared.debounce, declared.throttle) if _has_key(each)),
            *((fair_of(declared.fair_key).by,) if declared.fair_key is not None else ()),
            *(each.key for each in rate_limits_of(declared.rate_limit)),
            *(each.key for each in limits_of(declared.max_concurrency)),
        ]
        for key in keys if not self._arguments.takes_any_name else ():
            check_parameters(self.name, key, [each.name for each in self.call_parameters])

    @property
    def parameters(self) -> Sequence[str]:
        """The names of those that can be given by position."""
        return self._arguments.names

    def rebuilding(self) -> Rebuilding | None:
        """Return what becomes of arguments in a worker before its function gets them, if its annotations say so."""
        needs, bind = self.dependencies, self.declared.bind
        return rebuilding_of(self.fn, self.name, skip_first=bind, injected=() if needs is None else needs.names)

    @property
    def returned_shape(self) -> Shape | None:
        """What becomes of its value where the caller gets it, if its annotation says so."""
        if self._returned is None:  # at the first use: what its annotations name may come later in its module
            self._returned = (returned_shape(self.fn),)
        return self._returned[0]

    @property
    def call_parameters(self) -> Sequence[inspect.Parameter]:
        """What calls have arguments for."""
        return self._arguments.parameters

    def parameter(self, index: int) -> str:
        """Return the name of the parameter that the positional argument `index` goes to."""
        return self._arguments.name_of(index)

    def room_for(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
        """Return with how many positional arguments it can be called beside these."""
        return self._arguments.room_for(args, kwargs)
