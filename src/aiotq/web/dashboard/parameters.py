"""A form for each task, made from its signature; and what was written into it, as arguments."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Literal, cast

import orjson

from ...core.values import value
from ...results.shown_arguments import ArgumentsShown
from ...tasks.task import Task
from .forms import BadForm, Form

Kind = Literal["int", "float", "str", "bool", "json"]

#: Before the name of a parameter in a form.
_PREFIX: Final = "a-"
_KINDS: Final[Mapping[Any, Kind]] = {int: "int", float: "float", str: "str", bool: "bool"}
_NO: Final = inspect.Parameter.empty
#: Letters of a type and of a default.
_MOST: Final = 80


@value
class Field:
    """A parameter in a form: what may be written there, and what stands there now."""

    name: str
    type: str
    kind: Kind
    text: str  #: what stands in it
    default: str  #: as its source has it; empty: it must be given
    is_needed: bool
    is_hidden: bool  #: its value is not shown
    is_on: bool = False  #: of a bool

    @property
    def key(self) -> str:
        return f"{_PREFIX}{self.name}"

    @property
    def is_long(self) -> bool:
        return self.kind == "json"


@value
class Signature:
    """What a task takes."""

    parameters: tuple[inspect.Parameter, ...]
    hints: Mapping[str, Any]
    takes_more_args: bool
    takes_more_kwargs: bool

    def named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments by the names of their parameters; positional ones beyond these by their number."""
        plain = [each.name for each in self.parameters if each.kind is not each.KEYWORD_ONLY]
        return {(plain[at] if at < len(plain) else f"#{at}"): each for at, each in enumerate(args)} | dict(kwargs)


def signature_of(task: Task[..., Any]) -> Signature:
    """Return what a task takes."""
    parameters = task.call_parameters
    hints: dict[str, Any] = {}
    with suppress(Exception):  # a name that is there for type checkers alone
        hints = typing.get_type_hints(task.fn)
    plain = tuple(each for each in parameters if each.kind not in {_VAR, _VAR_NAMED})
    kinds = {each.kind for each in parameters}
    return Signature(plain, hints, _VAR in kinds, _VAR_NAMED in kinds)


_VAR: Final = inspect.Parameter.VAR_POSITIONAL
_VAR_NAMED: Final = inspect.Parameter.VAR_KEYWORD


def fields_of(signature: Signature, given: Mapping[str, Any], shown: ArgumentsShown) -> list[Field]:
    """Return the fields of a form, with the values that are `given` by name."""
    return [_field(each, signature.hints, given, shown) for each in signature.parameters]


def _field(
    parameter: inspect.Parameter, hints: Mapping[str, Any], given: Mapping[str, Any], shown: ArgumentsShown
) -> Field:
    name = parameter.name
    hint = hints.get(name, parameter.annotation)
    kind = _kind_of(hint)
    has_value = name in given
    is_hidden = has_value and shown.hides(name)
    text = "" if is_hidden or not has_value else _written(given[name], kind)
    default = parameter.default
    return Field(
        name,
        _type_text(hint),
        kind,
        text,
        "" if default is _NO else _clip(repr(default)),
        default is _NO and not is_hidden and kind != "bool",
        is_hidden,
        bool(given.get(name, default is not _NO and default)) if kind == "bool" else False,
    )


def _kind_of(hint: Any) -> Kind:
    if isinstance(hint, str):
        return cast(Kind, hint) if hint in {"int", "float", "str", "bool"} else "json"
    return _KINDS.get(hint, "json")


def _type_text(hint: Any) -> str:
    if hint is _NO:
        return "any value, as JSON"
    if isinstance(hint, type) and not typing.get_args(hint):
        return _clip(hint.__name__)
    return _clip(str(hint).replace("typing.", ""))


def _written(given: Any, kind: Kind) -> str:
    """Return a value as it is written into a form."""
    if kind == "str" and isinstance(given, str):
        return given
    if kind in {"int", "float"} and isinstance(given, (int, float)):
        return repr(given)
    return as_json(given)


def as_json(given: Any) -> str:
    """Return a value as JSON; what has no form in it as text."""
    return orjson.dumps(given, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _clip(text: str) -> str:
    return text if len(text) <= _MOST else f"{text[: _MOST - 1]}…"


def arguments_of(
    signature: Signature, form: Form, before: Mapping[str, Any], shown: ArgumentsShown
) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments that a form has; hidden ones that were left empty are as `before`.

    Raises:
        BadForm: something in it is not what its parameter takes.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for each in signature.parameters:
        found = _given(each, signature.hints, form, before, shown)
        if found is _LEFT_OUT:
            continue
        if each.kind is each.POSITIONAL_ONLY:
            args.append(found)
        else:
            kwargs[each.name] = found
    if signature.takes_more_args and (more := form.get("more-args").strip()):
        rest = read_json("more arguments", more, list)
        args = [*args, *(kwargs.pop(each.name) for each in signature.parameters if each.name in kwargs), *rest]
    if signature.takes_more_kwargs and (more := form.get("more-kwargs").strip()):
        kwargs |= read_json("more keyword arguments", more, dict)
    return args, kwargs


_LEFT_OUT: Final = object()


def _given(
    parameter: inspect.Parameter, hints: Mapping[str, Any], form: Form, before: Mapping[str, Any], shown: ArgumentsShown
) -> Any:
    name, text = parameter.name, form.get(f"{_PREFIX}{parameter.name}")
    kind = _kind_of(hints.get(name, parameter.annotation))
    if kind == "bool":
        return bool(text)
    if not text.strip() and not (kind == "str" and parameter.default is _NO):
        if shown.hides(name) and name in before:
            return before[name]
        if parameter.default is _NO:
            raise BadForm(f"{name} must be given")
        return _LEFT_OUT
    if kind == "str":
        return text
    try:
        return int(text) if kind == "int" else float(text) if kind == "float" else orjson.loads(text)
    except ValueError:
        if kind == "json" and hints.get(name, parameter.annotation) in {_NO, Any}:
            return text  # a word without quotes
        wanted = {"int": "a whole number", "float": "a number"}.get(kind, "JSON")
        raise BadForm(f"{name} must be {wanted}, not {text[:60]!r}") from None


def read_json(what: str, text: str, kind: type[Any]) -> Any:
    """Return what is written in JSON.

    Raises:
        BadForm: it is no JSON, or no list or object as is wanted.
    """
    try:
        found: Any = orjson.loads(text)
    except ValueError as exc:
        raise BadForm(f"{what}: no JSON: {exc}") from None
    if not isinstance(found, kind):
        raise BadForm(f"{what} must be a JSON {'list' if kind is list else 'object'}")
    return found
