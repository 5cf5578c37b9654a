"""Values beyond what a format has: each becomes `{"__type__": tag, "__value__": plain}` and comes back as what it was.

Tags and forms are kombu's where it has one (datetime, date, time, decimal, uuid, bytes, base64), so that Celery's
workers read them. The rest (timedelta, tuple, set, frozenset, enum, dataclass, attrs, msgspec, pydantic, dict) is ours,
and so are those that upper rooms add (`KnownTypes.add_forms`).

Source: kombu, `kombu.utils.json`.
"""

from __future__ import annotations

import binascii
import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from enum import Enum, Flag
from typing import Any, Final, cast

import orjson

from ..core.values import shown
from ..exceptions import DecodeError
from .known_types import KnownTypes, is_attrs, is_model, is_struct

TYPE: Final = "__type__"
VALUE: Final = "__value__"
#: Levels of lists, objects and tags in one another; what is deeper is refused.
MAX_DEPTH: Final = 250
ATOMS: Final[frozenset[type[Any]]] = frozenset({str, int, bool, float, type(None)})
_MAX_KEY: Final = 60
_CONTAINERS: Final = frozenset({dict, list})
#: What a format would take for the type it derives from.
_BUILTINS: Final = (str, int, float, bytes, bytearray, dict, list, tuple, set, frozenset)
#: Items that may share a hash with another one: a set is quick to make only while few do.
_MAX_SHARED_HASHES: Final = 1000


class Tagger:
    """Tags and revives values for one format, which has `native` types of its own and takes `keys` in its objects.

    While `is_shared()`, others read it too, who know the `shared` tags: a tuple becomes a list, what needs another tag
    is refused.
    """

    def __init__(
        self,
        types: KnownTypes,
        *,
        native: Iterable[type[Any]] = (),
        keys: Iterable[type[Any]] = (str,),
        finite: bool = False,
        is_shared: Callable[[], bool] = bool,
        shared: Iterable[str] = (),
    ) -> None:
        self._types = types
        self._is_shared = is_shared
        self._shared = frozenset(shared)
        self._native = frozenset(native)
        self._keys = frozenset(keys)
        self._finite = finite

    def tagged(self, value: Any, depth: int = 0) -> Any:
        """Return `value` with everything that the format doesn't have as tags.

        Raises:
            TypeError, ValueError: some part of it has no form; the text says which and why.
        """
        kind: type[Any] = type(cast(object, value))
        if kind in ATOMS:
            if self._finite and kind is float and not math.isfinite(value):
                raise ValueError("NaN and infinities would become null")
            return value
        if kind in self._native:
            return value
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        if kind is list:
            return [self.tagged(each, depth + 1) for each in value]
        if kind is dict:
            return self._tagged_dict(value, depth)
        return (self._tagged_for_others if self._is_shared() else self._tagged_for_us)(value, kind, depth)

    def _tagged_for_us(self, value: Any, kind: type[Any], depth: int) -> Any:
        if kind in (tuple, set, frozenset):
            return _tag(kind.__name__, [self.tagged(each, depth + 2) for each in value])
        if (tag := _standard_tags().get(kind)) is not None:
            return tag(value)
        if isinstance(value, Enum):
            member = value.name if value.name in kind.__members__ or not isinstance(value, Flag) else value.value
            return _tag("enum", [self._types.name_of(kind), member])
        if is_model(kind):
            return _tag("pydantic", [self._types.name_of(kind), _dumped(value)])
        if (form := self._types.form_of(kind)) is not None:
            return _tag(form.tag, self.tagged(form.plain(value), depth + 2))
        if is_struct(kind):
            fields = {each: self.tagged(getattr(value, each), depth + 3) for each in kind.__struct_fields__}
            return _tag("msgspec", [self._types.name_of(kind), fields])
        if dataclasses.is_dataclass(kind) and not isinstance(value, _BUILTINS):
            _check_constructor(kind)
            fields = {each.name: self.tagged(getattr(value, each.name), depth + 3) for each in dataclasses.fields(kind)}
            return _tag("dataclass", [self._types.name_of(kind), fields])
        if is_attrs(kind) and not isinstance(value, _BUILTINS):
            fields = {each: self.tagged(getattr(value, each), depth + 3) for each in _constructed(cast("Any", kind))}
            return _tag("attrs", [self._types.name_of(kind), fields])
        if isinstance(value, _BUILTINS):
            raise TypeError(f"type {kind.__qualname__} would be lost: make it a plain one")
        raise TypeError(f"type {kind.__qualname__} has no form in it: send plain data, a dataclass or a pydantic model")

    def _tagged_for_others(self, value: Any, kind: type[Any], depth: int) -> Any:
        if kind is tuple:
            return [self.tagged(each, depth + 1) for each in value]
        if (form := self._types.form_of(kind)) is not None and form.is_shared:
            return self.tagged(form.plain(value), depth + 1)
        tag = _standard_tags().get(kind)
        tagged = tag(value) if tag is not None else None
        if tagged is None or tagged[TYPE] not in self._shared:
            raise TypeError(
                f"type {kind.__qualname__} has no form in it that Celery reads (celery_compat): send plain data"
            )
        return tagged

    def _tagged_dict(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        for key in value:
            if type(key) not in self._keys:
                names = ", ".join(sorted(each.__name__ for each in self._keys))
                raise TypeError(f"key {shown(key)[:_MAX_KEY]} is of type {type(key).__name__}; keys must be {names}")
        is_like_a_tag = _is_like_a_tag(value)
        if is_like_a_tag and self._is_shared():
            raise ValueError(f"an object of {TYPE} and {VALUE} alone is a tag to Celery (celery_compat)")
        inside = depth + 2 if is_like_a_tag else depth + 1
        tagged = {key: self.tagged(each, inside) for key, each in value.items()}
        return _tag("dict", tagged) if is_like_a_tag else tagged

    def revived(self, value: Any, depth: int = 0) -> Any:
        """Return `value`, as it came out of the format, with its tags as what they stand for.

        Raises:
            DecodeError: a tag or class is not known here.
            Exception: a tag's value is not what it must be.
        """
        kind: type[Any] = type(cast(object, value))
        if kind not in _CONTAINERS:
            return value
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        if kind is list:
            return [self.revived(each, depth + 1) if type(each) in _CONTAINERS else each for each in value]
        if _is_like_a_tag(value):
            return self._revived_tag(value[TYPE], value[VALUE], depth)
        return self._revived_dict(value, depth)

    def _revived_dict(self, value: Any, depth: int) -> dict[Any, Any]:
        items = cast("dict[Any, Any]", value).items()
        return {key: self.revived(each, depth + 1) if type(each) in _CONTAINERS else each for key, each in items}

    def _revived_tag(self, tag: object, value: Any, depth: int) -> Any:
        match tag:
            case "dict":
                return self._revived_dict(_expect(value, dict), depth + 1)
            case "tuple":
                return tuple(self._revived_items(value, depth))
            case "set":
                return set(_hashable(self._revived_items(value, depth)))
            case "frozenset":
                return frozenset(_hashable(self._revived_items(value, depth)))
            case "enum":
                name, member = _expect(value, list)
                return _member(self._types.find(name, "enum"), member)
            case "dataclass":
                name, fields = _expect(value, list)
                kind = self._types.find(name, "dataclass")
                return _made(kind, self._revived_dict(_expect(fields, dict), depth + 2))
            case "attrs":
                name, fields = _expect(value, list)
                kind = self._types.find(name, "attrs")
                return _made_by(
                    kind, _constructed(cast("Any", kind)), self._revived_dict(_expect(fields, dict), depth + 2)
                )
            case "msgspec":
                name, fields = _expect(value, list)
                kind = self._types.find(name, "msgspec")
                named = {each: each for each in kind.__struct_fields__}
                return _made_by(kind, named, self._revived_dict(_expect(fields, dict), depth + 2))
            case "pydantic":
                name, fields = _expect(value, list)
                return _validated(self._types.find(name, "pydantic"), orjson.dumps(fields))
            case str() if (revive := _standard_revivers().get(tag)) is not None:
                return revive(value)
            case _ if (form := self._types.form_with(tag)) is not None:
                return form.made(self.revived(value, depth + 2))
            case _:
                raise DecodeError(f"tag {shown(tag)} is not known here")

    def _revived_items(self, value: Any, depth: int) -> list[Any]:
        return [self.revived(each, depth + 2) for each in _expect(value, list)]


def _tag(name: str, value: Any) -> dict[str, Any]:
    return {TYPE: name, VALUE: value}


def _is_like_a_tag(value: Mapping[Any, Any]) -> bool:
    return len(value) == 2 and TYPE in value and VALUE in value


def _expect(value: Any, kind: type[Any]) -> Any:
    found: type[Any] = type(cast(object, value))
    if found is not kind:
        raise TypeError(f"a tag's value is a {found.__name__}, not a {kind.__name__}")
    return value


@functools.cache
def _standard_tags() -> dict[type[Any], Callable[[Any], dict[str, Any]]]:
    from decimal import Decimal  # noqa: PLC0415  # not everybody's start, for few
    from uuid import UUID  # noqa: PLC0415  # the same

    return {
        datetime: lambda given: _tag("datetime", given.isoformat()),
        date: lambda given: _tag("date", given.isoformat()),
        time: lambda given: _tag("time", given.isoformat()),
        timedelta: lambda given: _tag("timedelta", [given.days, given.seconds, given.microseconds]),
        Decimal: lambda given: _tag("decimal", str(given)),
        UUID: lambda given: _tag("uuid", {"hex": given.hex}),
        bytes: _tagged_bytes,
        bytearray: lambda given: _tagged_bytes(bytes(given)),
    }


@functools.cache
def _standard_revivers() -> dict[str, Callable[[Any], Any]]:
    from decimal import Decimal  # noqa: PLC0415  # as above
    from uuid import UUID  # noqa: PLC0415  # as above

    return {
        "datetime": datetime.fromisoformat,
        "date": lambda text: datetime.fromisoformat(text).date(),
        "time": time.fromisoformat,
        "timedelta": lambda parts: timedelta(**dict(zip(("days", "seconds", "microseconds"), parts, strict=True))),
        "decimal": lambda text: Decimal(_expect(text, str)),
        "uuid": lambda given: UUID(hex=_expect(given["hex"] if type(given) is dict else given, str)),
        "bytes": lambda text: text.encode(),
        "base64": lambda text: binascii.a2b_base64(_expect(text, str), strict_mode=True),
    }


def _tagged_bytes(value: bytes) -> dict[str, Any]:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        pass
    else:
        if text.isprintable():  # JSON needs six characters for a control character
            return _tag("bytes", text)
    return _tag("base64", binascii.b2a_base64(value, newline=False).decode())


def _hashable(items: list[Any]) -> list[Any]:
    if len(items) > _MAX_SHARED_HASHES and len(items) - len(set(map(hash, items))) > _MAX_SHARED_HASHES:
        raise ValueError("a set has too many items of the same hash")
    return items


def _member(kind: type[Any], member: object) -> Any:
    if isinstance(member, str):
        found = kind.__members__.get(member)
        if found is None:
            raise DecodeError(f"enum {kind.__qualname__} has no member {shown(member)} here")
        return found
    if issubclass(kind, Flag) and type(member) is int:
        flags = kind(member)
        if flags.value != member:  # Python 3.11.2 drops what a strict flag does not know
            raise DecodeError(f"enum {kind.__qualname__} has no flags {member} here")
        return flags
    raise DecodeError(f"a member of enum {kind.__qualname__} is a {type(member).__name__}, not its name")


@functools.lru_cache(maxsize=1024)
def _check_constructor(kind: type[Any]) -> None:
    """Raise TypeError if the constructor of a dataclass wants something else than its fields (`InitVar`)."""
    names = {each.name for each in dataclasses.fields(kind) if each.init}
    for parameter in inspect.signature(kind).parameters.values():
        is_wanted = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if is_wanted and parameter.name not in names:
            raise TypeError(
                f"a {kind.__qualname__} can't be made again from its fields: its constructor wants {parameter.name!r}"
            )


def _made(kind: type[Any], given: dict[str, Any]) -> Any:
    """Return a dataclass of these fields; its constructor is called, as it checks them."""
    fields = {each.name: each for each in dataclasses.fields(kind)}
    if unknown := given.keys() - fields.keys():
        raise DecodeError(f"dataclass {kind.__qualname__} has no field {shown(min(unknown))} here")
    made = kind(**{name: value for name, value in given.items() if fields[name].init})
    for name, value in given.items():
        if not fields[name].init:
            object.__setattr__(made, name, value)  # past frozen=True
    return made


@functools.lru_cache(maxsize=1024)
def _constructed(kind: Any) -> Mapping[str, str]:
    """Return the fields of an attrs class, with what its constructor calls them.

    Raises:
        TypeError: its constructor does not set all of them, so that one would not come back as it is.
    """
    for each in kind.__attrs_attrs__:
        if not each.init:
            raise TypeError(f"a {kind.__qualname__} can't be made again from its fields: {each.name!r} has init=False")
    return {each.name: each.alias or each.name.lstrip("_") for each in kind.__attrs_attrs__}


def _made_by(kind: type[Any], names: Mapping[str, str], given: Mapping[str, Any]) -> Any:
    """Return an instance of `kind`, made by its constructor, to which fields have these `names`."""
    if unknown := given.keys() - names.keys():
        raise DecodeError(f"{kind.__qualname__} has no field {shown(min(unknown))} here")
    return kind(**{names[name]: value for name, value in given.items()})


def _dumped(model: Any) -> Any:
    """Return a pydantic model as JSON values, after a look whether it comes back from them as it was.

    Raises:
        ValueError: it doesn't: a field is excluded, hidden (SecretStr), holds a subclass of what it says, ….
    """
    kind: Any = type(cast(object, model))
    body = orjson.loads(model.model_dump_json(round_trip=True, by_alias=False))
    again = _validated(kind, orjson.dumps(body))
    for name in kind.model_fields:
        if getattr(again, name) != getattr(model, name):
            raise ValueError(f"field {name!r} of {kind.__qualname__} would not come back as it is")
    if again.model_extra != model.model_extra:
        raise ValueError(f"the extra fields of {kind.__qualname__} would not come back as they are")
    return body


def _validated(kind: Any, body: bytes) -> Any:
    return kind.model_validate_json(body, by_alias=False, by_name=True)
