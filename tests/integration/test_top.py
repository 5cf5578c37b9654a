"""`aiotq top`, driven by keys; what it shows is real: a worker in the same loop runs calls."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import shlex
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static

from aiotq import AioTQ, Reject
from aiotq.core.inside import core_of
from aiotq.exceptions import CallError, NotConnected
from aiotq.top.screens import Details, Question
from aiotq.top.view import Top

from ..waiting import wait_until


class Kit:
    """An app with a worker, and its view."""

    def __init__(self) -> None:
        self.app = app = AioTQ("proj", broker=f"memory://top-{os.urandom(6).hex()}", result_extended=True)
        self.gate = asyncio.Event()
        self.top = Top(app, every=0.2)

        @app.task(name="proj.add")
        async def add(x: int, y: int) -> int:
            return x + y

        @app.task(name="proj.fail")
        async def fail(text: str) -> None:
            raise ValueError(text)

        @app.task(name="proj.refuse")
        async def refuse() -> None:
            if not self.takes:
                raise Reject("unwanted")

        @app.task(name="proj.hold")
        async def hold(mark: str) -> str:
            await self.gate.wait()
            return mark

        self.takes = False
        self.add, self.fail, self.hold, self.refuse = add, fail, hold, refuse
        app.add_periodic_task(3600, add.s(1, 1), name="hourly")

    def lines(self, name: str) -> list[str]:
        """The rows of a table, as text."""
        table: DataTable[Any] = self.top.screen_stack[0].query_one(f"#{name}", DataTable)
        return ["|".join(str(cell) for cell in table.get_row_at(at)) for at in range(table.row_count)]

    def text(self, name: str) -> str:
        screen = self.top.screen if name == "details" else self.top.screen_stack[0]
        return str(screen.query_one(f"#{name}", Static).content)

    async def shows(self, pilot: Pilot[None], name: str, *words: str) -> str:
        """Wait for a row that has all of `words`."""

        def found() -> str | None:
            return next((line for line in self.lines(name) if all(word in line for word in words)), None)

        await wait_until(found, f"{name} show {words}: {self.lines(name)}", timeout=10)
        await pilot.pause()
        return str(found())

    async def says(self, text: str) -> None:
        """Wait for a notification."""
        notes = self.top._notifications
        await wait_until(lambda: any(text in each.message for each in notes), f"it says {text!r}", timeout=10)


@asynccontextmanager
async def showing(kit: Kit, *, workers: int = 1) -> AsyncIterator[Pilot[None]]:
    async with kit.app, asyncio.TaskGroup() as group:
        stop = asyncio.Event()

        async def work(number: int, ready: asyncio.Event) -> None:
            async with kit.app.worker(name=f"worker-{number}", grace=0):
                ready.set()
                await stop.wait()

        for number in range(workers):
            ready = asyncio.Event()
            group.create_task(work(number, ready))
            await ready.wait()
        async with kit.top.run_test(size=(200, 40)) as pilot:
            await wait_until(lambda: kit.top.cluster.workers or not workers, "the fleet was read")
            yield pilot
        stop.set()


@pytest.fixture
def kit() -> Kit:
    return Kit()


async def test_calls_are_shown_as_they_run_and_end_with_rates_and_failures(kit: Kit) -> None:
    async with showing(kit) as pilot:
        held = await kit.hold.delay("a")
        await kit.shows(pilot, "tasks", "proj.hold", "STARTED", "worker-0", held.id)
        await kit.add.delay(2, 3)
        await kit.fail.delay("boom")
        await kit.shows(pilot, "tasks", "proj.add", "SUCCESS", "(2, 3)")
        assert "proj.hold" in kit.lines("tasks")[0], "what runs stands first"
        kit.gate.set()
        await kit.shows(pilot, "tasks", "proj.hold", "SUCCESS")

        await pilot.press("2")
        await kit.shows(pilot, "failures", "proj.fail", "FAILURE", "boom")
        assert len(kit.lines("failures")) == 1
        await pilot.press("7")
        await kit.shows(pilot, "findings", "error", "this process's own memory")
        await pilot.press("3")
        assert "|1|0|1|0|0|" in await kit.shows(pilot, "names", "proj.fail")

        assert "1 worker  ·  0 running" in kit.text("summary")
        assert "0.1/s failed" in kit.text("summary") or "0.0/s failed" in kit.text("summary")
        assert kit.text("problems") == ""


async def test_what_ran_before_is_shown_too(kit: Kit) -> None:
    async with kit.app, kit.app.worker(name="old", grace=0):
        held = await kit.hold.delay("early")
        async with kit.top.run_test(size=(200, 40)) as pilot:
            await kit.shows(pilot, "tasks", "proj.hold", "STARTED", "old", held.id)
        kit.gate.set()
        await held


async def test_a_filter_leaves_the_rows_that_have_a_word_and_escape_shows_all(kit: Kit) -> None:
    async with showing(kit) as pilot:
        for number in range(3):
            await kit.add.delay(number, 70)
        await kit.fail.delay("boom")
        await kit.shows(pilot, "tasks", "proj.fail", "FAILURE")

        await pilot.press("slash", *"FAIL", "enter")
        await wait_until(lambda: len(kit.lines("tasks")) == 1, "one row is left")
        await pilot.press("slash")
        kit.top.screen_stack[0].query_one("#filter", Input).value = "(2, 70)"
        await wait_until(lambda: ["(2, 70)" in line for line in kit.lines("tasks")] == [True], "another one is left")
        await pilot.press("escape")
        await wait_until(lambda: len(kit.lines("tasks")) == 4, "all are there")


async def test_details_have_the_traceback(kit: Kit) -> None:
    async with showing(kit) as pilot:
        await kit.fail.delay("[bold]boom\x1b[31m")
        await kit.shows(pilot, "tasks", "proj.fail", "FAILURE")

        await pilot.press("enter")
        await wait_until(lambda: isinstance(kit.top.screen, Details), "details are shown")
        await pilot.pause()
        text = kit.text("details")
        assert "Traceback" in text
        assert "raise ValueError(text)" in text
        assert "[bold]boom" in text
        assert "\x1b" not in text, "a terminal obeys nothing that comes from a task"
        await pilot.press("escape")
        assert not isinstance(kit.top.screen, Details)


async def test_a_call_is_revoked_and_one_that_runs_is_terminated_when_that_is_confirmed(kit: Kit) -> None:
    async with showing(kit) as pilot:
        held = await kit.hold.delay("a")
        await kit.shows(pilot, "tasks", "proj.hold", "STARTED")

        await pilot.press("x")
        await wait_until(lambda: isinstance(kit.top.screen, Question), "it asks")
        await pilot.press("n")
        assert await held.state() == "STARTED" or not await held.ready()
        await pilot.press("x")
        await wait_until(lambda: isinstance(kit.top.screen, Question), "it asks")
        await pilot.press("y")
        await kit.says("terminated")
        await kit.shows(pilot, "tasks", "proj.hold", "REVOKED")

        await pilot.press("v")
        await kit.says("revoked")
        await pilot.press("2", "p")
        await kit.says("can be paused: tabs 4 to 6")


async def test_a_failed_call_is_sent_again_and_a_dead_letter_replayed(kit: Kit) -> None:
    async with showing(kit) as pilot:
        failed = await kit.fail.delay("boom")
        await failed.get(propagate=False)
        await kit.shows(pilot, "tasks", "proj.fail", "FAILURE")
        await pilot.press("r")
        await kit.says("sent proj.fail again")
        await wait_until(lambda: sum("FAILURE" in line for line in kit.lines("tasks")) == 2, "it failed again")

        refused = await kit.refuse.delay()
        await kit.shows(pilot, "tasks", "proj.refuse", "REJECTED")
        await pilot.press("slash", *"refuse", "enter")
        kit.takes = True
        await pilot.press("r")
        await kit.says(f"replayed the dead letter of {refused.id}")
        await kit.shows(pilot, "tasks", "proj.refuse", "SUCCESS", refused.id)
        assert await kit.app.admin.dead_letters() == []
        await pilot.press("escape")

        running = await kit.hold.delay("a")
        await kit.shows(pilot, "tasks", "proj.hold", "STARTED")
        with pytest.raises(CallError, match="has not ended: it is"):
            await kit.top.cluster.retry(running.id)
        kit.gate.set()
        with pytest.raises(CallError, match="has not ended: it is PENDING"):
            await kit.top.cluster.retry("unknown")


async def test_queues_workers_and_periodic_tasks_are_shown_and_paused(kit: Kit) -> None:
    async with showing(kit) as pilot:
        await pilot.press("4")
        await kit.shows(pilot, "workers", "worker-0", "up", "default")
        await pilot.press("p")
        await kit.says("paused worker worker-0")
        await kit.shows(pilot, "workers", "worker-0", "paused")
        await kit.add.delay(1, 2)
        await pilot.press("p")
        await kit.says("resumed worker worker-0")

        await pilot.press("5")
        await kit.app.send_task("proj.add", (1, 2), queue="other")
        await kit.shows(pilot, "queues", "other", "|1|0|0|0|")
        await pilot.press("slash", *"other", "enter", "p")
        await kit.says("paused queue other")
        await kit.shows(pilot, "queues", "other", "paused")
        await pilot.press("p")
        await kit.says("resumed queue other")
        await pilot.press("escape", "6")

        await kit.shows(pilot, "schedules", "hourly", "interval(3600)", "in ")
        await pilot.press("f")
        await kit.says("sent periodic task hourly")
        await pilot.press("p")
        await kit.says("no scheduler has started with it yet")
        async with kit.app.beat() as scheduler:
            await wait_until(lambda: scheduler.is_live, "a scheduler is live")
            await pilot.press("p")
            await kit.says("paused periodic task hourly")
            await kit.shows(pilot, "schedules", "hourly", "paused")
            await pilot.press("enter")
            await wait_until(lambda: isinstance(kit.top.screen, Details), "details are shown")
            assert "interval(3600)" in kit.text("details")
            await pilot.press("escape")


async def test_a_server_that_fails_is_told_of_and_what_was_seen_stays(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with showing(kit) as pilot:
        await pilot.press("4")
        await kit.shows(pilot, "workers", "worker-0")

        async def broken(*_: Any, **__: Any) -> Any:
            raise NotConnected("the store is gone")

        monkeypatch.setattr(type(core_of(kit.app).app.control), "fleet", broken)
        await wait_until(lambda: "workers: the store is gone" in kit.text("problems"), "it says so")
        assert "worker-0" in kit.lines("workers")[0]
        monkeypatch.undo()
        await wait_until(lambda: kit.text("problems") == "", "it is well again")
        await pilot.press("q")


PROJECT = """
from aiotq import AioTQ

app = AioTQ("proj")

@app.task
async def add(x: int, y: int) -> int:
    return x + y

app.add_periodic_task(60, add.s(1, 2), name="minutely")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "proj.py").write_text(PROJECT)
    return tmp_path


def test_in_a_terminal_it_is_shown_and_left_by_a_key(project: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 150, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    command = [sys.executable, "-m", "aiotq", "top", "proj:app"]
    process = subprocess.Popen(command, cwd=project, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written, typed = "", [("minutely", b"q"), ("Schedules", b"6")]
    try:
        while part := os.read(ours, 65536):
            written += part.decode(errors="replace")
            if typed and typed[-1][0] in written:
                os.write(ours, typed.pop()[1])
    except OSError:  # how Linux says that nobody holds the other end any more
        pass
    finally:
        code = process.wait(20)
        os.close(ours)

    assert (code, typed) == (0, []), written[-2000:]
    assert "Traceback" not in written


async def test_in_tmux_it_follows_the_size_of_the_window_and_its_keys(project: Path) -> None:
    socket = f"aiotq-{os.urandom(6).hex()}"
    told = f"{shlex.quote(sys.executable)} -m aiotq top proj:app; echo left with $?; exec cat"

    async def tmux(*words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *("tmux", "-L", socket, "-f", "/dev/null", *words),
            cwd=project,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            stdout=subprocess.PIPE,
        )
        out, _ = await process.communicate()
        return out.decode(errors="replace")

    async def shows(*words: str) -> str:
        async def screen() -> str | None:
            seen = await tmux("capture-pane", "-p")
            return seen if all(word in seen for word in words) else None

        return str(await wait_until(screen, f"the screen shows {words}", timeout=20))

    await tmux("new-session", "-d", "-x", "150", "-y", "30", told)
    try:
        await shows("1 Tasks", "6 Schedules", "Revoke", "Retry")
        await tmux("send-keys", "6")
        await shows("minutely", "interval(60)")
        await tmux("resize-window", "-x", "90", "-y", "20")
        narrow = await shows("minutely", "Pause/resume")
        assert max(map(len, narrow.splitlines())) <= 90
        await tmux("send-keys", "q")
        left = await shows("left with 0")
        assert "minutely" not in left, "the screen is as it was before"
    finally:
        await tmux("kill-server")


def test_without_a_terminal_it_says_what_to_use(project: Path) -> None:
    command = [sys.executable, "-m", "aiotq", "top", "proj:app"]
    ended = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=30, check=False)

    assert (ended.returncode, ended.stderr) == (
        1,
        "aiotq: top needs a terminal: aiotq status and aiotq queues print what it shows\n",
    )


def test_without_its_library_it_says_what_to_install(project: Path) -> None:
    (project / "textual.py").write_text("raise ModuleNotFoundError(name='textual')")
    command = [sys.executable, "-m", "aiotq", "top", "proj:app"]
    ended = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=30, check=False)

    assert ended.returncode == 1
    assert ended.stderr == "aiotq: top needs textual, which is not installed: pip install 'aiotq[top]'\n"
