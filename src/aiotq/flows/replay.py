"""Runs a flow's function from its journal, as far as it comes with what is there: decides only, and writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from .. import states
from ..canvas.signature import Signature
from ..core.values import replace
from ..exceptions import EventTimeout, FlowChanged, FlowError
from ..wire.message import Envelope
from .context import FlowContext
from .journal import Asked, Came, Journal, Kind
from .loop import flow_loop

#: Returns what a record or signal says.
Decode = Callable[[Came], Any]


class Replay:
    """One run of a flow's function, from its beginning.

    What is in the journal comes again in the order in which it came, each when nothing could go on without it; then
    what has `arrived` since, in the order of its numbers. Afterwards `journal` has that and what was asked for anew,
    `steps` the messages of the steps among it by their numbers; and if `is_over`, `value` or `error` is what the
    function came to. `make` makes these messages, or raises an error while the function can do something about it.
    """

    def __init__(
        self,
        function: Callable[..., Coroutine[Any, Any, Any]],
        journal: Journal,
        arrived: Mapping[int, Came],
        *,
        decode: Decode,
        now: float,
        make: Callable[[Journal, int, Signature[Any]], Sequence[Envelope]],
    ) -> None:
        self.journal = journal
        self.steps: dict[int, Sequence[Envelope]] = {}
        self.is_over = False
        self.value: Any = None
        self.error: BaseException | None = None
        self._function = function
        self._known = journal.asked
        self._arrived = dict(sorted(arrived.items()))
        self._decode = decode
        self._now = now
        self._make = make
        self._loop = flow_loop()
        self._asked: list[Asked] = []
        self._waiting: list[asyncio.Future[Any]] = []
        self._is_replaying = True
        self._is_closed = False
        self._changed: FlowChanged | None = None

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Run it; in a thread, since it has a loop of its own."""
        asyncio._set_running_loop(self._loop)
        try:
            context = FlowContext(self.journal.message.id, self)
            main = self._loop.create_task(self._function(context, *args, **kwargs))
            self._go_on()
            self._repeat(main)
            self._is_replaying = False
            history = list(self.journal.history)
            signals = list(self.journal.signals)
            while not main.done() and (came := self._next(signals)) is not None:
                history.append(came)
                self._come(came)
            self.journal = replace(
                self.journal,
                is_begun=True,
                asked=tuple(self._asked),
                history=tuple(history),
                signals=tuple(signals),
            )
            self._look(main)
        except FlowChanged as exc:
            self.is_over, self.error = True, exc
        finally:
            self._is_closed = True
            self._loop.end()
            asyncio._set_running_loop(None)

    def ask(
        self, kind: Kind, name: str, seconds: float | None, call: Signature[Any] | None
    ) -> Coroutine[Any, Any, Any]:
        """As `context.Asking`."""
        if self._is_closed:  # in its cleanup, or it goes on though it is cancelled: what it asks for never comes
            return self._wait(self._loop.create_future())
        number = len(self._asked)
        if number < len(self._known):
            asked = self._known[number]
            if (asked.kind, asked.name) != (kind, name):
                raise self._differs(number, f"{kind} {name}".strip())
        elif self._is_replaying and self.journal.is_begun:
            raise self._differs(number, f"{kind} {name}".strip())
        else:
            if call is not None:
                self.steps[number] = self._make(self.journal, number, call)
            asked = Asked(kind, name, None if seconds is None else self._now + seconds)
        self._asked.append(asked)
        future = self._loop.create_future()
        self._waiting.append(future)
        return self._wait(future)

    async def _wait(self, future: asyncio.Future[Any]) -> Any:
        return await future

    def _repeat(self, main: asyncio.Task[Any]) -> None:
        """Have come what came before."""
        for came in self.journal.history:
            if main.done() or came.asked != len(self._asked):
                raise self._differs(len(self._asked), None)
            self._come(came)
        if self.journal.is_begun and len(self._asked) != len(self._known):
            raise self._differs(len(self._asked), None)

    def _go_on(self) -> None:
        self._loop.run_ready()
        if self._changed is not None:  # whatever the function made of it
            raise self._changed

    def _come(self, came: Came) -> None:
        """Give the function what it waits for, and run it until it waits again."""
        future = self._waiting[came.number]
        if not future.done():  # it may have cancelled what waited
            try:
                future.set_result(self._value(came))
            except Exception as exc:  # a step's, or of what can't be read
                future.set_exception(exc)
        self._go_on()

    def _value(self, came: Came) -> Any:
        asked = self._asked[came.number]
        if came.how == "due":
            if asked.kind == "event":
                raise EventTimeout(f"{self._name}: no signal {asked.name!r} came in time")
            return None
        value = self._decode(came)
        if came.how == "ended" and came.state != states.SUCCESS:
            raise value if isinstance(value, BaseException) else FlowError(f"step {asked.name} ended as {came.state}")
        return value

    def _next(self, signals: list[Any]) -> Came | None:
        """Return what comes next, of what the function waits for; a signal is taken out of `signals`."""
        asked = len(self._asked)
        for number in [each for each in self._arrived if each < asked]:
            arrived = self._arrived.pop(number)
            return replace(self._signal(number, signals) or arrived, asked=asked)
        for number in range(asked):
            if self._waiting[number].done():
                continue
            if (came := self._signal(number, signals)) is not None:
                return replace(came, asked=asked)
        return None

    def _signal(self, number: int, signals: list[Any]) -> Came | None:
        """Return the first of `signals` that is for the event `number`."""
        asked = self._asked[number]
        if asked.kind != "event":
            return None
        for signal in signals:
            if signal.name == asked.name:
                signals.remove(signal)
                return Came(number, "signal", 0, "", signal.content_type, signal.body)
        return None

    def _look(self, main: asyncio.Task[Any]) -> None:
        """See whether the function has ended, and how."""
        self.is_over = main.done()
        if not self.is_over:
            if not self.journal.pending:
                self.is_over = True
                self.error = FlowError(f"{self._name} waits for nothing that will come: it awaits its ctx alone")
            return
        if main.cancelled():
            self.error = FlowError(f"{self._name} cancelled itself")
            return
        self.error = main.exception()
        if self.error is None:
            self.value = main.result()

    @property
    def _name(self) -> str:
        message = self.journal.message
        return f"flow {message.task}[{message.id}]"

    def _differs(self, number: int, now: str | None) -> FlowChanged:
        """Return the error that tells how the code differs from what the journal says of the thing `number`."""
        before = "nothing more"
        if number < len(self._known):
            before = f"{self._known[number].kind} {self._known[number].name}".strip()
        is_now = "nothing more here" if now is None else now
        self._changed = self._changed or FlowChanged(
            f"{self._name}: its code was changed while it was under way: the journal has {before} as number "
            f"{number + 1} of what it asks for, and the code asks for {is_now}. Run the code that it began with "
            "until such flows have ended, and give changed code another name"
        )
        return self._changed
