"""Signatures: descriptions of calls, as values that are never changed, only replaced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import Any, Generic, Protocol, TypeVar

from .._values import value
from ..exceptions import CallError
from ..results.handle import AsyncResult, ResultSet

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Sender(Protocol):
    """All that a signature asks of the app."""

    async def send_many(self, signatures: Iterable[Signature[R]]) -> ResultSet[R]:
        """Send the calls in one round trip; their results in order."""
        ...


@value
class Signature(Generic[R_co]):
    """A task's name with arguments and options for one call of it.

        add.s(2, 2)                    # add(2, 2)
        await add.s(2).delay(8)        # add(8, 2): arguments given later come first

    An `immutable` one (`si`) takes no further arguments.
    """

    task: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    immutable: bool = False
    sender: Sender | None = field(default=None, compare=False, repr=False)

    def __repr__(self) -> str:
        arguments = [repr(value) for value in self.args]
        arguments += [f"{name}={value!r}" for name, value in self.kwargs.items()]
        return f"{self.task}({', '.join(arguments)})"

    def set(self, **options: Any) -> Signature[R_co]:
        """Return this signature with further calling options."""
        return replace(self, options={**self.options, **options})

    def clone(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Signature[R_co]:
        """Return this signature with `args` before its own, and `kwargs` and `options` over its own."""
        merged = {**self.options, **options}
        if self.immutable:
            return replace(self, options=merged)
        return replace(self, args=(*args, *self.args), kwargs={**self.kwargs, **(kwargs or {})}, options=merged)

    async def delay(self, /, *args: Any, **kwargs: Any) -> AsyncResult[R_co]:
        """Send the call, with further arguments."""
        return await self.apply_async(args, kwargs)

    async def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R_co]:
        """Send the call, with further arguments and options."""
        if self.sender is None:
            raise CallError(f"signature {self!r} belongs to no app: make it with task.s() or app.signature()")
        (result,) = await self.sender.send_many([self.clone(args, kwargs, **options)])
        return result
