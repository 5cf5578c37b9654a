"""The journal of a flow: what it asked for, what came of that and in which order, and signals that it has not taken.

It is a row of the ledger that expires (`ScheduleChange.lasts`), written in one step with what the flow sends, and only
if nobody else has changed it since it was read. So of two runs of one flow one goes on, and the other reads again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, cast, get_args

import msgpack

from ..core.values import replace, value
from ..exceptions import MalformedMessage
from ..results.ledger import Join
from ..results.record_names import key_of
from ..wire.message import Envelope, Message, pack, unpack

#: The header of a message that wakes a flow: the generation of its id, the number of what came, and by which way.
HEADER: Final = "aiotq-flow"
#: Bytes of a journal. It is read and written whole each time the flow goes on.
MAX_SIZE: Final = 1024 * 1024
#: Seconds for which a journal is kept beyond all that its flow waits for: queues may stand still for long.
KEPT: Final = 90 * 86_400.0
_FORM: Final = 1
#: Attempts of one call, and the first group of them that belongs to no ordinary call (`wire.message.attempt_apart`).
_ATTEMPTS: Final = 1024
_FIRST_GROUP: Final = 1024

Kind = Literal["step", "sleep", "event"]
How = Literal["ended", "due", "signal"]
#: Ways in which a flow is woken: by what it waited for (an end, a due time), a signal, or to be revoked.
Way = Literal[0, 1, 2]
BY_END: Final[Way] = 0
BY_SIGNAL: Final[Way] = 1
TO_REVOKE: Final[Way] = 2


@value
class Asked:
    """What a flow asked for: a step by the name of its task, a sleep, or an event. `due`: wall time of its end."""

    kind: Kind
    name: str
    due: float | None = None


@value
class Came:
    """What came of the thing `number`, a record or a signal, when so many things had been `asked` for."""

    number: int
    how: How
    asked: int = 0
    state: str = ""
    content_type: str = ""
    body: bytes = b""


@value
class Signal:
    """A signal that was accepted, and that no event has taken."""

    name: str
    content_type: str
    body: bytes


@value
class Journal:
    """All that is known of a flow. `message` is the call that began it; the messages that wake it are made of that.

    `generation` tells calls of one id apart. `heard` are the ids of signals. `ended_by`: the attempt of the message
    whose run came to the end of the function, which alone may tell its end.
    """

    message: Message
    queue: str
    priority: int
    generation: int = 0
    is_begun: bool = False
    ended_by: int | None = None
    is_revoked: bool = False
    asked: tuple[Asked, ...] = ()
    history: tuple[Came, ...] = ()
    signals: tuple[Signal, ...] = ()
    heard: tuple[str, ...] = ()

    @property
    def pending(self) -> Sequence[int]:
        """The numbers of what has not come."""
        came = {each.number for each in self.history}
        return [number for number in range(len(self.asked)) if number not in came]

    @property
    def until(self) -> float:
        """The wall time of the last due thing that it waits for; 0 if there is none."""
        return max((self.asked[number].due or 0.0 for number in self.pending), default=0.0)

    def lasts(self, now: float) -> float:
        """Return the seconds for which the row of a flow that goes on is kept."""
        return max(self.until - now, 0.0) + KEPT

    def step_id(self, number: int) -> str:
        """Return the id of the call of a step: the same whenever it is sent."""
        generation = f".{self.generation}" if self.generation else ""
        return f"{key_of(self.message.id)}{generation}.{number}"

    def join_id(self, number: int) -> str:
        """Return the id of the join that the end of a step completes."""
        return f"flow:{self.step_id(number)}"

    def wake(self, number: int, way: Way, due: float | None = None) -> Envelope:
        """Return the message that wakes the flow because of `number`; the same whenever it is sent.

        It is a call of the flow's id with an attempt of its own, which no retry of another message reaches.
        """
        group = max(self.generation, _FIRST_GROUP) + 1 + 3 * number + way
        fresh = replace(
            self.message,
            attempt=_ATTEMPTS * group,
            retries=0,
            eta=due,
            expires=None,
            headers={**(self.message.headers or {}), HEADER: [self.generation, number, way]},
        )
        return Envelope(fresh, self.queue, self.priority, due)

    def join(self, number: int, wake: Envelope, patience: float, until: float = 0.0) -> Join:
        """Return the join of a step: its end, whatever it is, sends what wakes the flow."""
        return Join(self.join_id(number), 1, (wake,), patience, until=until)

    def event_for(self, signal: str) -> int | None:
        """Return the number of the event that the next signal of a name is for; None: it is to be kept."""
        events = [each for each in self.pending if self.asked[each] == Asked("event", signal, self.asked[each].due)]
        kept = sum(each.name == signal for each in self.signals)
        return events[kept] if kept < len(events) else None


def generation_of(message: Message) -> int:
    """Return which call of its id begins with `message`, a retry of it included."""
    group = message.attempt // _ATTEMPTS
    return group if group >= _FIRST_GROUP else 0


def wake_of(message: Message) -> tuple[int, int, Way] | None:
    """Return what woke a flow: generation, number and way; None: `message` begins it."""
    given: object = None if message.headers is None else message.headers.get(HEADER)
    if not isinstance(given, (list, tuple)):
        return None
    match cast("list[Any]", given):
        case [int(generation), int(number), (0 | 1 | 2) as way]:
            return generation, number, cast(Way, way)
        case _:
            raise MalformedMessage("the header that says what woke its flow can't be read")


def packed(journal: Journal) -> bytes:
    """Return `journal` as the body of a row."""
    each = journal
    fields = (
        *(_FORM, pack(each.message), each.queue, each.priority, each.generation),
        *(each.is_begun, each.ended_by, each.is_revoked),
        [(it.kind, it.name, it.due) for it in each.asked],
        [(it.number, it.how, it.asked, it.state, it.content_type, it.body) for it in each.history],
        [(it.name, it.content_type, it.body) for it in each.signals],
        each.heard,
    )
    body: bytes = msgpack.packb(fields)
    return body


def unpacked(body: bytes) -> Journal:
    """Return the journal in the body of a row.

    Raises:
        MalformedMessage: it can't be read.
    """
    try:
        form, message, queue, priority, generation, begun, ended, revoked, *lists = msgpack.unpackb(body)
        if form != _FORM:
            raise ValueError
        asked, history, signals, heard = lists
        return Journal(
            *(unpack(message), queue, priority, generation, begun, ended, revoked),
            tuple(_checked(Asked(*each)) for each in asked),
            tuple(_checked(Came(*each)) for each in history),
            tuple(Signal(*each) for each in signals),
            tuple(heard),
        )
    except (ValueError, TypeError, msgpack.UnpackException):
        raise MalformedMessage("the journal of its flow can't be read here: it is of another version") from None


def _checked(given: Any) -> Any:
    word = given.kind if isinstance(given, Asked) else given.how
    if word not in get_args(Kind if isinstance(given, Asked) else How):
        raise ValueError
    return given


def words(journal: Journal) -> Iterator[str]:
    """Yield what a flow waits for, in words."""
    for number in journal.pending:
        asked = journal.asked[number]
        yield asked.kind if asked.kind == "sleep" else f"{asked.kind} {asked.name}"
