"""JSON Schema of type hints: what plain data may be that `shapes` makes values of."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from importlib import import_module
from typing import Any, Final, Literal, TypeAlias, get_args, get_origin

from .known_types import is_attrs, is_model, is_struct, is_typed_dict
from .shapes import (
    LISTS,
    MAPPINGS,
    SETS,
    WRAPPERS,
    alias_of,
    hints_with,
    library_of,
    required_keys,
    standard_types,
)

Schema: TypeAlias = dict[str, Any]
Dialect = Literal["2020-12", "draft-07"]

_PLAIN: Final[Mapping[Any, Schema]] = {
    type(None): {"type": "null"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    bytes: {"type": "string"},
    list: {"type": "array"},
    tuple: {"type": "array"},
    dict: {"type": "object"},
}
_STANDARD: Final[Mapping[str, Schema]] = {
    "datetime": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "timedelta": {"type": ["number", "string"], "format": "duration"},
    "UUID": {"type": "string", "format": "uuid"},
    "Decimal": {"type": ["string", "number"]},
}


class Schemas:
    """Makes schemas in one dialect; those of classes are kept in `definitions`, and referred to below `at`."""

    def __init__(self, at: str = "#/$defs/", dialect: Dialect = "2020-12") -> None:
        self.definitions: dict[str, Schema] = {}
        self._at = at
        self._dialect = dialect
        self._names: dict[Any, str] = {}
        self._taken_by: dict[str, object] = {}

    def of(self, hint: Any) -> Schema:
        """Return the schema of a hint; `{}`, which allows anything, for what is not plain data."""
        origin, args = get_origin(hint), get_args(hint)
        if (metadata := getattr(hint, "__metadata__", None)) is not None:
            match library_of(metadata):
                case "pydantic":
                    return self._by_pydantic(hint)
                case "msgspec":
                    return self._by_msgspec(hint)
                case None:
                    return self.of(args[0])
        if (inner := alias_of(hint)) is not None:
            return self.of(inner)
        if origin is Literal:
            return {"enum": [each.value if isinstance(each, Enum) else each for each in args]}
        if origin in {typing.Union, types.UnionType}:
            return {"anyOf": [self.of(each) for each in args]}
        if getattr(origin, "_name", getattr(origin, "__name__", None)) in WRAPPERS and args:
            return self.of(args[0])
        if isinstance(hint, dataclasses.InitVar):
            return self.of(typing.cast("Any", hint).type)
        kind = hint if origin is None else origin
        if kind is tuple and args:
            return self._tuple(args)
        if kind in LISTS or kind in SETS:
            unique = {"uniqueItems": True} if kind in SETS else {}
            return {"type": "array", **unique, **({"items": self.of(args[0])} if args else {})}
        if kind in MAPPINGS:
            return {"type": "object", **({"additionalProperties": self.of(args[1])} if args else {})}
        return self._of_class(hint, kind, args)

    def _tuple(self, args: tuple[Any, ...]) -> Schema:
        if len(args) == 2 and args[1] is Ellipsis:
            return {"type": "array", "items": self.of(args[0])}
        items = [self.of(each) for each in args]
        key = "prefixItems" if self._dialect == "2020-12" else "items"
        return {"type": "array", key: items, "minItems": len(items), "maxItems": len(items)}

    def _of_class(self, hint: Any, kind: Any, args: tuple[Any, ...]) -> Schema:
        kind = typing.cast("Any", type(None) if kind is None else kind)
        if kind in _PLAIN:
            return dict(_PLAIN[kind])
        if kind in standard_types():
            return dict(_STANDARD[kind.__name__])
        if not isinstance(kind, type):
            return {}
        if is_model(kind) or hasattr(kind, "__pydantic_validator__"):
            return self._by_pydantic(hint)
        if is_struct(kind):
            return self._by_msgspec(hint)
        if issubclass(kind, Enum):
            return {"enum": [each.value for each in kind]}
        return self._defined(hint, typing.cast("Any", kind), args) if _has_fields(kind) else {}

    def _defined(self, hint: Any, kind: type[Any], args: tuple[Any, ...]) -> Schema:
        """Return a reference to the schema of a class with fields; a class may have fields of its own kind."""
        name = self._names.get(hint)
        if name is None:
            words = "_".join([kind.__qualname__, *(getattr(each, "__name__", str(each)) for each in args)])
            name = self._names[hint] = self._free(words, hint)
            self.definitions[name] = {}
            self.definitions[name] = self._fields(kind, args)
        return {"$ref": f"{self._at}{name}"}

    def _fields(self, kind: Any, args: tuple[Any, ...]) -> Schema:
        hints = hints_with(kind, args)
        if is_typed_dict(kind):
            properties = {name: self.of(hint) for name, hint in hints.items()}
            return _object(kind.__name__, properties, sorted(required_keys(kind)), more=True)
        attributes = {getattr(each, "alias", None): each for each in getattr(kind, "__attrs_attrs__", ())}
        properties, required = dict[str, Schema](), list[str]()
        for each in inspect.signature(kind).parameters.values():
            if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
                continue
            attribute = attributes.get(each.name)
            name = each.name if attribute is None else attribute.name
            is_converted = getattr(attribute, "converter", None) is not None
            properties[name] = with_default(self.of(Any if is_converted else hints.get(name, Any)), each.default)
            if each.default is each.empty:
                required.append(name)
        return _object(kind.__name__, properties, required, more=False)

    def _by_pydantic(self, hint: Any) -> Schema:
        pydantic: Any = import_module("pydantic")
        return self._taken(pydantic.TypeAdapter(hint).json_schema(ref_template=_MARK + "{model}"))

    def _by_msgspec(self, hint: Any) -> Schema:
        msgspec: Any = import_module("msgspec")
        (schema,), definitions = msgspec.json.schema_components([hint], ref_template=_MARK + "{name}")
        return self._taken({**schema, "$defs": definitions})

    def _taken(self, schema: Schema) -> Schema:
        """Return a schema that a library made, with its definitions among ours."""
        own: Schema = schema.pop("$defs", {})
        names = {name: self._free(name, each) for name, each in own.items()}
        for name, each in own.items():
            self.definitions[names[name]] = self._renamed(each, names)
        return typing.cast("Schema", self._renamed(schema, names))

    def _renamed(self, part: Any, names: Mapping[str, str]) -> Any:
        if isinstance(part, dict):
            return {key: self._renamed(each, names) for key, each in typing.cast("Schema", part).items()}
        if isinstance(part, list):
            return [self._renamed(each, names) for each in typing.cast("list[Any]", part)]
        if isinstance(part, str) and part.startswith(_MARK):
            return f"{self._at}{names[part.removeprefix(_MARK)]}"
        return part

    def _free(self, name: str, what: object) -> str:
        """Return `name` if it is free, or stands for `what` already; else one like it."""
        name = "".join(each if each.isalnum() or each in "._-" else "_" for each in name)
        while self._taken_by.setdefault(name, what) != what:
            name = f"{name}_2"
        return name


def _has_fields(kind: Any) -> bool:
    return is_typed_dict(kind) or dataclasses.is_dataclass(kind) or is_attrs(kind)


#: Where libraries put what is renamed.
_MARK: Final = "aiotq:definition:"


def with_default(schema: Schema, default: Any) -> Schema:
    """Return `schema` with a default, if that is plain."""
    if default is None or type(default) in {bool, int, float, str}:
        return {**schema, "default": default}
    return schema


def _object(title: str, properties: Mapping[str, Schema], required: Sequence[str], *, more: bool) -> Schema:
    found: Schema = {"title": title, "type": "object", "properties": dict(properties)}
    if required:
        found["required"] = list(required)
    return found if more else {**found, "additionalProperties": False}
