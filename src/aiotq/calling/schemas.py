"""What an app can be asked to do, for other programs: JSON Schema of its tasks, and an AsyncAPI document."""

from __future__ import annotations

import inspect
from typing import Any, Final

from ..core.hints import hints_of
from ..tasks.running import is_generator
from ..tasks.task import Task
from ..wire.json_schema import Schema, Schemas, with_default
from .core import AppCore
from .envelopes import declared_places

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_ASYNCAPI: Final = "3.0.0"


def schemas_of_tasks(core: AppCore) -> dict[str, Schema]:
    """Return, by their names, the schemas of the app's tasks: `arguments`, as an object by name, and `returns`."""
    return {name: schema_of_task(task) for name, task in sorted(core.registry.own_tasks.items())}


def schema_of_task(task: Task[..., Any]) -> Schema:
    """Return the JSON Schema (2020-12) of a task's `arguments`, as an object by name, and of what it `returns`.

    Further positional arguments (`*args`) are a list by their parameter's name.
    """
    arguments, returned = Schemas(), Schemas()
    parts = {"arguments": (arguments, _arguments(task, arguments)), "returns": (returned, _returned(task, returned))}
    found: Schema = {}
    for part, (schemas, schema) in parts.items():
        definitions = {"$defs": schemas.definitions} if schemas.definitions else {}
        found[part] = {"$schema": _DIALECT, **schema, **definitions}
    return found


def _arguments(task: Task[..., Any], schemas: Schemas) -> Schema:
    hints = hints_of(task.fn)
    properties: dict[str, Schema] = {}
    required: list[str] = []
    more: bool | Schema = False
    for each in task.call_parameters:
        schema = schemas.of(hints.get(each.name, Any))
        if each.kind is each.VAR_KEYWORD:
            more = schema or True
        elif each.kind is each.VAR_POSITIONAL:
            properties[each.name] = {"type": "array", "items": schema}
        else:
            properties[each.name] = with_default(schema, each.default)
            if each.default is each.empty:
                required.append(each.name)
    return {
        "title": task.name,
        **_described(task),
        "type": "object",
        "properties": properties,
        **({"required": required} if required else {}),
        "additionalProperties": more,
    }


def _returned(task: Task[..., Any], schemas: Schemas) -> Schema:
    return schemas.of(None if is_generator(task.fn) else hints_of(task.fn).get("return", Any))


def _described(task: Task[..., Any]) -> Schema:
    text = inspect.getdoc(task.fn)
    return {"description": text} if text else {}


def asyncapi(core: AppCore, version: str) -> dict[str, Any]:
    """Return an AsyncAPI 3.0 document of the app: a channel for each queue, a message for each task, and its result.

    `version` is the app's own. Source: AsyncAPI Specification 3.0.0.

    Raises:
        InvalidOption: a call of a task can't be routed.
    """
    schemas = Schemas("#/components/schemas/", "draft-07")
    messages: dict[str, Any] = {}
    channels: dict[str, Any] = {"results": {"address": None, "title": "Results, by the id of the call", "messages": {}}}
    operations: dict[str, Any] = {}
    for name, task in sorted(core.registry.own_tasks.items()):
        key, content = _key(name), core.serializers.get(task.declared.serializer or core.conf.task_serializer)
        messages[key] = _call(task, schemas, content.content_type)
        messages[f"{key}.result"] = _result(task, schemas, core.codec.content_type)
        channels["results"]["messages"][key] = {"$ref": f"#/components/messages/{key}.result"}
        queue = core.router.route(name, (), {}, {}, declared_places(task.declared), task).queues[0]
        channel = channels.setdefault(f"queue.{_key(queue)}", {"address": queue, "messages": {}})
        channel["messages"][key] = {"$ref": f"#/components/messages/{key}"}
        at = f"#/channels/queue.{_key(queue)}"
        operations[f"run.{key}"] = {
            "action": "receive",
            "channel": {"$ref": at},
            "messages": [{"$ref": f"{at}/messages/{key}"}],
            "reply": {
                "channel": {"$ref": "#/channels/results"},
                "messages": [{"$ref": f"#/channels/results/messages/{key}"}],
            },
        }
    return {
        "asyncapi": _ASYNCAPI,
        "info": {"title": core.main or "tasks", "version": version},
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas.definitions},
    }


def _call(task: Task[..., Any], schemas: Schemas, content_type: str) -> dict[str, Any]:
    arguments = _arguments(task, schemas)
    arguments.pop("required", None)  # they may be among the positional ones
    summary = arguments.get("description", "").partition("\n")[0]
    payload = {
        "description": "Arguments by position, arguments by name, and what follows the task.",
        "type": "array",
        "items": [{"type": "array"}, arguments, {"type": "object"}],
        "minItems": 3,
        "maxItems": 3,
    }
    told = {"summary": summary} if summary else {}
    return {"name": task.name, "title": task.name, **told, "contentType": content_type, "payload": payload}


def _result(task: Task[..., Any], schemas: Schemas, content_type: str) -> dict[str, Any]:
    name = f"{task.name}.result"
    payload = {
        "type": "object",
        "properties": {"status": {"const": "SUCCESS"}, "result": _returned(task, schemas)},
        "required": ["status", "result"],
    }
    return {"name": name, "title": f"What {task.name} returns", "contentType": content_type, "payload": payload}


def _key(name: str) -> str:
    """Return a name as a key of the document."""
    return "".join(each if each.isascii() and (each.isalnum() or each in "._-") else "_" for each in name)
