"""The guide, page 4: an app's life, with and without a loop, in scripts, services and forked processes."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from aiotq import AioTQ
from aiotq.core.inside import core_of
from aiotq.exceptions import SettingsFrozen


def run(tmp_path: Path, source: str) -> str:
    """Run a program of its own, in which every warning is an error; return what it prints."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(source))
    done = subprocess.run(
        [sys.executable, "-W", "error", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


async def test_an_app_connects_with_its_first_call_and_needs_no_async_with(app: AioTQ) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app.worker():
        assert await (await add.delay(2, 2)) == 4
    await app.close()


def test_and_leaves_nothing_behind_at_the_end_of_the_loop(tmp_path: Path) -> None:
    out = run(
        tmp_path,
        """
        import asyncio
        from aiotq import AioTQ

        app = AioTQ("proj", broker="memory://")

        @app.task
        async def add(x, y):
            return x + y

        async def main():
            print((await add.delay(2, 2)).id != "")

        asyncio.run(main())
        """,
    )

    assert out == "True\n"


def test_an_app_serves_one_loop_after_another(app: AioTQ) -> None:
    """As in scripts that call `asyncio.run` several times, and in test suites."""

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async def send(x: int) -> str:
        async with app:
            return (await add.delay(x, x)).id

    async def work() -> None:
        async with app, app.worker():
            for number, task_id in enumerate(ids):
                assert await app.AsyncResult(task_id).get(timeout=5) == 2 * number

    ids = [asyncio.run(send(x)) for x in range(5)]
    asyncio.run(work())

    gc.collect()
    asyncio.run(send(0))
    assert core_of(app).connections.loops <= 1, "a loop that is closed is forgotten"


async def test_entering_twice_disconnects_once(app: AioTQ) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app:
        async with app:
            pass
        async with app.worker():
            assert await (await add.delay(2, 2)) == 4


async def test_an_asgi_application_is_given_the_lifespan(app: AioTQ) -> None:
    async with app.lifespan(object()):
        with pytest.raises(SettingsFrozen):
            app.conf.timezone = "Asia/Tokyo"


def test_a_script_without_a_loop_calls_through_sync(tmp_path: Path) -> None:
    out = run(
        tmp_path,
        """
        import asyncio, threading
        from aiotq import AioTQ

        app = AioTQ("proj", broker="memory://")

        @app.task
        async def add(x: int, y: int) -> int:
            return x + y

        def work(ready, done):
            async def main():
                async with app.worker():
                    ready.set()
                    while not done.is_set():
                        await asyncio.sleep(0.01)
            asyncio.run(main())

        ready, done = threading.Event(), threading.Event()
        worker = threading.Thread(target=work, args=(ready, done))
        worker.start()
        ready.wait()

        result = add.sync.delay(2, 2)
        print(result.get(timeout=5), result.state, result.ready(), result.successful(), result.failed())
        print(add.options(priority=9).sync.delay(3, 3).get(timeout=5))
        print(add.sync.apply_async((1,), {"y": 1}, countdown=0.01).get(timeout=5))
        done.set()
        worker.join()
        """,
    )

    assert out == "4 SUCCESS True True False\n6\n2\n"


def test_a_forked_process_has_connections_of_its_own(tmp_path: Path) -> None:
    """Servers that fork after loading the app: parent and child both go on sending.

    On SQLite: a fork leaves each process with a memory of its own, so memory:// proves nothing here.
    """
    out = run(
        tmp_path,
        """
        import asyncio, os, warnings
        from aiotq import AioTQ

        warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process that has threads: servers do
        app = AioTQ("proj", broker="sqlite:///proj.db")

        @app.task
        async def add(x: int, y: int) -> int:
            return x + y

        add.sync.delay(1, 1)
        if (child := os.fork()) == 0:
            try:
                add.sync.delay(2, 2)
                asyncio.run(app.close())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        add.sync.delay(3, 3)

        async def count():
            async with app:
                (queue,) = await app.admin.queues(["default"])
                print(queue.ready)

        asyncio.run(count())
        """,
    )

    assert out == "3\n"
