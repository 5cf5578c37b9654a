"""What an app can be asked to do, for other programs: JSON Schema of tasks, and an AsyncAPI document."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import jsonschema
import pytest
from typer.testing import CliRunner

from aiotq import INJECTED, AioTQ, Depends
from aiotq.calling.schemas import asyncapi, schema_of_task, schemas_of_tasks
from aiotq.cli import cli
from aiotq.commands.app_option import Target
from aiotq.core.inside import core_of
from tests.unit.shaped_tasks import CASES, Line, app

#: Of the npm package @asyncapi/specs (Apache-2.0): `schemas/3.0.0-without-$id.json`, without its descriptions.
ASYNCAPI: Final = Path(__file__).with_name("asyncapi-3.0.0.json.gz")
#: What a schema can't tell from what fits: forms of strings, which are an annotation there, and constraints of msgspec.
NOT_TOLD: Final = {"datetime", "time", "uuid", "decimal", "timedelta", "tuple_of_any_length", "attrs", "dataclass"}


def get_nothing() -> Iterator[None]:
    yield


def test_the_schema_of_a_task_says_what_its_arguments_may_be() -> None:
    """By the name of each parameter that a call has something for; and it is JSON."""
    proj = AioTQ("proj", broker="memory://")

    @proj.task(name="ship")
    def ship(
        line: Line,
        how: str = "air",
        *more: int,
        nothing: Annotated[None, Depends(get_nothing)] = INJECTED,
        **notes: str,
    ) -> list[Line] | None:
        """Ship a line.

        Anywhere.
        """

    found = schema_of_task(ship)

    line = {
        "title": "Line",
        "type": "object",
        "properties": {
            "price": {"type": ["string", "number"]},
            "count": {"type": "integer", "default": 1},
            "inner": {"type": "array", "items": {"$ref": "#/$defs/Line"}},
        },
        "required": ["price"],
        "additionalProperties": False,
    }
    assert json.loads(json.dumps(found)) == {
        "arguments": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "ship",
            "description": "Ship a line.\n\nAnywhere.",
            "type": "object",
            "properties": {
                "line": {"$ref": "#/$defs/Line"},
                "how": {"type": "string", "default": "air"},
                "more": {"type": "array", "items": {"type": "integer"}},
            },
            "required": ["line"],
            "additionalProperties": {"type": "string"},
            "$defs": {"Line": line},
        },
        "returns": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "anyOf": [{"type": "array", "items": {"$ref": "#/$defs/Line"}}, {"type": "null"}],
            "$defs": {"Line": line},
        },
    }


@pytest.mark.parametrize("name", CASES)
def test_a_schema_allows_what_fits_and_nothing_else(name: str) -> None:
    case = CASES[name]
    schema = schema_of_task(app.tasks[f"shaped.{name}.loop"])["arguments"]
    jsonschema.Draft202012Validator.check_schema(schema)

    jsonschema.validate({"given": case.plain}, schema)
    if case.says and name not in NOT_TOLD:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"given": case.wrong}, schema)


def test_the_document_of_an_app_is_asyncapi() -> None:
    document = asyncapi(core_of(app), "1.2.0")

    jsonschema.validate(document, json.loads(gzip.decompress(ASYNCAPI.read_bytes())))
    assert document["info"] == {"title": "shaped", "version": "1.2.0"}
    assert document["channels"]["queue.default"]["messages"].keys() == schemas_of_tasks(core_of(app)).keys()
    for part in references(document):  # leads somewhere
        found: Any = document
        for step in part.removeprefix("#/").split("/"):
            found = found[step]


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for key, each in part.items():
            if key == "$ref":
                yield each
            yield from references(each)
    elif isinstance(part, list):
        for each in part:
            yield from references(each)


def test_the_command_prints_them() -> None:
    run = CliRunner().invoke(cli, ["tasks", "-A", "tests.unit.shaped_tasks:app", "--schema"], obj=Target())
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout) == json.loads(json.dumps(schemas_of_tasks(core_of(app))))
    run = CliRunner().invoke(cli, ["tasks", "-A", "tests.unit.shaped_tasks:app", "--asyncapi", "2.0"], obj=Target())
    assert json.loads(run.stdout)["info"]["version"] == "2.0"
