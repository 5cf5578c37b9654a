"""The loop on which a flow's function runs, until all of it waits for what the flow asked for.

It has no clock, no sockets and no threads. So it is known when nothing in it can go on by itself, and what came
earlier comes again in the same order. It runs in a thread, since another loop runs where the worker is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final, Never, cast

from ..exceptions import FlowError

logger = logging.getLogger("aiotq.task")

#: What asyncio, and what stands on it, asks a loop for that this one has not.
_NOT_HERE: Final = (
    *("call_later", "call_at", "call_soon_threadsafe", "run_in_executor", "getaddrinfo", "getnameinfo"),
    *("create_connection", "create_server", "create_unix_connection", "create_datagram_endpoint", "start_tls"),
    *("sock_recv", "sock_sendall", "sock_connect", "add_reader", "add_writer", "add_signal_handler"),
    *("subprocess_exec", "subprocess_shell", "connect_read_pipe", "connect_write_pipe"),
)
#: How often what is put aside is cancelled, if it goes on all the same.
_MOST_CANCELLATIONS: Final = 10


def _refusing(name: str) -> Callable[..., Never]:
    def refuse(*_: object, **__: object) -> Never:
        raise FlowError(
            f"a flow awaits its steps, sleeps and events only, and this needs more of the loop ({name}): put it into "
            "a step, and wait with ctx.sleep"
        )

    return refuse


class FlowLoop(asyncio.AbstractEventLoop):
    """Runs callbacks and tasks, and nothing that comes from outside."""

    def __init__(self) -> None:
        self._ready: deque[asyncio.Handle] = deque()
        self._tasks: list[asyncio.Task[Any]] = []

    def run_ready(self) -> None:
        """Run until nothing can go on by itself."""
        while self._ready:
            handle = self._ready.popleft()
            if not handle.cancelled():
                handle._run()  # what every loop does with its handles

    def end(self) -> None:
        """Cancel what is left."""
        for _ in range(_MOST_CANCELLATIONS):
            left = [task for task in self._tasks if not task.done()]
            if not left:
                return
            for task in left:
                task.cancel()
            self.run_ready()

    def call_soon(  # type: ignore[override]  # of what type the arguments are is for who calls it
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **how: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, **how)
        self._tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        logger.debug("in a flow: %s", context.get("message"), exc_info=context.get("exception"))

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def get_task_factory(self) -> None:
        return None

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def time(self) -> float:
        """A clock that stands still: nothing here may depend on it."""
        return 0.0


for _name in _NOT_HERE:
    setattr(FlowLoop, _name, staticmethod(_refusing(_name)))


def flow_loop() -> FlowLoop:
    """Return a new loop. What a loop may leave out is abstract for type checkers alone."""
    kind: Callable[[], FlowLoop] = cast("Any", FlowLoop)
    return kind()
