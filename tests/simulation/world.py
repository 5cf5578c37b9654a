"""Processes in one thread: each has an event loop and threads of its own. Time jumps; a seed decides who is next."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Final, TypeVar, cast

import greenlet

T = TypeVar("T")

#: Wall time at which a world begins.
EPOCH: Final = 1_700_000_000.0
#: Seconds that a callback takes, so that what spins is seen.
_STEP: Final = 2e-6
#: Callbacks of a world at most.
MOST_STEPS: Final = 400_000


class Spins(Exception):
    """A world came to no end in `MOST_STEPS`."""


class World:
    """All processes, their timers, and the time."""

    def __init__(self, seed: int, *, is_ordered: bool) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.steps = 0
        self.trace: list[str] = []
        self.processes: list[Process] = []
        #: Processes that died: kept, so that nothing of them is cleaned up, which would run their code.
        self.graves: list[Process] = []
        self._is_ordered = is_ordered  #: whether the callbacks of a process run in the order in which they are ready
        self._numbers = itertools.count()
        self._tasks = itertools.count(1)
        self._timers: list[tuple[float, int, Process | None, asyncio.Handle]] = []
        self._server_loop = Process(self, "server")  #: for timers of servers: it is never run

    def next_task(self) -> int:
        """Return the number of a task that is made."""
        return next(self._tasks)

    def note(self, what: str) -> None:
        """Add a line to the trace, which is equal for equal seeds."""
        self.trace.append(f"{self.now:.6f} {what}")

    def spawn(self, name: str, main: Callable[[Process], Coroutine[Any, Any, None]]) -> Process:
        """Start a process with its main coroutine."""
        process = Process(self, name)
        self.processes.append(process)
        self.note(f"{name} starts")
        process.main = process.create_task(main(process), name="main")
        return process

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Have `call` done at `when` by nobody's process: by a server, or by fate."""
        handle = asyncio.Handle(call, (), cast(Any, self._server_loop))
        heapq.heappush(self._timers, (when, next(self._numbers), None, handle))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        self.at(self.now + seconds, call)

    def add_timer(self, process: Process, timer: asyncio.TimerHandle) -> None:
        heapq.heappush(self._timers, (timer.when(), next(self._numbers), process, timer))

    def kill(self, process: Process) -> None:
        """Nothing of it runs any more, from the next await on."""
        if process.is_dead:
            return
        self.note(f"{process.name} dies")
        process.is_dead = True
        self.processes.remove(process)
        self.graves.append(process)
        for told in process.on_death:
            told()

    def run(self, is_over: Callable[[], bool], until: float) -> bool:
        """Go on until `is_over()`, which is asked whenever time moves, at most until `until`; whether it was."""
        while True:
            self.steps += 1
            if self.steps > MOST_STEPS:
                raise Spins(f"no end in {MOST_STEPS} steps")
            now = self.now
            runnable = [each for each in self.processes if each.ready and each.still_until <= now]
            if runnable:
                self.now = now + _STEP
                count = len(runnable)
                self._step(runnable[0] if count == 1 else runnable[int(self.random.random() * count)])
                continue
            if is_over():
                return True
            if not self._jump(until):
                return False

    def _step(self, process: Process) -> None:
        ready = process.ready
        if len(ready) > 1 and not self._is_ordered:
            ready.rotate(-int(self.random.random() * len(ready)))
        handle = ready.popleft()
        if handle.cancelled():
            return
        process.steps_left -= 1
        if process.steps_left <= 0:
            self.kill(process)
            return
        asyncio._set_running_loop(cast(Any, process))
        try:
            handle._run()
        finally:
            asyncio._set_running_loop(None)

    def _jump(self, until: float) -> bool:
        """Go to the next timer; False if that is beyond `until`."""
        timers = self._timers
        while timers:
            when, number, process, handle = heapq.heappop(timers)
            if handle.cancelled():
                continue
            if process is not None and process.is_dead:
                process.ready.append(handle)  # kept, and never run
                continue
            if when > until:
                heapq.heappush(timers, (when, number, process, handle))
                break
            self.now = max(self.now, when)
            if process is not None:
                process.ready.append(handle)
            else:
                handle._run()
            return True
        self.now = until
        return False


class NumberedTask(asyncio.Task[Any]):
    """A task whose place in a set is by number and not by address."""

    def __init__(self, coro: Any, *, number: int, **more: Any) -> None:
        self._number = number  # first: asyncio puts it into a set
        super().__init__(coro, **more)

    def __hash__(self) -> int:
        return self._number

    __eq__ = object.__eq__


class Process:
    """One process: a loop that the world turns."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self._loop: Any = self  # it is no `AbstractEventLoop`, which has much that nobody here asks for
        self.ready: deque[asyncio.Handle] = deque()
        self.is_dead = False
        self.still_until = -math.inf  #: it stands still (SIGSTOP) until then
        self.steps_left = math.inf  #: it dies when it has made so many more
        self.wall_offset = 0.0
        self.on_death: list[Callable[[], None]] = []
        self.stopping: asyncio.Event | None = None
        self.main: asyncio.Task[None] | None = None
        self.errors: list[str] = []
        self.threads: list[Thread] = []

    def stand_still(self, seconds: float) -> None:
        """Run nothing for so long; what becomes ready meanwhile runs afterwards."""
        self.still_until = self.world.now + seconds
        self.world.at(self.still_until, lambda: None)

    # What asyncio asks of a loop

    def time(self) -> float:
        return self.world.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self.is_dead

    def is_closed(self) -> bool:
        return False

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self._loop, context)
        self.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.world.now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self._loop, context)
        self.world.add_timer(self, timer)
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self._loop)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None, **_: Any) -> asyncio.Task[Any]:
        number = self.world.next_task()
        return NumberedTask(coro, number=number, loop=self, name=name or f"task-{number}", context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    async def shutdown_asyncgens(self) -> None:
        pass

    # Threads

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Return what `function` does in a thread of this process."""
        answer = self.create_future()

        def tell(set_it: Callable[[Any], None], what: Any) -> None:
            if not answer.done():
                set_it(what)

        def work() -> None:
            try:
                value = function()
            except Exception as exc:
                self.call_soon(tell, answer.set_exception, exc)
            else:
                self.call_soon(tell, answer.set_result, value)

        Thread(work, self).start()
        return cast(T, await answer)


class Thread:
    """A thread of the process that made it, which goes on where the world lets it."""

    def __init__(self, target: Callable[[], None], process: Process | None = None, **_: Any) -> None:
        self._process = process or cast(Any, asyncio.get_running_loop())
        self._target = target
        self._joining: list[Thread] = []
        self.is_over = False

    def start(self) -> None:
        self._process.threads.append(self)
        self._greenlet = greenlet.greenlet(self._run)
        self._process.call_soon(self.go_on)

    def go_on(self) -> None:
        if self.is_over:
            return
        asyncio._set_running_loop(None)
        current.thread = self
        try:
            self._greenlet.switch()
        finally:
            current.thread = None
            asyncio._set_running_loop(cast(Any, self._process))

    def pause(self, seconds: float) -> None:
        """In the thread: go on after so long; never, if it is infinite."""
        if seconds < math.inf:
            self._process.call_later(seconds, self.go_on)
        hub = self._greenlet.parent
        assert hub is not None
        hub.switch()

    def join(self) -> None:
        thread = current.thread
        while not self.is_over:
            assert thread is not None
            self._joining.append(thread)
            thread.pause(math.inf)

    def _run(self) -> None:
        self._target()
        self.is_over = True
        for each in self._joining:
            self._process.call_soon(each.go_on)

    @property
    def process(self) -> Process:
        return self._process


class Event:
    """`threading.Event` for the threads of a process."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: dict[Thread, None] = {}

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        waiting, self._waiting = list(self._waiting), {}
        for each in waiting:
            each.process.call_soon(each.go_on)

    def wait(self, timeout: float) -> bool:
        thread = current.thread
        if not self._is_set and thread is not None:
            self._waiting[thread] = None
            rings = thread.process.call_later(timeout, self._ring, thread)
            thread.pause(math.inf)
            rings.cancel()
        return self._is_set

    def _ring(self, thread: Thread) -> None:
        if thread in self._waiting:
            del self._waiting[thread]
            thread.go_on()


class Current:
    """The world that is being run, and the thread that is."""

    world: World
    thread: Thread | None = None


current: Final = Current()


def process_here() -> Process:
    """Return the process whose code runs."""
    thread = current.thread
    return thread.process if thread is not None else cast(Any, asyncio.get_running_loop())
