"""Task classes as Celery's guide has them: with a constructor, registered as instances, with an own `apply_async`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from aiotq import AioTQ, Task, chord, shared_task
from aiotq.exceptions import InvalidOption


class Counting(Task[..., Any]):
    def __init__(self) -> None:
        self.seen: list[int] = []


class Stepping(Task[..., Any]):
    name = "stepping"

    def __init__(self, start: int = 10) -> None:
        self.start = start
        self.rate_limit = "100/s"

    def run(self, x: int) -> int:
        return self.start + x


class Tenant(Task[..., Any]):
    def apply_async(
        self, args: Sequence[Any] | None = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        options["headers"] = {**(options.get("headers") or {}), "tenant": "acme"}
        return super().apply_async(args, kwargs, **options)


@pytest.fixture
def app() -> AioTQ:
    return AioTQ("classes", broker="memory://")


def test_a_base_with_a_constructor_is_constructed_for_each_task(app: AioTQ) -> None:
    one: Any = app.task(base=Counting, name="one")(lambda: None)
    other: Any = app.task(base=Counting, name="other")(lambda: None)

    one.seen.append(1)

    assert (one.seen, other.seen) == ([1], [])


def test_a_registered_class_is_constructed_and_an_instance_is_what_runs(app: AioTQ) -> None:
    made: Any = app.register_task(Stepping)
    assert (made(1), made.rate_limit) == (11, "100/s")

    instance: Any = AioTQ("other", broker="memory://").register_task(Stepping(42))
    assert (instance(1), instance.rate_limit, instance.declared.rate_limit) == (43, "100/s", "100/s")


def test_a_constructor_that_needs_arguments_asks_for_an_instance(app: AioTQ) -> None:
    class Needing(Task[..., Any]):
        def __init__(self, start: int) -> None:
            self.start = start

        def run(self) -> int:
            return self.start

    with pytest.raises(InvalidOption, match=r"__init__ needs arguments.*give app\.register_task an instance"):
        app.register_task(Needing)
    assert app.register_task(Needing(7))() == 7


@pytest.mark.parametrize(
    "call",
    [
        lambda who: who.delay(),
        lambda who: who.options(priority=5).delay(),
        lambda who: who.s().delay(),
        lambda who: asyncio.to_thread(lambda: who.sync.delay().get(timeout=10)),
        lambda who: asyncio.to_thread(lambda: who.sync.apply_async().get(timeout=10)),
    ],
)
async def test_an_own_apply_async_is_asked_for_each_call(app: AioTQ, call: Callable[[Any], Any]) -> None:
    @app.task(base=Tenant, bind=True)
    async def who(self: Any) -> str:
        return str(self.request.headers.get("tenant"))

    async with app, app.worker():
        came = await call(who)
        assert (came if isinstance(came, str) else await came.get(timeout=10)) == "acme"


async def test_methods_of_ones_own_that_call_each_other_do_not_meet_again(app: AioTQ) -> None:
    """What is inside calls none of the names that a class may have of its own."""
    asked: list[str] = []

    class Own(Task[..., Any]):
        async def apply(self, *args: Any, **options: Any) -> Any:
            asked.append("apply")
            return await super().apply(*args, **options)

        async def update_state(self, *args: Any, **options: Any) -> None:
            asked.append("update_state")
            await super().update_state(*args, **options)

        async def add_to_chord(self, canvas: Any) -> Any:
            asked.append("add_to_chord")
            return await super().add_to_chord(canvas)

        def apply_async(self, *args: Any, **options: Any) -> Any:
            asked.append("apply_async")
            return self.apply(*args) if options.pop("here", False) else super().apply_async(*args, **options)

        def delay(self, *args: Any, **kwargs: Any) -> Any:
            asked.append("delay")
            return super().delay(*args, **kwargs)

    async def run(self: Any, x: int, grows: bool = False) -> int:
        await self.update_state("HALFWAY")
        if grows:
            await self.add_to_chord(own.s(x))
        return x

    own: Any = app.task(base=Own, bind=True, name="own")(run)

    @app.task(name="total")
    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    async with app, app.worker(), asyncio.timeout(10):
        assert await (await own.apply_async((1,), here=True)) == 1
        assert await (await own.delay(2)) == 2
        assert await (await (chord([own.s(3, grows=True)], total.s())).delay()) == 6
    calls = ["apply_async", "apply", "update_state", "delay", "apply_async", "update_state"]
    assert asked == [*calls, "update_state", "add_to_chord", "update_state"]


async def test_a_shared_task_acts_in_the_app_that_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotq.tasks.registry._shared_tasks", {})
    one = AioTQ("one", broker="memory://", task_cls=Counting)

    @shared_task(name="library.child")
    async def child(x: int) -> int:
        return x + 1

    @shared_task(name="library.parent", bind=True)
    async def parent(self: Any, x: int) -> Any:
        self.seen.append(x)
        by_name = await self.app.signature("library.child", (x,)).delay()
        await self.update_state("HALFWAY")
        return [self.app.main, (await child.delay(x)).id, (await (child.s(x) | child.s()).delay()).id, by_name.id]

    two = AioTQ("two", broker="memory://")
    told: list[str] = []

    async with one, one.worker():
        result = await one.send_task("library.parent", (1,))
        main, *sent = await result.get(timeout=10, on_message=lambda meta: told.append(meta["status"]))
        assert told[-2:] == ["HALFWAY", "SUCCESS"]
        assert main == "one"
        assert [await one.AsyncResult(each).get(timeout=10) for each in sent] == [2, 3, 2]
    assert parent.app is two


def test_an_option_of_a_shared_task_set_anew_holds_in_every_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotq.tasks.registry._shared_tasks", {})
    app = AioTQ("one", broker="memory://")
    task = shared_task(name="library.limited")(lambda: None)

    task.rate_limit = "5/s"

    assert app.tasks["library.limited"].declared.rate_limit == "5/s"


def at_a_prompt(text: str, file: str, space: dict[str, Any]) -> None:
    exec(compile(text, file, "exec"), space)


@pytest.mark.parametrize("name", ["<python-input-{}>", "/tmp/ipykernel_77/{}.py"])
def test_a_task_defined_again_at_a_prompt_takes_the_place_of_the_one_before(app: AioTQ, name: str) -> None:
    space: dict[str, Any] = {"__name__": "__main__", "app": app}
    for added in (1, 2):
        at_a_prompt(f"@app.task\nasync def f(x):\n    return x + {added}", name.format(added), space)

    assert asyncio.run(app.tasks["classes.f"](1)) == 3
