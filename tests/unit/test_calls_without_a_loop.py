"""A call in code where no event loop runs is an error at its line, which says what to write: it is not lost."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async

from aiotq import AioTQ, chain, chord, group
from aiotq.core.inside import core_of
from aiotq.exceptions import CallError, ResultTimeout

app = AioTQ("noloop", broker="memory://")


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@app.task(bind=True)
def plain(self: Any) -> str:
    for call in (lambda: add.delay(1, 1), lambda: self.update_state("PROGRESS")):
        with pytest.raises(CallError, match="no event loop runs in this thread"):
            call()
    return str(add.sync.delay(1, 1).id)


@pytest.mark.parametrize(
    ("call", "instead"),
    [
        (lambda: add.delay(2, y=2), r"add\.sync\.delay\(2, y=2\)"),
        (lambda: add.apply_async((2, 2)), r"add\.sync\.apply_async\(…\)"),
        (lambda: add.options(priority=5).delay(2, 2), r"add\.options\(…\)\.sync\.delay\(…\)"),
        (lambda: app.send_task(add.name, (2, 2)), r"app\.sync\(app\.send_task, …\)"),
        (lambda: app.send_many([add.s(2, 2)]), r"app\.sync\(app\.send_many, …\)"),
        (lambda: add.s(2, 2).delay(), r"\.sync"),
        (lambda: chain(add.s(2, 2), add.s(1)).apply_async(), r"\.sync"),
        (group(add.s(2, 2)), r"\.sync"),
        (lambda: chord([add.s(2, 2)], add.s()).delay(), r"\.sync"),
        (lambda: chord([add.s(2, 2)])(add.s()), r"chord\(header, body\)\.sync\.delay\(\)"),
        (lambda: add.update_state("PROGRESS"), r"self\.sync\.update_state"),
        (lambda: add.add_to_chord(add.s(1, 1)), r"self\.sync\.add_to_chord"),
    ],
)
def test_it_is_an_error_that_says_what_to_write(call: Callable[[], object], instead: str) -> None:
    with pytest.raises(CallError, match=rf"no event loop runs in this thread.*: write .*{instead}"):
        call()


async def test_so_it_is_in_a_task_that_runs_in_a_thread() -> None:
    async with app, app.worker():
        sent = await (await plain.delay()).get(timeout=10)
        assert await app.AsyncResult(sent).get(timeout=10) == 2


def test_what_the_error_says_works() -> None:
    there = AioTQ("noloop", broker="memory://")

    @there.task(name="add")
    async def add(x: int, y: int) -> int:
        return x + y

    try:
        assert there.sync(there.send_task, "add", (2, 2)).id
        assert len(list(there.sync(there.send_many, [add.s(1, 1), add.s(2, 2)]))) == 2
        assert add.options(priority=5).sync.delay(2, 2).id
    finally:
        there.sync(there.close)


async def test_sync_is_not_for_code_with_a_loop() -> None:
    with pytest.raises(CallError, match="await the call instead"):
        app.sync(asyncio.sleep, 0)


def test_a_task_that_ends_the_process_ends_its_caller_and_not_the_loop_behind_it() -> None:
    there = AioTQ("noloop", broker="memory://")

    @there.task(name="leave")
    async def leave() -> None:
        raise SystemExit(3)

    try:
        for _ in range(2):
            with pytest.raises(SystemExit):
                leave.sync.apply(throw=True)
    finally:
        core_of(there).bridge.stop()


@pytest.mark.parametrize(
    ("module", "asked"), [("gevent.monkey", "is_module_patched"), ("eventlet.patcher", "is_monkey_patched")]
)
def test_where_threads_are_greenlets_it_is_refused(monkeypatch: pytest.MonkeyPatch, module: str, asked: str) -> None:
    patched = types.ModuleType(module)
    setattr(patched, asked, lambda _name: True)
    monkeypatch.setitem(sys.modules, module, patched)

    with pytest.raises(CallError, match=f"{module.partition('.')[0]} has replaced threads"):
        AioTQ("noloop", broker="memory://").sync(asyncio.sleep, 0)


async def test_in_a_thread_of_an_asgi_server_the_loop_of_the_server_is_used() -> None:
    async with ThreadSensitiveContext(), AioTQ("noloop", broker="memory://") as there:
        await sync_to_async(there.sync)(there.send_task, "anything")

        assert core_of(there).connections.loops == 1


def test_loops_that_last_for_one_request_share_the_connection_of_the_process() -> None:
    """So it is for async views of Django and Flask under WSGI."""
    there = AioTQ("noloop", broker="memory://")

    @there.task(name="add")
    async def add(x: int, y: int) -> int:
        return x + y

    async def send() -> str:
        (first,), last = await there.send_many([add.s(1, 1)]), await (add.s(1, 2) | add.s(4)).delay()
        assert (await first.state(), (await last.look()).is_ready) == ("PENDING", False)
        with pytest.raises(ResultTimeout, match="no result"):
            await first.get(timeout=0.01)
        await first.revoke()
        return last.id

    async def follow(task_id: str) -> list[str]:
        return [update.state async for update in there.AsyncResult(task_id).updates()]

    async def work() -> None:
        async with there.worker():
            await done.wait()

    async def end() -> None:
        done.set()

    done = asyncio.Event()
    view = async_to_sync(send)
    try:
        sent = [view(), view()]
        loops = core_of(there).connections.loops
        working = core_of(there).bridge._portal().start_task_soon(work)
        ended = [async_to_sync(follow)(each)[-1] for each in sent]
        there.sync(end)
        working.result(10)

        assert ended == ["SUCCESS", "SUCCESS"]
        assert (loops, core_of(there).connections.loops) == (1, 1)
    finally:
        core_of(there).bridge.stop()
