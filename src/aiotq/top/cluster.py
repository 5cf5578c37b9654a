"""What `aiotq top` shows, and what it can do: read from an app again and again, without a terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar, cast

from ..app import AioTQ
from ..beat.manage import PeriodicTask
from ..control.acts import run_again
from ..control.fleet import FleetMember
from ..control.picture import Finding
from ..control.queries import Queries
from ..control.state import State, TaskState
from ..core.inside import core_of
from ..exceptions import AioTQError, CallError, OperationalError
from ..results.document import Update
from ..states import STARTED
from ..transport import QueueStats

T = TypeVar("T")

#: Calls that are remembered, and seconds after which a source that does not answer is given up this time.
MOST_TASKS: Final = 10_000
_PATIENCE: Final = 5.0
#: Seconds that workers have to say what they run, between such questions, and after events could not be read.
_ANSWERING: Final = 1.0
_ASKED_EVERY: Final = 10.0
_PAUSE: Final = 2.0


class Cluster:
    """An app's workers, queues, periodic tasks and calls, as they were last seen.

    `state` has what events told since `watch` runs. `problems` has why a part could not be read, by its name.
    """

    def __init__(self, app: AioTQ) -> None:
        self.app = app
        self.state = State(max_tasks=MOST_TASKS, now=core_of(app).clock.time)
        self.workers: Sequence[FleetMember] = ()
        self.queues: Sequence[QueueStats] = ()
        self.schedules: Sequence[PeriodicTask] = ()
        self.findings: Sequence[Finding] = ()  #: what needs a look, the worst first
        self._queries = Queries(core_of(app))
        self.problems: dict[str, str] = {}

    def now(self) -> float:
        """Wall time by the app's clock."""
        return core_of(self.app).clock.time()

    async def watch(self) -> None:
        """Fold events into `state` until cancelled, from the beginning after a failure."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(), name="aiotq.top.events")
            group.create_task(self._look(), name="aiotq.top.findings")
            group.create_task(self._ask_what_runs(), name="aiotq.top.running")

    async def refresh(self) -> None:
        """Read the registry, the queues and the periodic tasks; what can't be read stays as it was."""
        await asyncio.gather(
            self._read("workers", self.app.control.fleet),
            self._read("queues", self.app.admin.queues),
            self._read("schedules", self.app.schedules.list),
        )

    async def details(self, task_id: str) -> Update | None:
        """Return what is stored of a call; None if nothing is, or results are not kept."""
        with suppress(OperationalError, TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                with suppress(CallError):
                    return await self.app.AsyncResult(task_id).look()
        return None

    async def revoke(self, task_id: str, *, terminate: bool) -> str:
        """Have a call not run, or, with `terminate`, end where it runs; return what was done."""
        await self.app.admin.revoke(task_id, terminate=terminate)
        return f"{'terminated' if terminate else 'revoked'} {task_id}"

    async def retry(self, task_id: str) -> str:
        """Run a call once more: its dead letter, or else the same call with another id; return what was done.

        Raises:
            CallError: it has not ended, or what it was called with is not stored.
        """
        known = self.state.tasks.get(task_id)
        new_id, is_replayed = await run_again(core_of(self.app), task_id)
        if is_replayed:
            return f"replayed the dead letter of {task_id}"
        return f"sent {task_id if known is None or known.name is None else known.name} again, as {new_id}"

    async def pause_queue(self, name: str) -> str:
        """Pause a queue for all workers, or resume it if it is paused; return what was done."""
        stats = next((each for each in self.queues if each.name == name), None)
        if stats is not None and stats.paused_since is not None:
            await self.app.admin.resume(name)
            return f"resumed queue {name}"
        await self.app.admin.pause(name)
        return f"paused queue {name}"

    async def pause_worker(self, name: str) -> str:
        """Have a worker take nothing new, or go on if it is paused; return what was done.

        Raises:
            CallError: it did not answer.
        """
        is_paused = any(each.is_paused for each in self.workers if each.name == name and not each.is_missing)
        tell = self.app.control.resume if is_paused else self.app.control.pause
        answers = await tell(destination=[name])
        if not answers:
            raise CallError(f"worker {name} did not answer")
        return f"{'resumed' if is_paused else 'paused'} worker {name}"

    async def pause_schedule(self, name: str) -> str:
        """Pause a periodic task, or resume it if it is paused; return what was done."""
        is_paused = any(each.is_paused for each in self.schedules if each.name == name)
        await (self.app.schedules.resume if is_paused else self.app.schedules.pause)(name)
        return f"{'resumed' if is_paused else 'paused'} periodic task {name}"

    async def fire_schedule(self, name: str) -> str:
        """Send a periodic task now, once more; return what was done."""
        result = await self.app.schedules.fire(name)
        return f"sent periodic task {name}, as {result.id}"

    async def _read(self, part: str, read: Callable[[], Awaitable[Any]]) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                setattr(self, part, await read())
        except TimeoutError:
            self.problems[part] = f"no answer in {_PATIENCE:g} s"
        except AioTQError as exc:
            self.problems[part] = str(exc)
        else:
            self.problems.pop(part, None)

    async def _follow(self) -> None:
        while True:
            try:
                async with self.app.events.capture() as events:
                    self.problems.pop("events", None)
                    async for event in events:
                        self.state.event(event)
            except AioTQError as exc:
                self.problems["events"] = str(exc)
            await asyncio.sleep(_PAUSE)

    async def _look(self) -> None:
        """Find what needs a look, now and then."""
        while True:
            await self._read("findings", self._queries.findings)
            await asyncio.sleep(_ASKED_EVERY)

    async def _ask_what_runs(self) -> None:
        """Know of calls that run since before events were read."""
        while True:
            with suppress(AioTQError):
                answers = await self.app.control.inspect(timeout=_ANSWERING).active()
                for worker, calls in answers.items():
                    for call in cast("list[Any]", calls) if isinstance(calls, list) else ():
                        self._take_running(worker, call)
            await asyncio.sleep(_ASKED_EVERY)

    def _take_running(self, worker: str, call: Any) -> None:
        if not isinstance(call, dict) or not isinstance(task_id := cast("dict[str, Any]", call).get("id"), str):
            return
        known = self.state.tasks.get(task_id)
        if known is not None and known.state == STARTED:
            return
        if known is not None and known.is_ready:
            return  # its end was told of meanwhile
        told = cast("Mapping[str, Any]", call)
        started = told.get("time_start") or self.now()
        about = {name: told[name] for name in ("name",) if name in told}
        shown = {name: repr(told[name]) for name in ("args", "kwargs") if name in told}
        running = {"type": "task-started", "uuid": task_id, "hostname": worker, "timestamp": started}
        self.state.event({**running, **about, **shown})


def failures(state: State) -> Sequence[TaskState]:
    """Return the calls that failed or will be tried again, the last first."""
    return [task for _, task in state.tasks_by_time() if task.exception is not None]
