"""Calls that run where they are made (`task_always_eager`): the way of a call with no broker and no worker in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from .clock import Clock
from .options import CallOptions, check_options
from .results import Record, ResultStore
from .results.document import DocumentCodec
from .results.handle import EagerResult
from .settings import Settings
from .task import ONLY_SENT, Task


class EagerConnection(Protocol):
    """An app's connection, as storing a result needs it."""

    @property
    def store(self) -> ResultStore: ...

    @property
    def keeps_results(self) -> bool: ...


class EagerHome(Protocol):
    """An app, as calls that run at once need it."""

    @property
    def conf(self) -> Settings: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def codec(self) -> DocumentCodec: ...

    def find_task(self, name: str) -> Task[..., Any]: ...

    async def connection(self) -> EagerConnection: ...


async def call_eagerly(
    home: EagerHome, task: Task[..., Any] | str, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions
) -> EagerResult[Any]:
    """Run a call now and return its result; when and where it was to run is checked and then of no meaning.

    Raises:
        NotRegistered: a task called by name is not registered here, so that it can't be run here.
        Exception: what the task raised, with `task_eager_propagates`.
    """
    called = home.find_task(task) if isinstance(task, str) else task
    check_options(called.name, options, runs_in=called.runs_in)
    kept = {option: given for option, given in options.items() if option not in ONLY_SENT}
    result = await called.apply(args, kwargs, **cast(CallOptions, kept))
    ignores = _first(options.get("ignore_result"), called.declared.ignore_result, home.conf.task_ignore_result)
    if home.conf.task_store_eager_result and not ignores:
        await _store(home, result)
    return result


def _first(call: bool | None, declared: bool | None, default: bool) -> bool:
    if call is not None:
        return call
    return default if declared is None else declared


async def _store(home: EagerHome, result: EagerResult[Any]) -> None:
    connection = await home.connection()
    if not connection.keeps_results:
        return
    now = home.clock.time()
    ended = await result.look()
    body = home.codec.encode(result.id, ended.state, ended.info, done_at=now, trace=await result.traceback())
    expires = now + home.conf.result_expires
    await connection.store.put([Record(result.id, ended.state, body, home.codec.content_type, expires)])
