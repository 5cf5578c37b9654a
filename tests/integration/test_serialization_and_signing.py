"""Rich values, compression and signatures through a real worker: what arrives is what was sent, or a dead letter."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import enum
import tracemalloc
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic
import pytest

from aiotq import AioTQ
from aiotq.core.inside import core_of
from aiotq.exceptions import (
    DeadLettered,
    DecodeError,
    EncodeError,
    InvalidOption,
    InvalidSetting,
    MessageTooLarge,
    Snooze,
)
from aiotq.wire.compression import Compression
from aiotq.wire.message import Envelope, Message, new_id
from aiotq.wire.signing import SharedKey

from ..waiting import wait_until

KEY = "a secret of some length"
NEW_KEY = "another of some length"


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


@dataclasses.dataclass(frozen=True)
class Line:
    article: uuid.UUID
    size: Size
    price: decimal.Decimal


@dataclasses.dataclass
class Unannounced:
    x: int


class Meter(pydantic.BaseModel):
    readings: list[int]


class Bill(pydantic.BaseModel):
    lines: list[Line]
    at: datetime.datetime
    total: decimal.Decimal


LINE = Line(uuid.UUID(int=5), Size.LARGE, decimal.Decimal("1.10"))
AT = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture(params=["memory", "sqlite"])
def make_app(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., AioTQ]:
    broker = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/aiotq.db"
    return lambda **settings: AioTQ("proj", broker=broker, **settings)


async def send(app: AioTQ, message: Message) -> str:
    """Put a message on the queue as it is, past all that a call does."""
    connection = await core_of(app).connection()
    await connection.broker.send([Envelope(message, "default")])
    return message.id


async def sent(app: AioTQ, *args: Any, **options: Any) -> Message:
    """Return the message of a call, which is taken off its queue again."""
    connection = await core_of(app).connection()
    collected: list[Message] = []

    async def collect(batch: Any) -> None:
        collected.extend(envelope.message for envelope in batch)

    transport = connection.broker
    real, transport.send = transport.send, collect  # type: ignore[method-assign]
    try:
        await app.send_task("proj.add", args, **options)
    finally:
        transport.send = real  # type: ignore[method-assign]
    (message,) = collected
    return message


async def reason_of(app: AioTQ, task_id: str) -> tuple[str, str]:
    """Return why a call became a dead letter; its caller has heard of it."""
    error = await app.AsyncResult(task_id).get(timeout=10, propagate=False)
    assert isinstance(error, DeadLettered)
    letters = await app.admin.dead_letters()
    (letter,) = [each for each in letters if each.message is not None and each.message.id == task_id]
    return letter.reason, letter.detail


def with_add(app: AioTQ) -> list[Any]:
    """Give the app a task that notes what it is called with."""
    ran: list[Any] = []

    @app.task(name="proj.add")
    async def add(*args: Any) -> int:
        ran.append(args)
        return len(args)

    return ran


@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml", "pickle"])
async def test_a_dataclass_goes_in_and_a_model_comes_out(make_app: Callable[..., AioTQ], serializer: str) -> None:
    app = make_app(
        task_serializer=serializer, result_serializer=serializer, accept_content=[serializer], result_compression="zlib"
    )

    @app.task
    async def bill(lines: list[Line], *, at: datetime.datetime) -> Bill:
        assert (type(lines), lines[0]) == (list, LINE)
        return Bill(lines=lines, at=at, total=sum((line.price for line in lines), decimal.Decimal(0)))

    async with app, app.worker():
        value = await (await bill.options(compression="bzip2").delay([LINE, LINE], at=AT)).get(timeout=10)

    assert value == Bill(lines=[LINE, LINE], at=AT, total=decimal.Decimal("2.20"))


async def test_a_process_gets_and_gives_them_too(make_app: Callable[..., AioTQ]) -> None:
    from . import rich_tasks  # noqa: PLC0415  # it makes an app

    async with rich_tasks.app, rich_tasks.app.worker(processes=1):
        result = await rich_tasks.double.delay(rich_tasks.Amount(decimal.Decimal("1.5")))
        assert await result.get(timeout=30) == (rich_tasks.Amount(decimal.Decimal("3.0")), {1})


async def test_a_class_that_is_not_known_is_a_dead_letter_that_says_what_to_do() -> None:
    app = AioTQ("proj", broker="memory://")
    ran = with_add(app)
    async with app, app.worker():
        refused = await app.send_task("proj.add", [Unannounced(1)])
        reason, detail = await reason_of(app, refused.id)
        app.register_type(Unannounced)
        taken = await app.send_task("proj.add", [Unannounced(1)])
        assert await taken.get(timeout=10) == 1

    assert reason == "undecodable"
    assert f"dataclass '{__name__}.Unannounced' is not known here" in detail
    assert "app.register_type" in detail
    assert ran == [(Unannounced(1),)]


async def test_a_model_that_changed_since_is_a_dead_letter_with_a_few_kilobytes_of_the_reason(
    make_app: Callable[..., AioTQ],
) -> None:
    app = make_app()

    @app.task(name="proj.add")
    async def add(meter: Meter) -> int:
        return len(meter.readings)

    async with app:
        message = await sent(app, Meter(readings=[7] * 3000))
        task_id = await send(app, dataclasses.replace(message, id=new_id(), body=message.body.replace(b"7", b'"x"')))
        async with app.worker():
            reason, detail = await reason_of(app, task_id)

    assert reason == "undecodable"
    assert 10 < len(detail) < 5000


async def test_a_result_of_a_class_that_the_reader_does_not_know_is_a_decode_error(tmp_path: Path) -> None:
    worker, caller = (AioTQ("proj", broker=f"sqlite:///{tmp_path}/a.db") for _ in range(2))

    @worker.task(name="proj.give")
    async def give() -> Unannounced:
        return Unannounced(1)

    async with worker, worker.worker(), caller:
        result = await caller.send_task("proj.give")
        with pytest.raises(DecodeError, match=r"Unannounced' is not known here"):
            await result.get(timeout=10)


async def test_what_has_no_form_is_refused_at_the_call_with_its_place() -> None:
    app = AioTQ("proj", broker="memory://")

    @app.task
    async def note(where: Any) -> None: ...

    async with app:
        with pytest.raises(EncodeError, match=r"argument where\['a'\]\[0\] can't be .* keys must be str"):
            await note.delay({"a": [{1: 2}]})
        with pytest.raises(InvalidOption, match="'pickle' can run any code"):
            await note.options(serializer="pickle").delay(1)
        with pytest.raises(InvalidOption, match="unknown compression 'gzp'"):
            await note.options(compression="gzp").delay(1)
        with pytest.raises(InvalidOption, match="option compression must be a compression's name"):
            await note.apply_async((1,), compression=5)  # type: ignore[arg-type]
        with pytest.raises(EncodeError, match=r"option headers\['at'\]"):
            await note.apply_async((1,), headers={"at": AT})
    with pytest.raises(InvalidOption, match="task option compression must be"):
        app.task(compression=True)(with_add)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


async def test_pickle_that_is_not_accepted_is_a_dead_letter() -> None:
    app = AioTQ("proj", broker="memory://")
    ran = with_add(app)
    async with app, app.worker():
        body = b"cbuiltins\nprint\n(S'hi'\ntR."
        message = Message(new_id(), "proj.add", body, "application/x-python-serialize", reply_to="nobody")
        reason, _ = await reason_of(app, await send(app, message))

    assert (reason, ran) == ("content_disallowed", [])


async def test_results_in_pickle_need_consent_too() -> None:
    app = AioTQ("proj", broker="memory://", result_serializer="pickle")
    with pytest.raises(
        InvalidSetting, match=r"'result_serializer' must be .* add 'pickle' to the setting accept_content"
    ):
        async with app, app.worker():
            pass


# Compression


async def test_the_call_is_before_the_task_and_the_task_before_the_setting() -> None:
    app = AioTQ("proj", broker="memory://", task_compression="zlib")

    @app.task(compression="bzip2")
    async def packed() -> None: ...

    assert (await sent(app, 1)).compression == "application/x-gzip"
    assert (await sent(app, 1, compression="xz")).compression == "application/x-lzma"
    assert zlib.decompress((await sent(app, 1)).body) == b"[[1],{},{}]"
    app.tasks["proj.add"] = packed
    packed.check = lambda args, kwargs: None  # type: ignore[method-assign]
    assert (await sent(app, 1)).compression == "application/x-bz2"
    await app.close()


@pytest.mark.parametrize("name", ["zlib", "gzip", "bzip2", "lzma", "brotli", "zstd", "rot"])
async def test_all_of_a_call_may_be_compressed(make_app: Callable[..., AioTQ], name: str) -> None:
    app = make_app(task_compression=name, result_compression=name)
    app.register_compression(Compression("rot", "application/x-rot", lambda b: b[::-1], lambda b, most: b[::-1]))

    @app.task
    async def double(text: str) -> str:
        return text * 2

    @app.task
    async def fail() -> None:
        raise ValueError("no")

    async with app, app.worker():
        assert await (await double.delay("x" * 50_000)).get(timeout=10) == "x" * 100_000
        with pytest.raises(ValueError, match="no"):
            await (await fail.delay()).get(timeout=10)
        assert await (await double.apply(("x",))).get() == "xx"


async def test_limits_are_of_what_is_not_compressed() -> None:
    app = AioTQ("proj", broker="memory://", task_message_max_size=10_000, result_max_size=10_000)

    @app.task(compression="zlib")
    async def repeat(text: str, times: int) -> str:
        return text * times

    async with app, app.worker():
        with pytest.raises(MessageTooLarge, match=r"the arguments of .* over the limit of 10000"):
            await repeat.delay("x" * 10_000, 1)
        with pytest.raises(MessageTooLarge, match="the result"):
            await (await repeat.delay("x", 10_000)).get(timeout=10)


async def test_a_bomb_is_a_dead_letter_and_costs_its_limit() -> None:
    app = AioTQ("proj", broker="memory://")
    ran = with_add(app)
    compressor = zlib.compressobj(9)
    zeros = bytes(1024 * 1024)
    bomb = b"".join([*(compressor.compress(zeros) for _ in range(1024)), compressor.flush()])
    async with app, app.worker():
        tracemalloc.start()
        message = Message(new_id(), "proj.add", bomb, compression="application/x-gzip")
        reason, detail = await reason_of(app, await send(app, message))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert (reason, ran) == ("undecodable", [])
    assert f"more than {4 * 1024 * 1024} bytes when decompressed" in detail
    assert peak < 24 * 1024 * 1024


@pytest.mark.parametrize(
    ("compression", "reason", "words"),
    [
        ("application/x-gzip", "undecodable", "is not zlib"),
        ("application/zstd", "undecodable", "is not zstd"),
        ("application/x-unheard-of", "content_disallowed", "compression 'application/x-unheard-of' is not known here"),
        ("x" * 5000, "content_disallowed", "is not known here"),
    ],
)
async def test_a_body_that_is_not_what_its_header_says_is_a_dead_letter(
    compression: str, reason: str, words: str
) -> None:
    app = AioTQ("proj", broker="memory://")
    ran = with_add(app)
    async with app, app.worker():
        task_id = await send(app, Message(new_id(), "proj.add", b"[[1],{},{}]", compression=compression))
        found, detail = await reason_of(app, task_id)

    assert (found, ran) == (reason, [])
    assert words in detail


# Signatures


async def test_signed_calls_run_and_so_do_their_retries(make_app: Callable[..., AioTQ]) -> None:
    app = make_app(security_key=KEY)
    attempts: list[int] = []

    @app.task(bind=True, default_retry_delay=0)
    async def third_time(self: Any, point: tuple[int, int]) -> tuple[int, int]:
        attempts.append(self.request.retries)
        if len(attempts) == 1:
            raise self.retry(countdown=0)
        if len(attempts) == 2:
            raise Snooze(0)
        return point

    async with app, app.worker():
        result = await third_time.apply_async(((1, 2),), headers={"a": 1.5}, expires=60, compression="zlib")
        assert await result.get(timeout=10) == (1, 2)
        (many,) = await asyncio.gather(app.send_many([third_time.s((3, 4))]))
        assert await many == [(3, 4)]

    assert attempts == [0, 1, 1, 0]


@pytest.mark.parametrize(
    "change",
    [
        {"task": "proj.other"},
        {"id": "another-id"},
        {"body": b"[[2],{},{}]"},
        {"expires": 4_000_000_000.0},
        {"headers": {"user": "root"}},
        {"reply_to": "mallory"},
        {"expires": 1.0},  # which is not even believed to be over
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_message_that_was_changed_is_a_dead_letter(
    make_app: Callable[..., AioTQ], change: dict[str, Any]
) -> None:
    app = make_app(security_key=KEY)
    ran = with_add(app)
    app.tasks["proj.other"] = app.tasks["proj.add"]
    async with app, app.worker():
        signed = await sent(app, 1)
        forged = dataclasses.replace(signed, **change)
        reason, _ = await reason_of(app, await send(app, forged))

    assert (reason, ran) == ("bad_signature", [])


async def test_a_message_that_is_not_signed_is_a_dead_letter() -> None:
    app = AioTQ("proj", broker="memory://", security_key=KEY)
    ran = with_add(app)
    async with app, app.worker():
        reason, detail = await reason_of(app, await send(app, Message(new_id(), "proj.add", b"[[1],{},{}]")))

    assert (reason, ran) == ("unsigned", [])
    assert "security_key" in detail


async def test_keys_are_changed_without_losing_a_call(tmp_path: Path) -> None:
    broker = f"sqlite:///{tmp_path}/a.db"
    old, both, new = (
        AioTQ("proj", broker=broker, security_key=key, security_previous_keys=previous)
        for key, previous in ((KEY, ()), (NEW_KEY, [KEY]), (NEW_KEY, ()))
    )
    with_add(both)
    with_add(new)
    async with old, both, new:
        async with both.worker():
            assert await (await old.send_task("proj.add", [1])).get(timeout=10) == 1
            assert await (await new.send_task("proj.add", [1])).get(timeout=10) == 1
        async with new.worker():
            assert await (await both.send_task("proj.add", [1])).get(timeout=10) == 1
            late = await old.send_task("proj.add", [1])
            assert (await reason_of(new, late.id))[0] == "bad_signature"


async def test_a_dead_letter_of_a_signed_call_is_replayed(make_app: Callable[..., AioTQ]) -> None:
    app = make_app(security_key=KEY, worker_unknown_task_timeout=0)
    async with app, app.worker():
        lost = await app.send_task("proj.add", [1])
        assert (await reason_of(app, lost.id))[0] == "unknown_task"
        ran = with_add(app)
        await app.admin.replay_all()
        await wait_until(lambda: ran, "the replayed call runs")

    assert ran == [(1,)]


async def test_who_has_no_key_sees_signed_messages_as_any(make_app: Callable[..., AioTQ]) -> None:
    """So that senders can be given the key before the workers are."""
    app = make_app()
    ran = with_add(app)
    async with app, app.worker():
        message = SharedKey(KEY).signed(Message(new_id(), "proj.add", b"[[1],{},{}]"))
        assert await app.AsyncResult(await send(app, message)).get(timeout=10) == 1

    assert ran == [(1,)]
