"""`app.control`: who the workers are, what they do now, and telling them what to do, with Celery's names.

What asks workers ends as soon as all that are registered have answered, and says who did not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..calling.core import AppCore
from ..core.celery_names import CONTROL, INSPECT, knows
from ..core.values import value
from .admin import Admin
from .asking import TIMEOUT, Answers, ask, registered
from .fleet import FleetMember, member_of
from .messages import as_json

Destination = Sequence[str] | str | None


@knows(CONTROL)
class Control:
    """Commands to the workers, and questions.

        for member in await app.control.fleet():
            print(member.kind, member.name, member.running, member.is_missing)
        await app.control.rate_limit("proj.add", "10/m", destination=["mail-*"])

    `destination` are names of workers, and globs of them; None: all. `timeout` is in seconds, and the longest there is.

    Raises `OperationalError` when broker or store can't be reached, and `InvalidOption` for what can't be asked.
    """

    def __init__(self, core: AppCore) -> None:
        self._core = core

    async def fleet(self, *, timeout: float = TIMEOUT) -> Sequence[FleetMember]:
        """Return the workers and schedulers that are there, or went missing in the last hour, by their names.

        It asks nobody: they write rows into a registry. Where there is none (RabbitMQ without a store beside it) all
        are asked, for `timeout` seconds, and nobody is known to be missing.
        """
        ledger = (await self._core.connection()).ledger
        if ledger.has_fleet:
            members = await registered(ledger)
        else:
            rows = await ask(self._core, "presence", timeout=timeout)
            lease = self._core.conf.worker_lease
            members = [member_of(key, as_json(row), lease) for key, row in rows.items() if key not in rows.failed]
        return sorted(members, key=lambda each: (each.name, each.key))

    def inspect(self, destination: Destination = None, timeout: float = TIMEOUT) -> Inspect:
        """Return what asks these workers: `await app.control.inspect().active()`."""
        return Inspect(self._core, destination, timeout)

    async def broadcast(
        self,
        command: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        destination: Destination = None,
        timeout: float = TIMEOUT,
    ) -> Answers:
        """Send any command, one of your own too, and return what was answered.

        Raises:
            CallError: the arguments have no form in JSON, or are too many.
        """
        return await ask(self._core, command, args, kwargs, destination=destination, timeout=timeout)

    async def ping(self, *, destination: Destination = None, timeout: float = TIMEOUT) -> Answers:
        """Return who is there: `{"name": {"ok": "pong"}}`."""
        return await ask(self._core, "ping", destination=destination, timeout=timeout)

    async def rate_limit(
        self,
        task_name: str,
        rate: str | float | None,
        *,
        destination: Destination = None,
        timeout: float = TIMEOUT,
    ) -> Answers:
        """Change how often a task starts, until a worker is started anew: `"10/s"`, `"100/m"`, `"5/h"`; 0 or None: no
        limit. All workers count together: tell all of them the same."""
        return await ask(self._core, "rate_limit", [task_name, rate], destination=destination, timeout=timeout)

    async def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        *,
        destination: Destination = None,
        timeout: float = TIMEOUT,
    ) -> Answers:
        """Change the time limits (seconds) of calls that start from now on, until a worker is started anew."""
        return await ask(self._core, "time_limit", [task_name, soft, hard], destination=destination, timeout=timeout)

    async def pool_grow(
        self, n: int = 1, kind: str = "loop", *, destination: Destination = None, timeout: float = TIMEOUT
    ) -> Answers:
        """Have each worker run `n` calls more at once; `kind` is `loop` (coroutines) or `thread`."""
        return await ask(self._core, "pool_grow", [n, kind], destination=destination, timeout=timeout)

    async def pool_shrink(
        self, n: int = 1, kind: str = "loop", *, destination: Destination = None, timeout: float = TIMEOUT
    ) -> Answers:
        """Have each worker run `n` calls fewer at once; what runs goes on."""
        return await ask(self._core, "pool_shrink", [n, kind], destination=destination, timeout=timeout)

    async def pause(self, *, destination: Destination = None, timeout: float = TIMEOUT) -> Answers:
        """Have workers take no more messages until `resume`, or until they are started anew."""
        return await ask(self._core, "pause", destination=destination, timeout=timeout)

    async def resume(self, *, destination: Destination = None, timeout: float = TIMEOUT) -> Answers:
        """Have workers take messages again."""
        return await ask(self._core, "resume", destination=destination, timeout=timeout)

    async def autoscale(
        self,
        max: int,  # Celery's names
        min: int = 1,
        kind: str = "loop",
        *,
        destination: Destination = None,
        timeout: float = TIMEOUT,
    ) -> Answers:
        """Have each worker run `min` to `max` calls at once, until it is started anew.

        More as soon as all slots are taken, fewer when few were for half a minute.
        """
        return await ask(self._core, "autoscale", [max, min, kind], destination=destination, timeout=timeout)

    async def pool_restart(self, *, destination: Destination = None, timeout: float = TIMEOUT) -> Answers:
        """Have child processes replaced by fresh ones, which import the code as it is now; what runs goes on."""
        return await ask(self._core, "pool_restart", destination=destination, timeout=timeout)

    async def add_consumer(self, queue: str, *, destination: Destination = None, timeout: float = TIMEOUT) -> Answers:
        """Have workers take from `queue` too, until they are started anew."""
        return await ask(self._core, "add_consumer", [queue], destination=destination, timeout=timeout)

    async def cancel_consumer(
        self, queue: str, *, destination: Destination = None, timeout: float = TIMEOUT
    ) -> Answers:
        """Have workers take from `queue` no more, until they are started anew; what they have taken goes on."""
        return await ask(self._core, "cancel_consumer", [queue], destination=destination, timeout=timeout)

    async def heartbeat(self, *, destination: Destination = None, timeout: float = TIMEOUT) -> Answers:
        """Have workers write their rows into the registry now, and tell those who read events."""
        return await ask(self._core, "heartbeat", destination=destination, timeout=timeout)

    async def pause_queue(self, queue: str) -> bool:
        """Have all workers take no more from `queue`, until `resume_queue`; as `app.admin.pause`."""
        return await Admin(self._core).pause(queue)

    async def resume_queue(self, queue: str) -> bool:
        """Have all workers take from `queue` again; as `app.admin.resume`."""
        return await Admin(self._core).resume(queue)

    async def log_level(
        self, level: str, logger: str = "", *, destination: Destination = None, timeout: float = TIMEOUT
    ) -> Answers:
        """Change the level of a logger (default: the root's), until a worker is started anew."""
        return await ask(self._core, "log_level", [level, logger], destination=destination, timeout=timeout)

    async def enable_events(self, *, destination: Destination = None, timeout: float = TIMEOUT) -> Answers:
        """Have workers send events to Celery's monitors, and to readers who don't ask for them; as with `-E`."""
        return await ask(self._core, "enable_events", destination=destination, timeout=timeout)

    async def disable_events(self, *, destination: Destination = None, timeout: float = TIMEOUT) -> Answers:
        """Have workers send events only while somebody asks for them."""
        return await ask(self._core, "disable_events", destination=destination, timeout=timeout)

    async def shutdown(self, *, destination: Destination = None, timeout: float = TIMEOUT) -> Answers:
        """Have workers stop cleanly, as with SIGTERM."""
        return await ask(self._core, "shutdown", destination=destination, timeout=timeout)

    async def revoke(self, *task_ids: str, terminate: bool = False) -> None:
        """See to it that these calls do not run. As `app.admin.revoke`, which knows more ways to name them."""
        await Admin(self._core).revoke(*task_ids, terminate=terminate)

    async def terminate(self, *task_ids: str) -> None:
        """As `revoke`, and cancel those that run."""
        await self.revoke(*task_ids, terminate=True)


@knows(INSPECT)
@value(eq=False)
class Inspect:
    """Asks workers what they do, and changes nothing; each answer is by the name of its worker."""

    _core: AppCore
    _destination: Destination
    _timeout: float

    async def ping(self) -> Answers:
        """Return who is there."""
        return await self.query("ping")

    async def active(self) -> Answers:
        """Return the calls that run now."""
        return await self.query("active")

    async def reserved(self) -> Answers:
        """Return the calls that wait in a worker for a slot. All others wait in the broker."""
        return await self.query("reserved")

    async def scheduled(self, limit: int = 100) -> Answers:
        """Return the calls that wait for their due time in the queues of workers, at most `limit` of each queue.

        They wait in the broker, so workers with the same queues answer the same. RabbitMQ can't list them.
        """
        return await self.query("scheduled", limit)

    async def revoked(self) -> Answers:
        """Return what is revoked, and until when."""
        return await self.query("revoked")

    async def query_task(self, *task_ids: str) -> Answers:
        """Return which workers have these calls, and whether they are `active` or `reserved` there."""
        return await self.query("query_task", *task_ids)

    async def registered(self) -> Answers:
        """Return the names of the tasks that workers know."""
        return await self.query("registered")

    async def active_queues(self) -> Answers:
        """Return the queues that workers take from."""
        return await self.query("active_queues")

    async def stats(self) -> Answers:
        """Return numbers: calls done, slots, uptime, use of the machine, commands obeyed and dropped."""
        return await self.query("stats")

    async def conf(self, *, changed: bool = False) -> Answers:
        """Return the settings, without secrets; with `changed` only those that have not their default."""
        return await self.query("conf", changed)

    async def report(self) -> Answers:
        """Return versions and places, as text for a bug report."""
        return await self.query("report")

    async def clock(self) -> Answers:
        """Return the wall time of workers."""
        return await self.query("clock")

    async def memory(self) -> Answers:
        """Return memory, threads, and what allocated most where tracemalloc is on."""
        return await self.query("memory")

    async def stacks(self) -> Answers:
        """Return where each running call, each other coroutine and each thread stands, as text."""
        return await self.query("stacks")

    async def query(self, command: str, *args: Any, **kwargs: Any) -> Answers:
        """Return what workers answer to a command, one of your own too."""
        return await ask(self._core, command, args, kwargs, destination=self._destination, timeout=self._timeout)
