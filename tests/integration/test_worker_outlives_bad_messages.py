"""What stands on the queue has a stated end, and the worker goes on (P5)."""

from __future__ import annotations

from typing import Any

import msgpack
import orjson
import pytest

from aiotq import (
    AioTQ,
)
from aiotq.exceptions import (
    DeadLettered,
)
from aiotq.wire.serializers import Serializer

from .memory_work import make_app, send_raw, works


@pytest.fixture
def app() -> AioTQ:
    return make_app()


def nested(depth: int) -> bytes:
    return b"[[" + b"[" * depth + b"]" * depth + b"],{},{}]"


@pytest.mark.parametrize(
    ("message", "reason", "detail"),
    [
        ({"task": "proj.nothing"}, "unknown_task", "no task is registered as 'proj.nothing'"),
        (
            {"body": b"N.", "content_type": "application/x-python-serialize"},
            "content_disallowed",
            "not accepted",
        ),
        ({"body": b"\x93\x90\x80\x80", "content_type": "application/x-msgpack"}, "content_disallowed", "not accepted"),
        ({"body": b"", "content_type": ""}, "content_disallowed", "''"),
        ({"body": b""}, "undecodable", "is not json"),
        ({"body": b"\xff\xfe"}, "undecodable", "is not json"),
        ({"body": nested(5000)}, "undecodable", "is not json"),
        ({"body": nested(400_000)}, "undecodable", "is not json"),
        ({"body": b"[" + b"0," * 600_000 + b"0]"}, "malformed", "over task_message_max_size (1000000)"),
        ({"body": b"5"}, "malformed", "not [args, kwargs, embed]"),
        ({"body": b"null"}, "malformed", "not [args, kwargs, embed]"),
        ({"body": b"{}"}, "malformed", "not [args, kwargs, embed]"),
        ({"body": b"[[],{}]"}, "malformed", "not [args, kwargs, embed]"),
        ({"body": b'["ab",{},{}]'}, "malformed", "not a list and an object"),
        ({"body": b"[{},[],{}]"}, "malformed", "not a list and an object"),
        ({"body": b"[[1],null,{}]"}, "malformed", "not a list and an object"),
        ({"body": b'[[1],{},{"chain":[{"args":[1]}]}]'}, "malformed", "workflow"),
        ({"body": b'[[1],{},{"chord":{"task":"x"}}]'}, "malformed", "chord"),
        ({"body": b"[[1],{},5]"}, "malformed", "workflow"),
    ],
)
async def test_a_message_that_cannot_be_run_is_a_dead_letter_and_a_failure(
    message: dict[str, Any], reason: str, detail: str
) -> None:
    app = make_app(accept_content=["json"], task_message_max_size=1_000_000, worker_unknown_task_timeout=0)

    @app.task(name="proj.add")
    async def add(x: int) -> int:
        raise AssertionError("it must not run")

    async with app, app.worker():
        task_id = await send_raw(app, **message)
        error = await app.AsyncResult(task_id).get(timeout=5, propagate=False)
        (letter,) = await app.admin.dead_letters()

        assert isinstance(error, DeadLettered)
        assert str(error).startswith(f"{reason}: ")
        assert (letter.reason, letter.message and letter.message.id) == (reason, task_id)
        assert detail in letter.detail
        await works(app)


async def test_keyword_names_that_are_no_strings_are_malformed(app: AioTQ) -> None:
    @app.task(name="proj.add")
    async def add(**kwargs: int) -> None: ...

    async with app, app.worker():
        body: bytes = msgpack.packb([[], {1: 2}, {}])
        task_id = await send_raw(app, body, content_type="application/x-msgpack")

        with pytest.raises(DeadLettered, match="names of keyword arguments"):
            await app.AsyncResult(task_id).get(timeout=5)
        await works(app)


@pytest.mark.parametrize("body", [b"[[],{},{}]", b"[[1,2],{},{}]", b'[[1],{"z":2},{}]', b'[[1],{"x":2},{}]'])
@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_arguments_that_do_not_fit_are_a_failure(app: AioTQ, kind: str, body: bytes) -> None:
    """Another program's call is not checked against the signature; it fails where it runs."""

    async def on_the_loop(x: int) -> None: ...

    def in_a_thread(x: int) -> None: ...

    app.task(name="proj.add")(on_the_loop if kind == "loop" else in_a_thread)
    async with app, app.worker():
        task_id = await send_raw(app, body)

        with pytest.raises(TypeError, match=r"argument"):
            await app.AsyncResult(task_id).get(timeout=5)
        assert not await app.admin.dead_letters()
        await works(app)


async def test_whatever_a_registered_serializer_raises_means_that_the_body_is_undecodable() -> None:
    class OddError(Exception):
        """Of no kind that we would know."""

    def decode(body: bytes) -> Any:
        decoded.append(body)
        raise OddError("junk")

    decoded: list[bytes] = []
    app = make_app(accept_content=["json", "odd"])
    app.register_serializer(Serializer("odd", "application/x-odd", "binary", orjson.dumps, decode))

    @app.task(name="proj.add")
    async def add(x: int) -> None: ...

    async with app, app.worker():
        task_id = await send_raw(app, b"junk", content_type="application/x-odd")

        with pytest.raises(DeadLettered, match=r"undecodable: .*junk"):
            await app.AsyncResult(task_id).get(timeout=5)
        assert [letter.reason for letter in await app.admin.dead_letters()] == ["undecodable"]
        await works(app)

    assert decoded == [b"junk"]
