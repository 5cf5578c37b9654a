"""The routes of the JSON API. Who asks, and what he may do, is up to the application that they are mounted in.

Reading is GET; acting is POST with a JSON object, for those who may operate. An error is `{"error": "…"}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, Protocol, cast

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ...calling.core import AppCore
from ...control.queries import Queries
from ...core.version import VERSION
from ...exceptions import AioTQError, CallError, InvalidOption, OperationalError, ResultsDisabled, StoreRequired
from .openapi import document_of
from .operations import OPERATIONS, Asked, Kind, Operation, Parameter

#: Bytes of the body of an act.
_MOST_BODY: Final = 1024 * 1024
_TYPES: Final[Mapping[Kind, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
_YES_OR_NO: Final[Mapping[str, bool]] = {"true": True, "1": True, "false": False, "0": False}


class Caller(Protocol):
    """Who asks."""

    @property
    def name(self) -> str: ...

    @property
    def may_operate(self) -> bool: ...


#: Returns who asks; None: he is not let in.
CallerOf = Callable[[Request], Caller | None]
#: Told of each act: of whom, what, with what, and what came of it.
Record = Callable[[Request, str, Mapping[str, Any], str], None]


def _unrecorded(request: Request, act: str, given: Mapping[str, Any], outcome: str) -> None:
    """Record nothing."""


def api_routes(core: AppCore, caller_of: CallerOf, record: Record = _unrecorded) -> Sequence[BaseRoute]:
    """Return the routes of the API for the app of `core`, to be mounted under `/api`."""
    queries = Queries(core)
    routes: list[BaseRoute] = [Route("/openapi.json", _document(caller_of), methods=["GET"])]
    # What has the longest path first: ids may have slashes in them.
    for operation in sorted(OPERATIONS, key=lambda each: -len(each.path)):
        path = operation.path.replace("{id}", "{id:path}").replace("{name}", "{name:path}")
        endpoint = _endpoint(core, queries, operation, caller_of, record)
        routes.append(Route(path, endpoint, methods=[operation.method]))
    return routes


def _document(caller_of: CallerOf) -> Callable[[Request], Any]:
    async def document(request: Request) -> Response:
        if caller_of(request) is None:
            return _error(HTTPStatus.UNAUTHORIZED, "not let in")
        base = request.url.path.removesuffix("/openapi.json")
        return _answer(document_of(OPERATIONS, VERSION, base))

    return document


def _endpoint(
    core: AppCore, queries: Queries, operation: Operation, caller_of: CallerOf, record: Record
) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        caller = caller_of(request)
        if caller is None:
            return _error(HTTPStatus.UNAUTHORIZED, "not let in")
        is_act = operation.method == "POST"
        act = request.url.path
        if is_act and not caller.may_operate:
            record(request, act, {}, "refused: may only read")
            return _error(HTTPStatus.FORBIDDEN, "you may only read")
        given: Mapping[str, Any] = {}
        try:
            given = await (_body(request, operation) if is_act else _query(request, operation))
            path = {name: str(text) for name, text in request.path_params.items()}
            found = await operation.answer(Asked(core, queries, path, given))
        except AioTQError as exc:
            if is_act:
                record(request, act, given, str(exc))
            return _error(_status_of(exc), str(exc))
        if is_act:
            record(request, act, given, "done")
        return _answer(found)

    return answer


async def _query(request: Request, operation: Operation) -> Mapping[str, Any]:
    """Return the parameters of a request.

    Raises:
        InvalidOption: one is not known, or not of its kind.
    """
    known = {each.name: each for each in operation.parameters}
    return {name: _read(_known(known, name), text) for name, text in request.query_params.items()}


async def _body(request: Request, operation: Operation) -> Mapping[str, Any]:
    """Return the fields of an act; raises as `_query`."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BODY:
            raise InvalidOption(f"the body is over {_MOST_BODY} bytes")
    try:
        told: Any = orjson.loads(bytes(body)) if body else {}
    except orjson.JSONDecodeError as exc:
        raise InvalidOption(f"the body is no JSON: {exc}") from None
    if not isinstance(told, dict):
        raise InvalidOption("the body must be a JSON object")
    given = cast("dict[str, Any]", told)
    known = {each.name: each for each in operation.parameters}
    for name, each in given.items():
        parameter = _known(known, name)
        is_flag = isinstance(each, bool)
        if not isinstance(each, _TYPES[parameter.kind]) or (is_flag and parameter.kind != "boolean"):
            raise InvalidOption(f"{name} must be of the type {parameter.kind}")
    if missing := [each.name for each in operation.parameters if each.is_needed and each.name not in given]:
        raise InvalidOption(f"{missing[0]} is missing")
    return given


def _known(known: Mapping[str, Parameter], name: str) -> Parameter:
    if name not in known:
        raise InvalidOption(f"no parameter {name!r}: there are {', '.join(known) or 'none'}")
    return known[name]


def _read(parameter: Parameter, text: str) -> Any:
    try:
        match parameter.kind:
            case "integer":
                return int(text)
            case "number":
                return float(text)
            case "boolean":
                return _YES_OR_NO[text.lower()]
            case _:
                return text
    except (ValueError, KeyError):
        raise InvalidOption(f"{parameter.name} must be of the type {parameter.kind}, not {text!r}") from None


def _status_of(error: AioTQError) -> HTTPStatus:
    match error:
        case OperationalError():
            return HTTPStatus.SERVICE_UNAVAILABLE
        case ResultsDisabled() | StoreRequired():
            return HTTPStatus.CONFLICT
        case CallError():
            return HTTPStatus.BAD_REQUEST
        case _:
            return HTTPStatus.UNPROCESSABLE_ENTITY


def _answer(found: object, status: HTTPStatus = HTTPStatus.OK) -> Response:
    body = orjson.dumps(found, default=repr, option=orjson.OPT_NON_STR_KEYS)
    return Response(body, status, {"cache-control": "no-store"}, "application/json")


def _error(status: HTTPStatus, text: str) -> Response:
    return _answer({"error": text}, status)
