"""A command as it is declared: a function whose first argument is the worker, and whose others have types."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

from ..core.values import shown, value
from ..exceptions import CallError, InvalidOption

F = TypeVar("F", bound=Callable[..., Any])

#: `inspect` changes nothing, `control` does.
Kind = Literal["inspect", "control"]

#: What an argument may be, beside lists and mappings of these, and None beside them.
_PLAIN: Final = (str, int, float, bool)


@value
class Argument:
    """One argument of a command."""

    name: str
    type: Any
    is_required: bool
    takes_several: bool = False


@value
class DeclaredCommand:
    """A function that workers call when they are told its name."""

    name: str
    kind: Kind
    function: Callable[..., Any]
    arguments: tuple[Argument, ...]
    meaning: str

    @property
    def usage(self) -> str:
        """The command with its arguments, as it is written."""
        words = [each.name.upper() if each.is_required else f"[{each.name.upper()}]" for each in self.arguments]
        words = [f"{word}..." if each.takes_several else word for word, each in zip(words, self.arguments, strict=True)]
        return " ".join([self.name, *words])

    def bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments to call it with: words of a command line become what their types say.

        Raises:
            CallError: one is missing, unknown, one too many, or not of its type.
        """
        positional = [each for each in self.arguments if not each.takes_several]
        rest = next((each for each in self.arguments if each.takes_several), None)
        given: dict[str, Any] = dict(zip([each.name for each in positional], args, strict=False))
        further = list(args[len(positional) :])
        if further and rest is None:
            raise CallError(f"{self.name} takes {_count(len(positional))}, and {len(args)} were given: {self.usage}")
        for name, each in kwargs.items():
            if name not in {argument.name for argument in positional}:
                raise CallError(f"{self.name} has no argument {shown(name)}: {self.usage}")
            if name in given:
                raise CallError(f"{self.name}: {name} is given twice")
            given[name] = each
        for argument in positional:
            if argument.is_required and argument.name not in given:
                raise CallError(f"{self.name}: {argument.name} is missing: {self.usage}")
        if rest is not None and rest.is_required and not further:
            raise CallError(f"{self.name}: {rest.name} is missing: {self.usage}")
        read = {each.name: self._read(each, given[each.name]) for each in positional if each.name in given}
        if rest is None:
            return [], read
        if further and len(read) < len(positional):
            raise CallError(f"{self.name}: {positional[len(read)].name} is missing: {self.usage}")
        return [*read.values(), *(self._read(rest, each) for each in further)], {}

    def _read(self, argument: Argument, given: Any) -> Any:
        try:
            return _as_type(argument.type, given)
        except ValueError as exc:
            raise CallError(f"{self.name}: {argument.name} must be {exc}, not {shown(given)}") from None


class CommandDecorator:
    """Makes a function a command: `@app.control_command`, or `@app.control_command(name="…")`.

    The function, or coroutine function, gets the `Worker`, then the command's arguments, which have types. What it
    returns is the answer.

    Raises:
        InvalidOption: it does not take the worker first, or an argument has no type that a command can have.
    """

    def __init__(self, commands: dict[str, DeclaredCommand], kind: Kind) -> None:
        self._commands = commands
        self._kind: Kind = kind

    @typing.overload
    def __call__(self, function: F, /) -> F: ...
    @typing.overload
    def __call__(self, /, *, name: str) -> Callable[[F], F]: ...
    def __call__(self, function: Callable[..., Any] | None = None, /, *, name: str | None = None) -> Any:
        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            command = declare(function, self._kind, name)
            self._commands[command.name] = command
            return function

        return decorate if function is None else decorate(function)


def declare(function: Callable[..., Any], kind: Kind, name: str | None = None) -> DeclaredCommand:
    """Return the command that `function` is.

    Raises:
        InvalidOption: it does not take the worker first, or an argument has no type that JSON can bring.
    """
    called = name or function.__name__
    if not called.replace("_", "a").isalnum() or not called.isascii():
        raise InvalidOption(f"a command's name is made of letters, digits and '_': {called!r}")
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind not in {
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    }:
        raise InvalidOption(f"command {called!r}: its function takes the worker as its first argument")
    hints = typing.get_type_hints(function)
    arguments = tuple(_argument(called, each, hints) for each in parameters[1:])
    several = [each for each in arguments if each.takes_several]
    if several and any(not each.is_required for each in arguments if not each.takes_several):
        raise InvalidOption(f"command {called!r}: what stands before *{several[0].name} can't have a default")
    meaning = (inspect.getdoc(function) or "").partition("\n")[0]
    return DeclaredCommand(called, kind, function, arguments, meaning)


def _argument(command: str, parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Argument:
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        raise InvalidOption(
            f"command {command!r}: each of its arguments has a name of its own, **{parameter.name} none"
        )
    hint = hints.get(parameter.name)
    if hint is None or not _is_possible(hint):
        raise InvalidOption(
            f"command {command!r}: argument {parameter.name!r} needs a type: str, int, float, bool, a list or dict of "
            "them, or one of these or None"
        )
    takes_several = parameter.kind is inspect.Parameter.VAR_POSITIONAL
    is_required = parameter.default is inspect.Parameter.empty
    return Argument(parameter.name, hint, is_required, takes_several)


def _is_possible(hint: Any) -> bool:
    if hint in _PLAIN or hint is type(None) or hint is Any:
        return True
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    return (origin in {list, dict} or origin in {types.UnionType, typing.Union}) and all(map(_is_possible, inner))


def _as_type(hint: Any, given: Any) -> Any:
    """Return `given` as what `hint` says.

    Raises:
        ValueError: it is not that; the text says what it should be.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return given
    if origin in {types.UnionType, typing.Union}:
        return _as_one_of(inner, given)
    if hint is type(None):
        if given is None or given == "none":
            return None
        raise ValueError("none")
    if origin is list:
        found = _loaded(given, list, "a list")
        return [_as_type(inner[0], each) for each in found]
    if origin is dict:
        found = _loaded(given, dict, "an object")
        return {key: _as_type(inner[1], each) for key, each in found.items()}
    return _as_plain(hint, given)


def _as_one_of(hints: Sequence[Any], given: Any) -> Any:
    # None first, for a word; text last, since every word is one.
    wanted: list[str] = []
    for hint in sorted(hints, key=lambda each: (each is str, each is not type(None))):
        try:
            return _as_type(hint, given)
        except ValueError as exc:
            wanted.append(str(exc))
    raise ValueError(" or ".join(wanted))


def _as_plain(hint: Any, given: Any) -> Any:
    if hint is str:
        if isinstance(given, str):
            return given
        raise ValueError("text")
    if hint is bool:
        word = given.lower() if isinstance(given, str) else given
        if isinstance(word, bool):
            return word
        if word in {"true", "yes", "on", "1"}:
            return True
        if word in {"false", "no", "off", "0"}:
            return False
        raise ValueError("true or false")
    return _as_number(hint, given)


def _as_number(hint: Any, given: Any) -> Any:
    what = "a whole number" if hint is int else "a number"
    if isinstance(given, (str, int, float)) and not isinstance(given, bool):
        try:
            number = hint(given)
        except (ValueError, OverflowError):
            raise ValueError(what) from None
        if isinstance(given, str) or number == given:
            return number
    raise ValueError(what)


def _loaded(given: Any, kind: type[Any], what: str) -> Any:
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise ValueError(f"{what} in JSON") from None
    if isinstance(given, kind):
        return given
    raise ValueError(what)


def _count(number: int) -> str:
    return {0: "no arguments", 1: "1 argument"}.get(number, f"{number} arguments")
