"""Whatever enters a finish: the task ends, its neighbours are committed once, and the worker goes on (P5)."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiotq import AioTQ, Reject, Retry, Snooze, Task
from aiotq.exceptions import AioTQError

from ..servers import shared


def _is_key(given: object) -> bool:
    return not isinstance(given, set)


#: Text with what JSON, SQLite and headers have no form for.
TEXTS = st.one_of(
    st.text(st.characters(codec=None), max_size=20),
    st.sampled_from(["", "\0", "\ud800", "scan\udce9.pdf", "x" * 100_000, "é" * 60_000, "new\nline"]),
)
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-(2**80), max_value=2**80),
    st.floats(),
    TEXTS,
    st.binary(max_size=8),
    st.sampled_from([{1, 2}, frozenset(), object(), 1j, type, ...]),
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(PLAIN.filter(_is_key), inner, max_size=3)),
    max_leaves=6,
)
HOW = st.sampled_from(
    [
        "result",
        "reject",
        "retry headers",
        "retry by hand",
        "retry queue",
        "retry args",
        "delay",
        "snooze",
        "error",
        "state",
    ]
)


class Oddity(Exception):
    pass


def _app(url: str, ran: Counter[int]) -> tuple[AioTQ, Any, Any]:
    app = AioTQ("fuzzed", broker=url)
    asked: dict[str, Any] = {}

    @app.task(bind=True, max_retries=1)
    async def odd(self: Task[..., Any]) -> Any:
        how, value = asked["how"], asked["value"]
        if self.request.attempt:
            return "again"
        match how:
            case "result":
                return value
            case "reject":
                raise Reject(value)
            case "retry headers":
                self.retry(countdown=0, headers=value)
            case "retry by hand":
                raise Retry(delay=0, options={"headers": value, "shadow": value})
            case "retry queue":
                self.retry(countdown=0, queue=value)
            case "retry args":
                self.retry(countdown=0, args=[value])
            case "delay":
                raise Retry(delay=value)
            case "snooze":
                raise Snooze(value if isinstance(value, float) and not value < 1e9 else 0)
            case "error":
                raise Oddity(value, value)
            case _:
                await self.update_state(state="ODD", meta=value)
        return None

    @app.task
    async def neighbour(number: int) -> int:
        ran[number] += 1
        return number

    return app, (odd, asked), neighbour


async def _run(url: str, examples: list[tuple[str, Any]]) -> None:
    ran: Counter[int] = Counter()
    app, (odd, asked), neighbour = _app(url, ran)
    async with app, app.worker(grace=0.1) as worker:
        for place, (how, value) in enumerate(examples):
            asked.update(how=how, value=value)
            numbers = range(3 * place, 3 * place + 3)
            result = await odd.delay()
            others = [await neighbour.delay(number) for number in numbers]
            assert [await each.get(timeout=10) for each in others] == list(numbers)
            waits = (how == "retry queue" and isinstance(value, str)) or (
                how in {"delay", "snooze"} and isinstance(value, (int, float)) and value > 0
            )
            if not waits:
                with_end = asyncio.create_task(result.get(timeout=10))
                await asyncio.wait({with_end})
                error = with_end.exception()
                assert error is None or isinstance(error, (AioTQError, Oddity, TypeError, ValueError)), error
                assert not isinstance(error, TimeoutError), (how, value)
        assert worker.running == 0
    assert set(ran.values()) <= {1}
    assert worker.left_uncommitted == 0


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(examples=st.lists(st.tuples(HOW, VALUES), min_size=1, max_size=8))
def test_whatever_a_task_ends_with_its_worker_goes_on(
    kind: str, tmp_path_factory: pytest.TempPathFactory, examples: list[tuple[str, Any]]
) -> None:
    directory: Path = tmp_path_factory.mktemp("fuzzed")
    urls = {
        "memory": "memory://",
        "sqlite": f"sqlite:///{directory}/queue.db",
        "redis": f"{shared('redis').url}?prefix={directory.name}",
    }
    asyncio.run(_run(urls[kind], examples))
