"""Two versions of an app under load: workers are replaced one after the other, and callers are not told."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiotq import AioTQ, AsyncResult

from ..integration.shells import Shell, shell
from ..semantics.conftest import BROKERS
from ..waiting import wait_until
from .harness import PATIENCE

__all__ = ["shell"]

WORKERS = 3

OLD = """
import asyncio, os
from aiotq import AioTQ, current_task

app = AioTQ("shop", broker={url!r})

def ran():
    file = os.open("runs", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{{current_task.request.id}} {{VERSION}}\\n".encode())
    os.close(file)

VERSION = 1

@app.task
async def steady(x):
    ran()
    await asyncio.sleep(0.02)
    return x
"""

VERSION_1 = (
    OLD
    + """
@app.task
async def mail(x):
    ran()
    return x

@app.task
def scale(x):
    ran()
    return x
"""
)

#: `mail` is `send_mail` now, and goes by its old name for those who still call it so; `scale` has a new parameter.
VERSION_2 = (
    OLD.replace("VERSION = 1", "VERSION = 2")
    + """
@app.task
async def send_mail(x):
    ran()
    return x

mail = app.task(name="shop.mail")(send_mail.fn)

@app.task
def scale(x, factor=1):
    ran()
    return x * factor
"""
)


class Callers:
    """Send calls all the time, of the version that they are of, and keep what came of it."""

    def __init__(self, app: AioTQ) -> None:
        self._app = app
        self._results: list[tuple[AsyncResult[Any], int]] = []
        self._names: Sequence[tuple[str, dict[str, int]]] = ()
        self._is_over = False

    def are_of(self, *calls: tuple[str, dict[str, int]]) -> None:
        self._names = calls

    def stop(self) -> None:
        """Make no more calls; one that is under way is made, and its result kept."""
        self._is_over = True

    async def call(self) -> None:
        """Call until told to stop."""
        while not self._is_over:
            number = len(self._results)
            for name, more in self._names:
                result = await self._app.send_task(name, (number,), more)
                self._results.append((result, number * more.get("factor", 1)))
            await asyncio.sleep(0.01)

    async def check(self, runs: Path) -> None:
        """All calls ended as they should, and each ran once."""
        ended = await asyncio.gather(*(result.get(timeout=PATIENCE) for result, _ in self._results))
        assert ended == [wanted for _, wanted in self._results]
        lines = [line.split() for line in runs.read_text().splitlines()]
        assert Counter(task_id for task_id, _ in lines) == Counter(result.id for result, _ in self._results)
        assert {version for _, version in lines} == {"1", "2"}


async def test_a_rolling_deploy_loses_nothing_and_runs_nothing_twice(shell: Shell, tmp_path: Path) -> None:
    url = BROKERS["redis"](tmp_path)
    code = shell.directory / "shop.py"
    code.write_text(VERSION_1.format(url=url))
    app = AioTQ("callers", broker=url)
    callers = Callers(app)
    callers.are_of(("shop.steady", {}), ("shop.mail", {}), ("shop.scale", {}))
    words = ("--workers", str(WORKERS), "-n", "a", "--no-banner", "-l", "WARNING")
    async with app, shell.started("worker", "shop:app", *words, "--max-tasks-per-worker", "100000") as parent:
        async with asyncio.TaskGroup() as group:
            group.create_task(callers.call())
            await _there_are(app, *(f"a-{number}" for number in range(1, WORKERS + 1)))

            (shell.directory / "new").write_text(VERSION_2.format(url=url))
            (shell.directory / "new").rename(code)
            parent.send(signal.SIGHUP)
            await parent.line("SIGHUP: replacing 3 workers")
            # Callers of the new version know the new name; a new argument they use when all workers know it.
            callers.are_of(("shop.steady", {}), ("shop.mail", {}), ("shop.send_mail", {}), ("shop.scale", {}))
            await _there_are(app, *(f"a-{number}.2" for number in range(1, WORKERS + 1)))
            callers.are_of(("shop.steady", {}), ("shop.send_mail", {}), ("shop.scale", {"factor": 2}))
            await asyncio.sleep(0.1)
            callers.stop()
        await callers.check(shell.directory / "runs")
        assert await app.admin.dead_letters() == []
        parent.send(signal.SIGTERM)
        assert await parent.ended() == 0
    # What the docs foresee: a new name came to an old worker, which handed it on.
    unforeseen = [line for line in parent.text.splitlines() if "ERROR" in line or "CRITICAL" in line]
    assert unforeseen == []


async def _there_are(app: AioTQ, *names: str) -> None:
    """Wait until these workers are there, and no others."""

    async def are_there() -> bool:
        return {each.name for each in await app.control.fleet()} == set(names)

    await wait_until(are_there, f"the workers are {', '.join(names)}", PATIENCE)
