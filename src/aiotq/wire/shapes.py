"""Values by type hints: what came as plain data becomes what a parameter, or a return value, is annotated with.

Only hints with a type in them that plain data can stand for are looked at: a model, an Enum, a datetime. A value that
is one already stays as it is. Models of pydantic and msgspec are made by their own libraries, by their rules.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from enum import Enum
from importlib import import_module
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

import orjson

from ..core.hints import hints_of
from ..core.values import shown
from .known_types import is_attrs, is_model, is_struct, is_typed_dict

#: Returns what a value stands for at a place ("order.lines[0]"); raises `Mismatch`.
Shape = Callable[[Any, str], Any]

_NONE: Final = type(None)
LISTS: Final = frozenset(
    {
        list,
        collections.abc.Sequence,
        collections.abc.MutableSequence,
        collections.abc.Iterable,
        collections.abc.Collection,
    }
)
SETS: Final[Mapping[Any, Callable[[Iterable[Any]], Any]]] = {
    set: set,
    frozenset: frozenset,
    collections.abc.Set: frozenset,
    collections.abc.MutableSet: set,
}
_HAVING_ITEMS: Final = frozenset({list, tuple, set, frozenset})
MAPPINGS: Final = frozenset({dict, collections.abc.Mapping, collections.abc.MutableMapping})
#: What stands around a hint and says nothing of its value.
WRAPPERS: Final = frozenset({"ClassVar", "Final", "NotRequired", "ReadOnly", "Required"})
_DURATION: Final = re.compile(
    r"(?P<sign>[+-]?)P(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?"
)
#: How msgspec ends its texts: with the place.
_MSGSPECS_PLACE: Final = re.compile(r" - at `\$(?P<place>.*)`$")


class Mismatch(ValueError):
    """Raised when a value is not what a hint says; the text begins with its place."""


def shape_of(hint: Any) -> Shape | None:
    """Return what makes values of `hint` of plain ones; None if there is nothing to make."""
    return _shape(hint) if _is_structured(hint, []) else None


def _is_structured(hint: Any, seen: list[Any]) -> bool:
    """Whether plain data can stand for something in `hint`."""
    if any(hint is each for each in seen):
        return False
    seen.append(hint)
    origin = get_origin(hint)
    if origin in (Literal, type, Callable):  # pyright: ignore[reportUnknownMemberType]
        return False
    if origin is not None:
        if library_of(getattr(hint, "__metadata__", ())) is not None:
            return True
        return _is_structured(origin, seen) or any(_is_structured(each, seen) for each in get_args(hint))
    if (inner := alias_of(hint)) is not None:
        return _is_structured(inner, seen)
    if not isinstance(hint, type):
        return False
    return hint in _standard() or is_typed_dict(hint) or _is_record(hint)


def _is_record(kind: type[Any]) -> bool:
    return (
        issubclass(kind, Enum) or is_model(kind) or is_attrs(kind) or is_struct(kind) or dataclasses.is_dataclass(kind)
    )


def alias_of(hint: Any) -> Any:
    """Return what another name stands for (`NewType`, `type X = …`)."""
    if (inner := getattr(hint, "__supertype__", None)) is not None:
        return inner
    return hint.__value__ if type(hint).__name__ == "TypeAliasType" else None


def library_of(metadata: Iterable[object]) -> Literal["pydantic", "msgspec"] | None:
    """Return the library that heeds what `Annotated` adds to a hint."""
    for each in metadata:
        library = type(each).__module__.partition(".")[0]
        if library in {"pydantic", "annotated_types"} and "pydantic" in sys.modules:
            return "pydantic"
        if library == "msgspec":
            return "msgspec"
    return None


def _shape(hint: Any) -> Shape:
    origin, args = get_origin(hint), get_args(hint)
    if metadata := getattr(hint, "__metadata__", None):
        match library_of(metadata):
            case "pydantic":
                return _by_pydantic(hint)
            case "msgspec":
                return _by_msgspec(hint)
            case None:
                return _shape(args[0])
    if (inner := alias_of(hint)) is not None:
        return _shape(inner)
    if origin is Literal:
        return functools.partial(_literal, args)
    if origin in {typing.Union, types.UnionType}:
        return _union(args)
    if getattr(origin, "_name", getattr(origin, "__name__", None)) in WRAPPERS and args:
        return _shape(args[0])
    if isinstance(hint, dataclasses.InitVar):
        return _shape(typing.cast("Any", hint).type)
    kind = hint if origin is None else origin
    if kind is tuple:
        return _tuple(args)
    if kind in LISTS or kind in SETS:
        return functools.partial(_items, SETS.get(kind, list), _shape(args[0]) if args else _as_is)
    if kind in MAPPINGS:
        key, item = map(_shape, args) if args else (_as_is, _as_is)
        return functools.partial(_mapping, key, item)
    return _of_class(hint, kind, args) if kind is None or isinstance(kind, type) else _as_is


def _of_class(hint: Any, kind: type[Any] | None, args: tuple[Any, ...]) -> Shape:
    """Return the shape of a class, or of a generic one with its arguments."""
    if kind is None or kind is _NONE:
        return functools.partial(_plain, (_NONE,), "None")
    if (standard := _standard().get(kind)) is not None:
        return functools.partial(standard, kind)
    if kind in {str, int, bool, bytes}:
        return functools.partial(_plain, (kind,), kind.__name__)
    if kind is float:
        return _float
    if is_model(kind) or hasattr(kind, "__pydantic_validator__"):
        return _by_pydantic(hint)
    if is_struct(kind):
        return _by_msgspec(hint)
    if issubclass(kind, Enum):
        return functools.partial(_enum, kind)
    if is_typed_dict(kind):
        return _TypedDict(kind, args)
    return _Record(kind, args) if dataclasses.is_dataclass(kind) or is_attrs(kind) else _as_is


def _as_is(value: Any, place: str) -> Any:
    return value


def _wrong(place: str, wanted: str, value: object) -> Mismatch:
    return Mismatch(f"{place} must be {wanted}, not {shown(value)}")


def _plain(kinds: tuple[type[Any], ...], words: str, value: Any, place: str) -> Any:
    if type(value) in kinds or (isinstance(value, kinds) and not isinstance(value, bool)):
        return value
    raise _wrong(place, words, value)


def _float(value: Any, place: str) -> Any:
    if isinstance(value, float):
        return value
    if type(value) is int:  # JSON has no other form for 1.0
        return float(value)
    raise _wrong(place, "a number", value)


def _literal(possible: tuple[Any, ...], value: Any, place: str) -> Any:
    for each in possible:
        if type(each) is type(value) and each == value:
            return each
    for each in possible:
        if isinstance(each, Enum) and each.value == value:
            return each
    raise _wrong(place, f"one of {', '.join(map(repr, possible))}", value)


def _union(members: tuple[Any, ...]) -> Shape:
    shapes = [(each, _shape(each)) for each in members]

    def rebuilt(value: Any, place: str) -> Any:
        if any(type(value) is (get_origin(each) or each) for each, _ in shapes if not get_args(each)):
            return value
        errors: list[Mismatch] = []
        for each, shape in shapes:
            try:
                return shape(value, place)
            except Mismatch as exc:
                if each is not _NONE:
                    errors.append(exc)
        if len(errors) == 1:
            raise errors[0]
        raise Mismatch(f"{place} fits none of its types: {'; '.join(map(str, errors))}")

    return rebuilt


def _items(make: Callable[[list[Any]], Any], item: Shape, value: Any, place: str) -> Any:
    if type(value) not in _HAVING_ITEMS:
        raise _wrong(place, "a list", value)
    items = [item(each, f"{place}[{index}]") for index, each in enumerate(value)]
    return items if make is list else make(items)


def _tuple(args: tuple[Any, ...]) -> Shape:
    if not args:
        return lambda value, place: _items(tuple, _as_is, value, place)
    if len(args) == 2 and args[1] is Ellipsis:
        item = _shape(args[0])
        return lambda value, place: _items(tuple, item, value, place)
    shapes = [_shape(each) for each in args]

    def rebuilt(value: Any, place: str) -> Any:
        if type(value) not in _HAVING_ITEMS or len(value) != len(shapes):
            raise _wrong(place, f"a list of {len(shapes)}", value)
        return tuple(
            shape(each, f"{place}[{index}]") for index, (shape, each) in enumerate(zip(shapes, value, strict=True))
        )

    return rebuilt


def _mapping(key: Shape, item: Shape, value: Any, place: str) -> Any:
    given = _as_mapping(value, place, "a mapping")
    return {key(name, f"a key of {place}"): item(each, f"{place}[{name!r}]") for name, each in given.items()}


def _as_mapping(value: Any, place: str, wanted: str) -> Mapping[Any, Any]:
    if isinstance(value, Mapping):
        return typing.cast("Mapping[Any, Any]", value)
    raise _wrong(place, wanted, value)


def _enum(kind: type[Enum], value: Any, place: str) -> Any:
    if isinstance(value, kind):
        return value
    try:
        return kind(value)
    except ValueError:
        raise _wrong(place, f"one of {', '.join(repr(each.value) for each in kind)}", value) from None


def standard_types() -> frozenset[type[Any]]:
    """Return the types that are written in JSON as a string, or a number, with a meaning."""
    return frozenset(_standard())


@functools.cache
def _standard() -> Mapping[Any, Callable[[Any, Any, str], Any]]:
    from decimal import Decimal  # noqa: PLC0415  # not everybody's start, for few
    from uuid import UUID  # noqa: PLC0415  # the same

    return {
        datetime: functools.partial(_from_text, datetime.fromisoformat, "a datetime in the form of ISO 8601"),
        date: functools.partial(_from_text, date.fromisoformat, "a date in the form of ISO 8601"),
        time: functools.partial(_from_text, time.fromisoformat, "a time in the form of ISO 8601"),
        timedelta: _duration,
        UUID: functools.partial(_from_text, UUID, "a UUID"),
        Decimal: _decimal,
    }


def _from_text(read: Callable[[str], Any], words: str, kind: type[Any], value: Any, place: str) -> Any:
    if isinstance(value, kind):
        return value
    if isinstance(value, str):
        try:
            return read(value)
        except ValueError:
            pass
    raise _wrong(place, words, value)


def _decimal(kind: Any, value: Any, place: str) -> Any:
    if isinstance(value, kind):
        return value
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        try:
            return kind(str(value))
        except ArithmeticError:
            pass
    raise _wrong(place, "a decimal number", value)


def _duration(kind: type[timedelta], value: Any, place: str) -> Any:
    if isinstance(value, kind):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return timedelta(seconds=value)
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    parts = {} if found is None else {name: each for name, each in found.groupdict().items() if each and name != "sign"}
    if found is None or not parts:
        raise _wrong(place, "seconds, or a duration in the form of ISO 8601", value)
    length = timedelta(**{name: float(each) for name, each in parts.items()})
    return -length if found["sign"] == "-" else length


class _Record:
    """A dataclass or an attrs class, made by its constructor; its fields are looked at when the first one is made."""

    def __init__(self, kind: type[Any], args: tuple[Any, ...]) -> None:
        self._kind = kind
        self._args = args

    @functools.cached_property
    def _fields(self) -> Mapping[str, tuple[str, Shape, bool]]:
        """By the field's name: the constructor's for it, its shape, and whether it must be given."""
        hints = hints_with(self._kind, self._args)
        fields: dict[str, tuple[str, Shape, bool]] = {}
        names = {getattr(each, "alias", None): each for each in getattr(self._kind, "__attrs_attrs__", ())}
        for each in inspect.signature(self._kind).parameters.values():
            if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
                continue
            attribute = names.get(each.name)
            name = each.name if attribute is None else attribute.name
            is_converted = getattr(attribute, "converter", None) is not None
            shape = _as_is if is_converted or name not in hints else _shape(hints[name])
            fields[name] = each.name, shape, each.default is each.empty
        return fields

    def __call__(self, value: Any, place: str) -> Any:
        if isinstance(value, self._kind):
            return value
        name = self._kind.__qualname__
        given = _as_mapping(value, place, f"the fields of a {name}")
        _check_fields(given, self._fields, {each for each, field in self._fields.items() if field[2]}, place, name)
        made = {self._fields[each][0]: self._fields[each][1](item, f"{place}.{each}") for each, item in given.items()}
        try:
            return self._kind(**made)
        except Exception as exc:  # whatever its own checks raise
            raise Mismatch(f"{place} can't be a {name}: {exc}") from exc


class _TypedDict:
    """A TypedDict; keys that it doesn't name stay."""

    def __init__(self, kind: Any, args: tuple[Any, ...]) -> None:
        self._kind = kind
        self._args = args

    @functools.cached_property
    def _fields(self) -> Mapping[str, Shape]:
        return {name: _shape(hint) for name, hint in hints_with(self._kind, self._args).items()}

    def __call__(self, value: Any, place: str) -> Any:
        name = self._kind.__qualname__
        given = _as_mapping(value, place, f"the fields of a {name}")
        _check_fields(given, None, required_keys(self._kind), place, name)
        return {key: self._fields.get(key, _as_is)(each, f"{place}.{key}") for key, each in given.items()}


def required_keys(kind: Any) -> set[str]:
    """Return the keys that a TypedDict must have."""
    required: set[str] = set()
    for name, hint in hints_of(kind).items():
        wrapper = getattr(get_origin(hint), "_name", None)
        if wrapper == "Required" or (wrapper != "NotRequired" and name in kind.__required_keys__):
            required.add(name)
    return required


def _check_fields(
    given: Mapping[Any, Any], known: Mapping[str, object] | None, required: set[str], place: str, name: str
) -> None:
    for each in given:
        if known is not None and each not in known:
            raise Mismatch(f"{place}.{each} is no field of {name}")
    for each in sorted(required):
        if each not in given:
            raise Mismatch(f"{place}.{each} is missing")


def hints_with(kind: Any, args: tuple[Any, ...]) -> dict[str, Any]:
    """Return the hints of a generic class, with `args` for its parameters."""
    hints = hints_of(kind)
    if not args:
        return hints
    known = dict(zip(getattr(kind, "__parameters__", ()), args, strict=False))
    return {name: _substituted(hint, known) for name, hint in hints.items()}


def _substituted(hint: Any, known: Mapping[Any, Any]) -> Any:
    if isinstance(hint, TypeVar):
        return known.get(hint, hint)
    parameters = getattr(hint, "__parameters__", ())
    if isinstance(hint, type) or not parameters:
        return hint
    return hint[tuple(known.get(each, each) for each in parameters)]


def _by_pydantic(hint: Any) -> Shape:
    adapters: list[Any] = []

    def rebuilt(value: Any, place: str) -> Any:
        if isinstance(hint, type) and isinstance(value, hint):
            return value
        pydantic: Any = import_module("pydantic")
        if not adapters:
            adapters.append(pydantic.TypeAdapter(hint))
        (adapter,) = adapters
        try:
            return adapter.validate_python(value)
        except pydantic.ValidationError as exc:
            # A strict model takes a date as a string in JSON alone, and that is where it came from.
            try:
                return adapter.validate_json(orjson.dumps(value))
            except (pydantic.ValidationError, TypeError):
                raise Mismatch("; ".join(_pydantics(each, place) for each in exc.errors()[:5])) from None

    return rebuilt


def _pydantics(error: Mapping[str, Any], place: str) -> str:
    where = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in error["loc"])
    return f"{place}{where}: {error['msg']}"


def _by_msgspec(hint: Any) -> Shape:
    def rebuilt(value: Any, place: str) -> Any:
        msgspec: Any = import_module("msgspec")
        try:
            return msgspec.convert(value, hint)
        except msgspec.ValidationError as exc:
            text = str(exc)
            found = _MSGSPECS_PLACE.search(text)
            where = place if found is None else place + found["place"]
            raise Mismatch(f"{where}: {_MSGSPECS_PLACE.sub('', text)}") from None

    return rebuilt
