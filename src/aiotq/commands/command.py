"""What all commands have in common: the app, the words behind it, the broker, `--debug`; and groups of commands."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from inspect import Parameter
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from .app_option import Target

App = Annotated[
    str | None, typer.Option("-A", "--app", metavar="APP", help="The app: module:attribute, or module alone.")
]
Broker = Annotated[str | None, typer.Option("-b", "--broker", metavar="URL", help="Use this broker instead.")]
Debug = Annotated[bool, typer.Option("-v", "--debug", help="Show the traceback of an error.")]

#: The options of every command, with what they are without being given.
_COMMON: Final[dict[str, tuple[Any, Any]]] = {"app": (App, None), "broker": (Broker, None), "debug": (Debug, False)}


class _Group(TyperGroup):
    """A group of commands: the app may be named before them as well."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if len(args) > 1 and args[0] not in self.commands and (args[1] in self.commands or ":" in args[0]):
            target: Target = ctx.obj
            target.app, args = args[0], args[1:]
        return super().resolve_command(ctx, args)


def group(name: str, help_text: str) -> typer.Typer:
    """Return a group of commands: their app, `-b` and `-v` may stand before each of them or behind it."""
    made = typer.Typer(name=name, help=help_text, cls=_Group, rich_markup_mode=None, no_args_is_help=True)

    @made.callback()
    def options_of_group(context: typer.Context, app: App = None, broker: Broker = None, debug: Debug = False) -> None:
        target: Target = context.obj
        target.given(app, broker, debug)

    return made


def command(*words: str, many: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command of the app that `-A`, AIOTQ_APP or the first word names.

        @command("QUEUE")
        def purge(target: Target, queue: str, yes: Yes = False) -> None: ...

    The function gets the `Target`, then the words that the command takes behind its app (with `many` a list of any
    number of them), then its own options by name.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def spoken(context: typer.Context, **given: Any) -> None:
            target: Target = context.obj
            target.given(*(given.pop(option) for option in _COMMON))
            said = [given.pop(name) for name in _names(words)]
            if many:
                taken: list[Any] = [target.split_many([*said, *(given.pop("further") or ())])]
            else:
                taken = target.split(said, *words)
            if takes_context:
                given["context"] = context
            function(target, *taken, **given)

        taken_first = 1 + (1 if many else len(words))
        own = list(inspect.signature(function).parameters.values())[taken_first:]
        takes_context = any(each.name == "context" for each in own)
        hints = typing.get_type_hints(function, include_extras=True)
        parameters = _parameters(words, many) + [
            each.replace(annotation=hints[each.name], kind=Parameter.KEYWORD_ONLY)
            for each in own
            if each.name != "context"
        ]
        parameters += [_parameter(name, hint, default) for name, (hint, default) in _COMMON.items()]
        signature = inspect.Signature(parameters, return_annotation=None)
        spoken.__signature__ = signature  # type: ignore[attr-defined]  # what typer reads
        spoken.__annotations__ = {each.name: each.annotation for each in parameters}
        return spoken

    return decorate


def _names(words: tuple[str, ...]) -> list[str]:
    """Return what the words are called, the app's among them: the first may be either."""
    return [f"word_{index}" for index in range(len(words) + 1)]


def _parameters(words: tuple[str, ...], many: str) -> list[Parameter]:
    """Return the parameters of what is spoken: the context, the app, and the words behind it."""
    found = [Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for name, metavar in zip(_names(words), ("APP", *words), strict=True):
        found.append(_parameter(name, Annotated[str | None, typer.Argument(metavar=metavar, show_default=False)], None))
    if many:
        words_behind = Annotated[list[str] | None, typer.Argument(metavar=many, show_default=False)]
        found.append(_parameter("further", words_behind, None))
    return found


def _parameter(name: str, hint: Any, default: object) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=hint)
