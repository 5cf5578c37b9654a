"""The OpenAPI document of the API, made from its operations and from the values that it answers with.

Source: OpenAPI Specification 3.1.0.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, Literal, cast

from ...control import views
from ...control.fleet import FleetMember
from ...control.picture import Finding
from ...results.index import Finished
from ...transport import QueueStats
from .operations import Operation, Parameter

#: What is answered, by name: the fields of a value, and those that its JSON has besides, or lacks.
_VALUES: Final[Mapping[str, tuple[type, Mapping[str, str], frozenset[str]]]] = {
    "Finding": (Finding, {}, frozenset()),
    "Finished": (Finished, {}, frozenset()),
    "LiveCall": (views.LiveCall, {"is_slow": "boolean"}, frozenset()),
    "Worker": (FleetMember, {}, frozenset({"recent"})),
    "Queue": (
        QueueStats,
        {"state": "string", "workers": "array", "going": "number", "coming": "number", "lately": "object"},
        frozenset(),
    ),
    "Calls": (views.CallsPage, {}, frozenset()),
    "Call": (views.CallView, {}, frozenset()),
    "Workflows": (views.WorkflowPage, {}, frozenset()),
    "DeadLetter": (views.DeadView, {}, frozenset()),
    "Overview": (views.Overview, {"minutes": "array"}, frozenset({"recent"})),
}
_JSON: Final[Mapping[object, str]] = {str: "string", int: "integer", float: "number", bool: "boolean"}


def document_of(operations: Sequence[Operation], version: str, base: str) -> dict[str, Any]:
    """Return the document, for an API that is mounted under the path `base`."""
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "aiotq",
            "version": version,
            "description": "Looking after an app of aiotq, and its workers.",
        },
        "servers": [{"url": base}],
        "paths": paths,
        "components": {"schemas": {"Error": _error(), **{name: _schema_of(name) for name in _VALUES}}},
    }


def _operation(operation: Operation) -> dict[str, Any]:
    refused = {"description": "What went wrong", "content": _content({"$ref": "#/components/schemas/Error"})}
    found: dict[str, Any] = {
        "operationId": f"{operation.method.lower()}{operation.path}".replace("/", "_")
        .replace("{", "")
        .replace("}", ""),
        "summary": operation.summary,
        "responses": {
            "200": {"description": "The answer", "content": _content(_named(operation.answers))},
            **dict.fromkeys(("400", "401", "409", "503"), refused),
        },
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in ("id", "name")
        if f"{{{name}}}" in operation.path
    ]
    if operation.method == "GET":
        parameters += [_parameter(each) for each in operation.parameters]
    else:
        found["responses"]["403"] = refused
        found["description"] = "For those who may operate."
        found["requestBody"] = {"content": _content(_fields_of(operation.parameters))}
    return {**found, "parameters": parameters} if parameters else found


def _parameter(given: Parameter) -> dict[str, Any]:
    return {
        "name": given.name,
        "in": "query",
        "required": given.is_needed,
        "description": given.meaning,
        "schema": {"type": given.kind},
    }


def _fields_of(parameters: Sequence[Parameter]) -> dict[str, Any]:
    properties: dict[str, Any] = {
        each.name: {"type": each.kind, "description": each.meaning, **({"items": {}} if each.kind == "array" else {})}
        for each in parameters
    }
    needed = [each.name for each in parameters if each.is_needed]
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": needed} if needed else schema


def _named(answers: str) -> dict[str, Any]:
    if answers.startswith("["):
        return {"type": "array", "items": _named(answers[1:-1])}
    return {"$ref": f"#/components/schemas/{answers}"} if answers in _VALUES else {"type": answers}


def _schema_of(name: str) -> dict[str, Any]:
    kind, more, left_out = _VALUES[name]
    hints = typing.get_type_hints(kind)
    own = [each.name for each in fields(cast("Any", kind)) if each.name not in left_out]
    properties = {each: _schema(hints[each]) for each in own}
    properties |= {each: {"type": [given, "null"]} for each, given in more.items()}
    return {"type": "object", "description": (kind.__doc__ or "").partition("\n")[0], "properties": properties}


def _schema(hint: Any) -> dict[str, Any]:
    """Return the schema of a field's type; what is more than plain is an object or a list of anything."""
    if hint in _JSON:
        return {"type": _JSON[hint]}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return {"type": "string", "enum": list(arguments)}
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [_schema(each) for each in arguments if each is not type(None)] + [{"type": "null"}]}
    if origin is not None and isinstance(origin, type) and issubclass(origin, (tuple, list, Sequence)):
        named = _name_of(arguments[0]) if arguments else None
        return {"type": "array", "items": _named(named) if named else {}}
    named = _name_of(hint)
    return _named(named) if named else {"type": "object"}


def _name_of(kind: object) -> str | None:
    return next((name for name, (each, _, _) in _VALUES.items() if cast(object, each) is kind), None)


def _content(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _error() -> dict[str, Any]:
    return {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
