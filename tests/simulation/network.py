"""What lies between a process and a server: requests and replies that take their time, get lost, or come too late."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from aiotq.exceptions import AioTQError, ConnectionLost, NotConnected

from .world import Process, World, current, process_here

T = TypeVar("T")

#: What may happen at a request, by its number among all of a world. `die*`: the process dies before it is sent, after
#: it was carried out and before the reply is heard, or after that; `die_later`: so many callbacks later. `late`: the
#: client gives it up, and the server carries it out all the same. `still`: the process stands still. `jump`: its wall
#: clock does. `twice`: a message of it is delivered twice, by a broker that may.
KINDS: Final = (
    *("die", "die_unheard", "die_after", "die_later"),
    *("lose", "lose_reply", "late", "slow", "slow_reply"),
    *("cut", "down", "still", "stop", "jump", "twice"),
)
#: Seconds that a request or a reply takes, at most, where no fault makes it slow.
_QUICK: Final = 0.004
#: Seconds without an answer after which a client gives a request up.
_SILENCE: Final = 0.4
#: A server takes a process for gone that stands still for longer.
HEARTBEAT: Final = 4.0


@dataclass(frozen=True)
class Fault:
    """What happens at the request number `at`, of all or of those called `what`; `amount` is seconds, or callbacks."""

    at: int
    kind: str
    amount: float = 0.0
    what: str = ""


class Network:
    """All connections between processes and servers."""

    def __init__(self, world: World, faults: Sequence[Fault]) -> None:
        self.world = world
        self._faults = {(fault.what, fault.at): fault for fault in faults}
        self._counts: Counter[str] = Counter()
        self.requests = 0
        self.struck = 0
        self.is_calm = False
        self.on_cut: dict[Process, list[Callable[[], None]]] = {}
        self._down_until: dict[str, float] = {}
        self._links: dict[Process, int] = {}
        self._doubles = False

    def calm_down(self) -> None:
        """No more faults from now on; those that last end."""
        self.is_calm = True
        self._down_until.clear()
        for process in self.world.processes:
            process.steps_left = math.inf
            process.still_until = min(process.still_until, self.world.now)

    def doubles(self) -> bool:
        """Whether the request that is being carried out is to be doubled."""
        doubles, self._doubles = self._doubles, False
        return doubles

    def loses_push(self) -> bool:
        """Whether something that is pushed is lost."""
        return not self.is_calm and self.world.random.random() < 0.02

    async def ask(self, peer: str, what: str, act: Callable[[], T]) -> T:
        """Have a server do `act`, and return its answer; what can go wrong with that goes wrong."""
        steps = self._exchange(peer, what, act)
        try:
            delay = next(steps)
            while True:
                try:
                    await asyncio.sleep(delay)
                except asyncio.CancelledError as exc:
                    steps.throw(exc)
                delay = next(steps)
        except StopIteration as end:
            return cast(T, end.value)

    def ask_in_thread(self, peer: str, what: str, act: Callable[[], T]) -> T:
        """As `ask`, for a thread, which waits."""
        thread = current.thread
        assert thread is not None, f"{what} would block the loop"
        steps = self._exchange(peer, what, act)
        try:
            while True:
                thread.pause(next(steps))
        except StopIteration as end:
            return cast(T, end.value)

    def cut(self, process: Process) -> None:
        """Close all connections of `process`: what is under way on them has no answer."""
        self._links[process] = self._links.get(process, 0) + 1
        for told in self.on_cut.get(process, ()):
            told()

    def _exchange(self, peer: str, what: str, act: Callable[[], T]) -> Generator[float, None, T]:
        world, process, number = self.world, process_here(), self.requests
        self.requests += 1
        fault = self._fault_of(what.partition(" ")[0], number)
        kind = "" if fault is None else fault.kind
        world.note(f"{process.name} #{number} {what} {kind}")
        if fault is not None:
            self.struck += 1
            self._strike(process, peer, fault)
        if kind == "die":
            yield from self._death(process)
        link = self._links.get(process, 0)
        quick = world.random.random() * _QUICK
        if self._is_down(peer):
            yield quick
            raise NotConnected(f"{peer} is down")
        try:
            yield fault.amount if fault is not None and kind == "slow" else quick
        except asyncio.CancelledError:
            if world.random.random() < 0.5:  # it is on its way
                self._carry_out_late(act, _QUICK, what)
            raise
        if kind == "late":
            assert fault is not None
            self._carry_out_late(act, fault.amount, what)
        if kind in {"lose", "late"} or link != self._links.get(process, 0) or self._is_down(peer):
            yield _SILENCE * world.random.random()
            raise ConnectionLost(f"{what}: no answer")
        self._doubles = kind == "twice"
        answer = act()
        if kind == "die_unheard":
            yield from self._death(process)
        yield fault.amount if fault is not None and kind == "slow_reply" else quick
        if kind == "lose_reply" or link != self._links.get(process, 0):
            yield _SILENCE * world.random.random()
            raise ConnectionLost(f"{what}: the reply was lost")
        if kind == "die_after":
            yield from self._death(process)
        return answer

    def _fault_of(self, name: str, number: int) -> Fault | None:
        """Return what happens at this request, which is the next one of this name."""
        count = self._counts[name]
        self._counts[name] += 1
        if self.is_calm:
            return None
        return self._faults.get(("", number)) or self._faults.get((name, count))

    def _carry_out_late(self, act: Callable[[], Any], seconds: float, what: str) -> None:
        def do() -> None:
            self.world.note(f"late: {what}")
            with suppress(AioTQError):  # nobody hears it
                act()

        self.world.after(seconds, do)

    def _death(self, process: Process) -> Generator[float, None, None]:
        self.world.kill(process)
        yield math.inf

    def _strike(self, process: Process, peer: str, fault: Fault) -> None:
        match fault.kind:
            case "cut":
                self.cut(process)
            case "down":
                self._down_until[peer] = self.world.now + fault.amount
                for each in list(self.world.processes):
                    self.cut(each)
            case "still":
                process.stand_still(fault.amount)
                if fault.amount > HEARTBEAT:
                    self.world.after(HEARTBEAT, lambda: self.cut(process))
            case "stop":
                if process.stopping is not None:
                    process.stopping.set()
            case "jump":  # a machine that wakes up has neither its time nor its connections
                process.wall_offset += fault.amount
                self.world.after(self.world.random.random() * 0.5, lambda: self.cut(process))
            case "die_later":
                process.steps_left = fault.amount
            case _:
                pass

    def _is_down(self, peer: str) -> bool:
        return self._down_until.get(peer, 0.0) > self.world.now


def at_once(coro: Coroutine[Any, Any, T]) -> T:
    """Return what `coro` does, which waits for nothing."""
    try:
        coro.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    raise AssertionError("a server waits for nobody")
