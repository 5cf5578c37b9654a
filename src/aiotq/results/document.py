"""The stored form of an outcome: Celery's result document, encoded by a serializer.

Exceptions travel as type name, module and arguments. A type is found only if its module is loaded already or
listed; nothing is ever imported because a document names it.

Source: Celery, `celery.backends.base.Backend.prepare_exception` and the result metadata it stores.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, cast

import orjson

from .. import exceptions, states
from ..core.tracebacks import arguments_of, formatted, text_of
from ..core.values import value
from ..exceptions import CallError, DecodeError, EncodeError, MessageTooLarge, RemoteError
from ..tasks.request import Request
from ..wire.encryption import NAME as ENCRYPTED
from ..wire.serializers import Serializer, SerializerRegistry
from . import celery_records
from .lineage import NO_LINEAGE, Lineage, lineage_of
from .records import Record

#: A traceback longer than this says nothing more, and recursion errors would fill the store.
MAX_TRACEBACK: Final = 64 * 1024
#: A failure is stored whatever its size, which is hardly ever above this.
_MAX_FAILURE: Final = 1024 * 1024
#: Between content types in a record, in the form of a MIME parameter.
_COMPRESSED: Final = "; compression="
_MAX_ARGUMENT: Final = 4096
_MAX_ARGUMENTS: Final = 32
_MAX_DEPTH: Final = 2


class RemoteTraceback(Exception):
    """The traceback of the worker in which an exception was raised; shown as the exception's cause."""

    def __str__(self) -> str:
        return "\n" + str(self.args[0])


@value
class Called:
    """How a task was called and where it ran: what a result tells beyond it with `result_extended`.

    `args` and `kwargs` are None if it did not run, or if they can't be kept with its result.
    """

    args: tuple[Any, ...] | None = None
    kwargs: Mapping[str, Any] | None = None
    retries: int | None = None
    queue: str | None = None
    stamps: Mapping[str, Sequence[Any]] | None = None

    @classmethod
    def by(cls, request: Request) -> Called:
        """Return what the call that runs here says of itself."""
        return cls(request.args, request.kwargs, request.retries, request.delivery_info.get("queue"), request.stamps)

    def plain(self) -> dict[str, Any]:
        """Return what is known of it."""
        fields = {
            "args": None if self.args is None else list(self.args),  # a tuple would be tagged
            "kwargs": self.kwargs,
            "retries": self.retries,
            "queue": self.queue,
            "stamps": self.stamps or None,
        }
        return {name: given for name, given in fields.items() if given is not None}


@value
class Document:
    """One state of a task, decoded. `result` is the value, the exception (FAILURE, REVOKED) or the state's own info."""

    task_id: str
    state: str
    result: Any
    said: Mapping[str, Any]  #: the whole document, as it came: few ask for more than the result

    @property
    def traceback(self) -> str | None:
        return _text(self.said.get("traceback"))

    @property
    def date_done(self) -> datetime | None:
        """When the task ended."""
        return _parse_date(self.said.get("date_done"))

    @property
    def parent_id(self) -> str | None:
        return _text(self.said.get("parent_id"))

    @property
    def children(self) -> tuple[str, ...]:
        """Ids of the calls that it made."""
        return celery_records.children_of(self.said.get("children"))

    @property
    def worker(self) -> str | None:
        """The name of the worker."""
        return _text(self.said.get("worker"))

    @property
    def name(self) -> str | None:
        """The task's."""
        return _text(self.said.get("name"))

    @property
    def lineage(self) -> Lineage:
        """The task's place in its workflow, as the record has it."""
        return lineage_of(self.said.get("workflow"))

    @property
    def called(self) -> Called:
        """How it was called."""
        return _called_of(self.said)

    def as_meta(self) -> dict[str, Any]:
        """Return it as the mapping that Celery's `on_message` callbacks get."""
        return {
            "task_id": self.task_id,
            "status": self.state,
            "result": self.result,
            "traceback": self.traceback,
            "children": list(self.children),
            "date_done": self.date_done.isoformat() if self.date_done else None,
            "parent_id": self.parent_id,
            **({"name": self.name, "worker": self.worker, **self.called.plain()} if self.called.plain() else {}),
        }


@value
class Update:
    """The state of a task at one moment, and all that is known of it then.

    `info` is the value, the exception, or the argument of `update_state`. `children` are the ids of the calls that the
    task has made. `args`, `kwargs`, `retries`, `queue` and `stamps` are stored with `result_extended`.
    """

    state: str
    info: Any
    is_ready: bool
    traceback: str | None = None
    date_done: datetime | None = None
    name: str | None = None
    worker: str | None = None
    children: tuple[str, ...] = ()
    args: tuple[Any, ...] | None = None
    kwargs: Mapping[str, Any] | None = None
    retries: int | None = None
    queue: str | None = None
    stamps: Mapping[str, Sequence[Any]] | None = None

    @classmethod
    def of(cls, found: Document) -> Update:
        """Return what a stored document tells."""
        how = found.called
        return cls(
            found.state,
            found.result,
            states.is_ready(found.state),
            found.traceback,
            found.date_done,
            found.name,
            found.worker,
            found.children,
            how.args,
            how.kwargs,
            how.retries,
            how.queue,
            how.stamps,
        )


class DocumentCodec:
    """Turns outcomes into record bodies and back, under one app's serializers and limits."""

    def __init__(
        self,
        registry: SerializerRegistry,
        *,
        serializer: str,
        compression: str | None = None,
        accept: frozenset[str],
        max_size: int,
        exception_types: tuple[str, ...],
        celery_compat: bool = False,
        extended: bool = False,
    ) -> None:
        self.is_extended = extended  #: whether results tell how their tasks were called
        self._is_celerys = celery_compat
        self._registry = registry
        self._serializer: Serializer = registry.to_send(serializer, accept)
        self._compression = registry.compression(compression)
        self._is_encrypted = compression == ENCRYPTED
        with suppress(EncodeError):
            registry.encode(self._serializer, None, "nothing")  # a library that is missing is told now
        if self._compression is not None:
            self._compression.compress(b"")
        self._accept = accept | {serializer}
        self._max_size = max_size
        self._exception_types = {name: _import_exception(name) for name in exception_types}

    @property
    def content_type(self) -> str:
        """The serializer's, and what more there is to say of the body."""
        if self._is_celerys:
            return celery_records.CELERYS
        if self._compression is None:
            return self._serializer.content_type
        return f"{self._serializer.content_type}{_COMPRESSED}{self._compression.content_type}"

    def encode(
        self,
        task_id: str,
        state: str,
        result: Any,
        *,
        done_at: float,
        trace: str | None = None,
        parent_id: str | None = None,
        worker: str | None = None,
        children: Sequence[str] = (),
        name: str | None = None,
        lineage: Lineage = NO_LINEAGE,
        called: Called | None = None,
    ) -> bytes:
        """Return the document's bytes.

        Raises:
            EncodeError: the result can't be serialized; the text names the place in it.
            MessageTooLarge: it is larger than `result_max_size`.
        """
        document: dict[str, Any] = {"task_id": task_id, "status": state}
        if states.is_ready(state):
            document["date_done"] = _date(done_at)
        if trace is not None:
            document["traceback"] = trace
        if parent_id is not None:
            document["parent_id"] = parent_id
        if worker is not None:
            document["worker"] = worker
        if children:
            document["children"] = list(children)
        if name is not None:
            document["name"] = name
        if lineage is not NO_LINEAGE:
            document["workflow"] = lineage.plain()
        if called is not None:
            with suppress(CallError):  # should the value be the reason, it is said again
                body = self._encoded({**document, **called.plain()}, result, is_own=False)
                if len(body) <= self._max_size:
                    return body
            document |= replace(called, args=None, kwargs=None).plain()
        return self._encoded(document, result)

    def _encoded(self, document: dict[str, Any], result: object, *, is_own: bool = True) -> bytes:
        """Return `document` with `result` as bytes; `is_own`: it has nothing else that came from the user."""
        given: object = encode_exception(result) if isinstance(result, BaseException) else result
        try:
            if is_own and self._serializer.embeds and not self._is_celerys:
                # What we say ourselves needs none of the checks that a value does.
                body = b'%b,"result":%b}' % (orjson.dumps(document)[:-1], self._serializer.encode(given))
            else:
                document["result"] = given
                whole = celery_records.completed(document) if self._is_celerys else document
                body = self._serializer.encode(whole)
        except Exception:  # whatever the serializer raises: said again with the place
            body = self._registry.encode(self._serializer, given, "the result")  # names the place
            raise EncodeError(f"the result can't be serialized as {self._serializer.name}") from None
        # What an exception may bring along is cut short anyway: how a task failed can always be stored.
        if len(body) > self._max_size and not isinstance(result, BaseException):
            raise MessageTooLarge("the result", len(body), self._max_size, "result_max_size")
        return body if self._compression is None else self._registry.compressions.compress(self._compression, body)

    def decode(self, record: Record) -> Document:
        """Return the document in `record`.

        Raises:
            ContentDisallowed, DecodeError: it is not one that this app reads.
        """
        content_type = record.content_type if record.content_type != celery_records.CELERYS else celery_records.JSON
        if _COMPRESSED not in content_type:
            found: Any = self._registry.decode(content_type, record.body, self._accept)
        else:
            content_type, _, compression = content_type.partition(_COMPRESSED)
            most = max(self._max_size, _MAX_FAILURE)
            found = self._registry.decode(
                content_type, record.body, self._accept, compression=compression, max_size=most
            )
        if not isinstance(found, dict):
            raise DecodeError(f"result of {record.id} is a {type(found).__name__}, not a document")
        document = cast("dict[str, Any]", found)
        result = document.get("result")
        if record.state in states.EXCEPTION_STATES:
            result = self.decode_exception(result, _text(document.get("traceback")))
        return Document(record.id, record.state, result, document)

    def decode_exception(self, encoded: object, trace: str | None) -> BaseException:
        """Return the exception that a document describes (see `encode_exception`)."""
        if not isinstance(encoded, dict):
            return RemoteError("Exception", str(encoded), trace)
        fields = cast("dict[str, Any]", encoded)
        name = str(fields.get("exc_type", "Exception"))
        module = celery_records.module_of(str(fields.get("exc_module") or "builtins"), name)
        told: Any = fields.get("exc_message", ())
        arguments = _as_tuple(cast("list[Any]", told)) if isinstance(told, (list, tuple)) else (told,)
        kind = self._find_exception(module, name)
        error = _remade(kind, arguments) if kind is not None else None
        if error is not None:
            if isinstance(error, exceptions.ChordError) and (cause := fields.get("exc_cause")) is not None:
                error.__cause__ = self.decode_exception(cause, trace)
            elif trace:
                error.__cause__ = RemoteTraceback(trace)
            return error
        text = ", ".join(str(argument) for argument in arguments)
        return RemoteError(f"{module}.{name}" if module != "builtins" else name, text, trace)

    @property
    def chunk_content_type(self) -> str:
        """That of the parts of what a task says while it runs: they are small, and encrypted if results are."""
        return self.content_type if self._is_encrypted else self._serializer.content_type

    def encode_chunk(self, chunk: Any) -> bytes:
        """Return the bytes of a part of what a task says; raises as `encode`."""
        try:
            body = self._serializer.encode(chunk)
        except Exception:  # as above
            body = self._registry.encode(self._serializer, chunk, "the chunk")
        if len(body) > self._max_size:
            raise MessageTooLarge("the chunk", len(body), self._max_size, "result_max_size")
        if self._is_encrypted and self._compression is not None:
            return self._registry.compressions.compress(self._compression, body)
        return body

    def decode_chunk(self, content_type: str, body: bytes) -> Any:
        """Return what `encode_chunk` was given; raises as `decode`."""
        content_type, _, compression = content_type.partition(_COMPRESSED)
        return self._registry.decode(
            content_type, body, self._accept, compression=compression or None, max_size=self._max_size
        )

    def _find_exception(self, module: str, name: str) -> type[Exception] | None:
        if (listed := self._exception_types.get(f"{module}.{name}")) is not None:
            return listed
        # Not by getattr: some modules import what they are asked for.
        first, *more = name.split(".")
        found: object = getattr(sys.modules.get(module), "__dict__", {}).get(first)
        for part in more:
            found = getattr(found, part, None) if isinstance(found, type) else None
        # Only Exception: nobody's SystemExit may end the process that reads a result.
        return found if isinstance(found, type) and issubclass(found, Exception) else None


def _date(seconds: float) -> str:
    """Return that time as `datetime.isoformat` does, in UTC."""
    second, microsecond = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"{_second(second)}.{microsecond:06d}+00:00" if microsecond else f"{_second(second)}+00:00"


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[: -len("+00:00")]


def encode_exception(error: BaseException) -> dict[str, Any]:
    """Return the document form of `error`; arguments that are no plain values become their repr."""
    # Who awaits the result is not to be cancelled.
    is_interrupt = isinstance(error, exceptions.SoftTimeLimitInterrupt)
    kind = exceptions.SoftTimeLimitExceeded if is_interrupt else type(error)
    arguments = [_plain(argument) for argument in arguments_of(error)[:_MAX_ARGUMENTS]]
    if not arguments and (text := text_of(error)):
        arguments = [_plain(text)]
    encoded: dict[str, Any] = {"exc_type": kind.__qualname__, "exc_message": arguments, "exc_module": kind.__module__}
    if isinstance(error, exceptions.ChordError) and error.__cause__ is not None:  # the member's own
        encoded["exc_cause"] = encode_exception(_own_cause(error.__cause__))
    return encoded


def _own_cause(error: BaseException) -> BaseException:
    """Return an exception as it was raised: a chord in a chord fails by the innermost member, told once."""
    seen: set[int] = set()
    while isinstance(error, exceptions.ChordError) and error.__cause__ is not None and id(error) not in seen:
        seen.add(id(error))
        error = error.__cause__
    return error


def format_traceback(error: BaseException) -> str:
    """Return the traceback of `error` as text, the middle of a very long one left out."""
    text = formatted(error)
    if len(text) > MAX_TRACEBACK:
        half = MAX_TRACEBACK // 2
        text = f"{text[:half]}\n... {len(text) - MAX_TRACEBACK} characters left out ...\n{text[-half:]}"
    return _sendable(text)


def _remade(kind: type[Exception], arguments: tuple[Any, ...]) -> Exception | None:
    """Return an exception of `kind` with these `args`, made without its constructor if that wants something else."""
    with suppress(Exception):  # whatever the type's own methods raise
        error = kind(*arguments)
        if error.args == arguments or isinstance(error, OSError):
            return error
    with suppress(Exception):
        error = kind.__new__(kind, *arguments)
        if not arguments or str(arguments[0]) in str(error):
            return error
    return None


def _as_tuple(given: Sequence[Any]) -> tuple[Any, ...]:
    """Return a list with the lists in it as tuples, which is what exceptions have as arguments."""
    return tuple(_as_tuple(cast("list[Any]", each)) if isinstance(each, list) else each for each in given)


def _plain(value: object, depth: int = 0) -> Any:
    # Exactly these types: what is derived from them may be encoded otherwise, or not at all.
    if value is None or type(value) is bool or (type(value) is int and abs(value) < 2**63):
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, tuple) and depth < _MAX_DEPTH:
        return [_plain(each, depth + 1) for each in cast("tuple[Any, ...]", value)[:_MAX_ARGUMENTS]]
    given = cast(object, value)
    try:
        text = given if type(given) is str else repr(given)
    except Exception as exc:  # the argument's own repr
        text = f"<{type(given).__qualname__}, whose repr failed: {type(exc).__name__}>"
    return _sendable(text[:_MAX_ARGUMENT])


def _sendable(text: str) -> str:
    """Return `text` without lone surrogates, which have no form on the wire."""
    return text.encode("utf-8", "replace").decode()


def _text(given: object) -> str | None:
    return given if isinstance(given, str) else None


def _called_of(document: Mapping[str, Any]) -> Called:
    args, kwargs, retries, queue = (document.get(name) for name in ("args", "kwargs", "retries", "queue"))
    stamps = document.get("stamps")
    return Called(
        tuple(cast("Sequence[Any]", args)) if isinstance(args, (list, tuple)) else None,
        cast("Mapping[str, Any]", kwargs) if isinstance(kwargs, dict) else None,
        retries if isinstance(retries, int) else None,
        _text(queue),
        cast("Mapping[str, Sequence[Any]]", stamps) if isinstance(stamps, dict) else None,
    )


def _parse_date(text: object) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _import_exception(name: str) -> type[Exception]:
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as exc:
        raise exceptions.InvalidSetting("result_exception_types", name, "importable exception types") from exc
    if not (isinstance(found, type) and issubclass(found, Exception)):
        raise exceptions.InvalidSetting("result_exception_types", name, "subclasses of Exception")
    return found
