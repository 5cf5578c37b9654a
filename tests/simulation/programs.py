"""The programs that the processes of a world run: an app of their own, and what it does."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiotq import AioTQ, chain, group
from aiotq.exceptions import AioTQError, OperationalError

from .history import POISON, History
from .model import Servers
from .plan import Call, Plan
from .world import Process

#: Seconds. Short, since they are virtual.
LEASE: Final = 3.0
#: Seconds between occurrences of the periodic task.
PERIOD: Final = 2.0
_COUNTDOWN: Final = 2.0


def make_app(servers: Servers) -> AioTQ:
    """Return an app with its tasks, as each process has one."""
    app = AioTQ(
        "sim",
        worker_lease=LEASE,
        task_publish_timeout=15.0,
        task_max_deliveries=50,
        **{name: given for name, given in servers.settings.items() if given is not None},
    )
    history = servers.history

    async def run(request: Any, seconds: float) -> str:
        with history.body(request) as body:
            await asyncio.sleep(seconds)
            return f"{body.process.name} {len(history.ran)} {request.id}"

    @app.task(name="sim.work", bind=True)
    async def work(self: Any, seconds: float) -> str:
        return await run(self.request, seconds)

    @app.task(name="sim.single", bind=True, max_concurrency=1)
    async def single(self: Any, seconds: float) -> str:
        with history.alone(self.request):
            return await run(self.request, seconds)

    @app.task(name="sim.follow", bind=True)
    async def follow(self: Any, before: Any, seconds: float) -> str:
        history.hear(self.request.id, before)
        return await run(self.request, seconds)

    @app.task(name="sim.fails", bind=True)
    async def fails(self: Any, seconds: float) -> str:
        await run(self.request, seconds)
        raise ValueError("as it should")

    @app.task(name="sim.poison", bind=True)
    async def poison(self: Any, seconds: float) -> str:
        await run(self.request, seconds)
        return POISON

    @app.task(name="sim.retry", bind=True, max_retries=3)
    async def retry(self: Any, seconds: float, more: str) -> str:
        ran = await run(self.request, seconds)
        if self.request.retries < 2:
            raise self.retry(countdown=0.5)
        return ran

    @app.task(name="sim.tick", bind=True)
    async def tick(self: Any) -> str:
        history.occur(self.request.periodic.due.timestamp(), self.request.id)
        return await run(self.request, 0.0)

    app.add_periodic_task(PERIOD, tick.s(), name="tick", misfire="all", expires=None)
    return app


def signature_of(app: AioTQ, call: Call) -> Any:
    """Return what is called."""
    tasks, seconds = app.tasks, call.seconds
    work, follow, fails = tasks["sim.work"], tasks["sim.follow"], tasks["sim.fails"]
    match call.kind:
        case "chain":
            return chain(work.s(seconds), follow.s(0.0), follow.s(seconds))
        case "chord":
            return group(work.s(seconds), work.s(0.0), work.s(0.2)) | follow.s(0.0)
        case "chord_fails":
            return group(work.s(seconds), fails.s(0.1)) | follow.s(0.0)
        case "later" | "revoked":
            return work.s(seconds).set(countdown=_COUNTDOWN)
        case "retry" | "poison_retry":
            return tasks["sim.retry"].s(seconds, POISON if call.kind == "poison_retry" else "")
        case _:
            return tasks[f"sim.{call.kind}"].s(seconds)


class Programs:
    """What the processes of one world do."""

    def __init__(self, plan: Plan, servers: Servers, history: History) -> None:
        self._plan, self._servers, self._history = plan, servers, history
        self._left = list(plan.calls)
        self.is_all_called = not self._left

    async def publish(self, process: Process) -> None:
        """Make the calls that are left; one that is under way when the process dies is not made again."""
        app = make_app(self._servers)
        getting: list[asyncio.Task[None]] = []
        async with app:
            while self._left:
                call = self._left[0]
                await asyncio.sleep(max(call.at - process.world.now, 0.0))
                self._left.pop(0)
                getting.append(asyncio.create_task(self._call(app, call)))
            for each in getting:
                await each
            self.is_all_called = True

    async def _call(self, app: AioTQ, call: Call) -> None:
        history = self._history
        in_time = history.world.now + _COUNTDOWN - 1.0  # the call is due a second later, however late it is accepted
        try:
            result = await signature_of(app, call).apply_async()
        except OperationalError as exc:
            history.world.note(f"not accepted: {exc}")
            return
        history.accept(result, call)
        if call.kind == "revoked":
            try:
                await result.revoke()
            except OperationalError as exc:
                history.world.note(f"not revoked: {exc}")
            else:
                if history.world.now < in_time:
                    history.revoked.add(result.id)
        elif call.seconds < 0.1:
            try:
                value = await result.get(timeout=20.0)
            except (AioTQError, TimeoutError, ValueError) as exc:
                history.world.note(f"no value: {type(exc).__name__}")
            else:
                history.got[result.id] = value

    async def work(self, process: Process) -> None:
        """Be a worker until asked to stop."""
        process.stopping = asyncio.Event()
        app = make_app(self._servers)
        async with app.worker(name=process.name, concurrency=4, grace=2.0) as worker:
            waiting = asyncio.create_task(process.stopping.wait())
            ended = asyncio.create_task(worker.wait())
            await asyncio.wait({waiting, ended}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        await app.close()

    async def schedule(self, process: Process) -> None:
        """Be a scheduler until asked to stop."""
        process.stopping = asyncio.Event()
        app = make_app(self._servers)
        async with app, app.beat(name=process.name):
            await process.stopping.wait()
