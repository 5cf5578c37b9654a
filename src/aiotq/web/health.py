"""`/live`, `/ready` and `/metrics` of one process, as an ASGI application.

Live: its workers and schedulers heard from their broker within the time in which they should have; a process that hangs
or has lost its broker for good is to be started again. Ready: they take tasks, and the broker answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, TypeVar

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..beat.scheduler import Scheduler
from ..calling.core import AppCore
from ..control.admin import Admin
from ..core.values import value
from ..exceptions import AioTQError
from ..transport import QueueStats
from ..transport.routing import declared_queues
from ..worker.worker import Worker
from .metrics import Metrics, about_workers, gauge, queue_families, schedule_families, sending_families

T = TypeVar("T")

#: Seconds for which an answer of the broker about queues is told again: scrapes don't add up to load.
_QUEUES_FOR: Final = 5.0
#: Seconds that the broker has to tell of its queues.
_PATIENCE: Final = 3.0


@value
class Check:
    """What was looked at, whether it is well, and how that is said."""

    name: str
    is_well: bool
    said: str


def check_live(member: Worker | Scheduler, most: float) -> Check:
    """Return whether a worker or scheduler heard from its broker within `most` seconds."""
    name, silence = _name(member), member.silence
    if silence <= most:
        return Check(name, True, f"the broker answered {silence:.1f} s ago")
    return Check(name, False, f"no answer of the broker for {silence:.0f} s (at most {most:g} s are normal)")


def check_ready(member: Worker | Scheduler, most: float) -> Check:
    """Return whether it does its work now."""
    name = _name(member)
    if not member.is_ready:
        return Check(name, False, "it starts, or is about to stop")
    if member.silence > most:
        return Check(name, False, f"no answer of the broker for {member.silence:.0f} s")
    return Check(name, True, "takes tasks" if isinstance(member, Worker) else "schedules")


def _name(member: Worker | Scheduler) -> str:
    return f"{'worker' if isinstance(member, Worker) else 'scheduler'} {member.name}"


class Health:
    """What is told of the workers and schedulers of an app in this process.

    `works`: this process is there for them, and is not ready without any. `home`: the loop in which the app is
    connected, if this is asked in another one.
    """

    def __init__(self, core: AppCore, *, works: bool, home: asyncio.AbstractEventLoop | None = None) -> None:
        self._core = core
        self._works = works
        self._home = home
        self.metrics = Metrics(core.workers)
        core.observe(self.metrics)
        self._registry = CollectorRegistry()
        self._registry.register(self.metrics)
        self._queues: Sequence[QueueStats] | None = None
        self._queues_at = -_QUEUES_FOR
        self._asking = asyncio.Lock()

    def application(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Route("/live", self._live),
                Route("/ready", self._ready),
                Route("/metrics", self._metrics),
            ]
        )

    def live(self) -> Sequence[Check]:
        """Return what `/live` looks at."""
        return [check_live(each, self._core.allowed_silence) for each in self._members()]

    async def ready(self) -> Sequence[Check]:
        """Return what `/ready` looks at."""
        members = self._members()
        if members:
            return [check_ready(each, self._core.allowed_silence) for each in members]
        if self._works:
            return [Check("worker", False, "it starts, or has stopped")]
        try:
            await self._at_home(self._connected)
        except (AioTQError, TimeoutError) as exc:
            return [Check("broker", False, str(exc) or f"no answer within {_PATIENCE:g} s")]
        return [Check("broker", True, "connected")]

    async def families(self) -> list[Metric]:
        """Return what `/metrics` tells."""
        return [*self.families_here(), *await self._about_queues()]

    def families_here(self) -> list[Metric]:
        """Return what `/metrics` tells of this process alone."""
        return [*self._registry.collect(), *self._about_members()]

    def _members(self) -> Sequence[Worker | Scheduler]:
        return (*self._core.workers, *self._core.schedulers)

    async def _connected(self) -> None:
        await (await self._core.connection()).broker.connected()

    async def _live(self, request: Request) -> Response:
        return _answer(self.live())

    async def _ready(self, request: Request) -> Response:
        return _answer(await self.ready())

    async def _metrics(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(_Families(await self.families())), media_type=content_type)

    def _about_members(self) -> Iterator[Metric]:
        yield from about_workers([each.facts() for each in tuple(self._core.workers)])
        schedulers = tuple(self._core.schedulers)
        yield from sending_families(self._core.sending_counts)
        yield from schedule_families([each.counts for each in schedulers])
        live = [((each.name,), float(each.is_live)) for each in schedulers]
        yield gauge("aiotq_scheduler_is_live", "1: it sends, 0: it waits", ("scheduler",), live)

    async def _about_queues(self) -> Sequence[Metric]:
        """Return what stands in the queues that are consumed here; nothing where the broker does not say it now."""
        async with self._asking:
            if time.monotonic() - self._queues_at >= _QUEUES_FOR:
                try:
                    self._queues = await self._at_home(self._ask_for_queues)
                except (AioTQError, TimeoutError):
                    self._queues = None
                self._queues_at = time.monotonic()
        return [] if self._queues is None else list(queue_families(self._queues))

    async def _ask_for_queues(self) -> Sequence[QueueStats]:
        names = {name for each in self._core.workers for name in each.queues}
        return await Admin(self._core).queues(names or declared_queues(self._core.conf))

    async def _at_home(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Return what `ask` does where the app is connected.

        Raises:
            TimeoutError: that took too long; the loop there may be blocked.
        """

        async def asked() -> T:
            return await ask()

        async with asyncio.timeout(_PATIENCE):
            if self._home is None or self._home is asyncio.get_running_loop():
                return await asked()
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asked(), self._home))


class _Families(CollectorRegistry):
    """Families that were collected, in the place where the library wants a registry."""

    def __init__(self, families: Sequence[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def _answer(checks: Sequence[Check]) -> Response:
    is_well = all(each.is_well for each in checks)
    return JSONResponse({"ok": is_well, "checks": checks_told(checks)}, status_code=200 if is_well else 503)


def checks_told(checks: Sequence[Check]) -> list[dict[str, str | bool]]:
    """Return checks as plain data."""
    return [{"name": each.name, "ok": each.is_well, "said": each.said} for each in checks]
