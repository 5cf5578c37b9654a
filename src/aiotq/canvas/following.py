"""What follows the end of one step of a workflow: callbacks, the rest of its chain, an arrival at its join."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, cast

from .. import states
from ..core.values import replace, shown, value
from ..exceptions import AioTQError, EncodeError, MessageTooLarge
from ..results import NO_JOIN_CHANGES, Arrival, Join, JoinChanges, JoinGrowth, Record
from ..results.document import DocumentCodec, encode_exception
from ..results.neighbours import MOST, NO_NEIGHBOURS, Neighbours
from ..wire.message import Envelope, Message, Step, new_id
from .links import Broken, Links, Rest, Resume, signatures_of, steps_of
from .planner import INLINE, NOTHING, Given, Incoming, Plan, Planner, Position, as_member, frozen, of_last, single
from .signature import Canvas, Group
from .stamping import stamped

logger = logging.getLogger("aiotq.task")

#: Where members stand that were added.
_LAST: Final = 2**31
#: The state of a member whose group goes on without it, as its join keeps it.
LEFT_OUT: Final = "LEFT_OUT"


@value
class NeverRan:
    """A task that never ran, and never will."""

    id: str
    state: str
    error: BaseException
    task: str


class Continuation:
    """Collects what follows the end of the step that `message` is."""

    def __init__(self, planner: Planner, message: Message, codec: DocumentCodec, links: Links) -> None:
        self._planner = planner
        self._links = links
        self._message = message
        self._codec = codec
        self._step = message.step or Step()
        self.envelopes: list[Envelope] = []
        self.prevented: list[NeverRan] = []
        self._next: list[str] = []
        self._callbacks: list[str] = []
        self._errbacks: list[str] = []
        self._added: list[str] = []
        #: Single steps that won't run, up to the first that is more than one call.
        self._not_run: list[str] = []
        self._opened: list[Join] = []
        self._grown: JoinGrowth | None = None
        #: Join, member, what is kept in it (None: the step's own record), whether that fails it.
        self._arrivals: list[tuple[str, str, Record | None, bool]] = []

    @property
    def needs_record(self) -> bool:
        """Whether a join keeps the step's own record."""
        return any(record is None for _, _, record, _ in self._arrivals)

    def joining(self, own: Record | None, expires: float) -> JoinChanges:
        """Return what happens at joins; `own` is the step's record, unless that is stored with the finish."""
        step = self._step
        released = () if step.awaits is None else (step.awaits,)
        if not (self._opened or self._grown or self._arrivals or released):
            return NO_JOIN_CHANGES
        arrivals = tuple(
            Arrival(join, member, own if record is None else replace(record, expires=expires), failed)
            for join, member, record, failed in self._arrivals
        )
        grown = () if self._grown is None else (self._grown,)
        return JoinChanges(tuple(self._opened), grown, arrivals, released=released)

    @property
    def children(self) -> Sequence[str]:
        """Ids of what it sent."""
        return [*self._callbacks, *self._errbacks, *self._next, *self._added][:MOST]

    def neighbours(self) -> Neighbours:
        """Return what the record of the step says of those around it."""
        links, around = self._links, neighbours_of_message(self._message, self._links)
        behind = () if not links.then or steps_of(links.rest) else links.then
        return Neighbours(
            around.root_id,
            around.group_id,
            around.index,
            around.awaits,
            around.begins,
            around.members,
            (*self._next[:MOST], *(behind if links.is_gated else ())),
            self._step.join if behind and not links.is_gated else around.join,
            () if links.is_gated else behind,
            tuple(self._callbacks[:MOST]),
            tuple(self._errbacks[:MOST]),
            tuple(self._not_run[:MOST]),
        )

    def succeed(self, result: Any, links: Links) -> None:
        """Go on with the value `result`."""
        for callback in links.callbacks:
            self._try(callback, Given((result,)), self._callbacks)
        self._go_on(links.rest, Given((result,)))

    def fail(self, error: BaseException, state: str, links: Links, scope: int = 0, cause: Record | None = None) -> None:
        """End the chain, or go on where it says so.

        `scope` (see `Links`) is prevented with it. `cause` is the record of what failed; None: the step's own.
        """
        if not links.rest:  # what it carried could not be read, or there is nothing
            self.prevented += [NeverRan(task_id, state, error, "") for task_id in self._step.ends]
        self._prevent(links.rest, error, state, links.given, cause, scope)

    def call_errbacks(self, error: BaseException, links: Links, trace: str | None) -> None:
        """Call error callbacks with the step's request, `error` and its traceback."""
        for callback in links.errbacks:
            broken = Broken(self._request(links, whole=True), encode_exception(error), trace)
            try:
                self._take(self._planner.plan(frozen(callback), broken, self._beside()), self._errbacks)
            except (EncodeError, MessageTooLarge):  # what the task was called with can't be sent to the callback
                self._try(callback, replace(broken, request=self._request(links, whole=False)), self._errbacks)
            except AioTQError as exc:
                self._complain(callback, exc)

    def add(self, added: Sequence[Canvas[Any]]) -> None:
        """Let `added` be members of the chord too; sorted by name they are in the order of those who added them."""
        if not added or (seat := self._step.seat) is None:
            return
        join, member = seat
        begin = f"+{int(member):08}" if member.isdigit() else member.partition(".")[0]
        when = new_id()
        for at, canvas in enumerate(added):
            self._planner.check(Group[Any]((canvas,)))
            name = f"{begin}.{when}.{at:08}"
            place = replace(self._beside(), join=join, members=(name,), group_id=self._step.group_id)
            self._take(self._planner.plan(*as_member(canvas, NOTHING, place)), self._added)
        self._grown = JoinGrowth(join, len(added))

    def replace(self, canvas: Canvas[Any], links: Links) -> None:
        """Let `canvas` take the step's place, as if it had always stood there.

        Raises:
            AioTQError: it can't be sent.
        """
        message = self._message
        whole = single(canvas)
        if message.stamps:
            whole = stamped(whole, None, message.stamps, append=True)
        if links.errbacks:
            whole = whole.link_error(*links.errbacks)
        if links.callbacks:
            whole = whole.link(*links.callbacks)
        self._planner.check(whole)
        counts = {"attempt": message.attempt + 1, "replacements": message.replacements + 1}
        whole = frozen(of_last(whole, task_id=message.id, **counts))
        rest = links.rest
        if rest and rest[0] == Resume("skip"):
            rest = (Resume("skip", links.given), *rest[1:])
        place = replace(self._inside(rest), is_short=False, parent_id=message.parent_id)
        self._take(self._planner.plan(whole, NOTHING, place), self._next)

    def _go_on(self, rest: Rest, incoming: Given, cause: Record | None = None) -> None:
        """Start the next step with `incoming`; if there is none, arrive at the join with `cause`.

        `cause` stands for `incoming` as a record; None: the step's own does.
        """
        if not steps_of(rest):
            self._arrive(cause)
            return
        first, after = _next(rest)
        try:
            self._take(self._planner.plan(frozen(first), incoming, self._inside(after)), self._next)
        except (EncodeError, MessageTooLarge) as exc:
            self._hand_over(first, after, cause, exc)
        except AioTQError as exc:
            self._cannot_go_on(first, after, incoming, exc)

    def _hand_over(self, first: Canvas[Any], after: Rest, cause: Record | None, why: AioTQError | None = None) -> None:
        """Start the next step with `cause`, which it reads for itself."""
        try:
            plan = self._planner.gate(frozen(first), self._inside(after))
        except AioTQError as exc:
            self._cannot_go_on(first, after, NOTHING, why or exc)
            return
        self._opened += plan.joins
        self._arrivals.append((plan.joins[0].id, "0", cause, False))
        self._next += [envelope.message.id for envelope in plan.joins[0].then]

    def _cannot_go_on(self, first: Canvas[Any], after: Rest, incoming: Given, error: AioTQError) -> None:
        """The next step can't be sent: that is its failure."""
        message = self._message
        logger.error("Task %s[%s]: its next step %s can't be sent: %s", message.task, message.id, shown(first), error)
        self._prevented(first, states.FAILURE, error)
        mark = () if first.when_failed == "fail" else (Resume(first.when_failed),)
        self._prevent((*mark, *after), error, states.FAILURE, incoming.values, self._kept(states.FAILURE, error))

    def _prevent(
        self,
        rest: Rest,
        error: BaseException,
        state: str,
        given: tuple[Any, ...],
        cause: Record | None,
        scope: int = 0,
    ) -> None:
        """End the steps of `rest` because of `error`, up to where the chain goes on all the same."""
        for at, each in enumerate(rest):
            if not isinstance(each, Resume):
                self._prevented(each, state, error)
            elif scope:
                scope -= 1
            else:
                self._resume(each, rest[at + 1 :], given, cause)
                return
        self._fail_join(cause, scope)

    def _prevented(self, canvas: Canvas[Any], state: str, error: BaseException) -> None:
        calls = [call for call in signatures_of(canvas) if call.id is not None]
        if len(calls) == 1 and len(self._not_run) == len(self.prevented):
            self._not_run.append(cast(str, calls[0].id))
        self.prevented += [NeverRan(cast(str, call.id), state, error, call.task) for call in calls]

    def _resume(self, mark: Resume, rest: Rest, given: tuple[Any, ...], cause: Record | None) -> None:
        match mark.instead:
            case "continue" if steps_of(rest):
                first, after = _next(rest)
                self._hand_over(first, after, cause)
            case "continue":
                self._arrive(cause)
            case "leave_out":
                self._arrive(Record(self._message.id, LEFT_OUT, b"", "", 0.0))
            case "skip":
                given = given if mark.given is None else mark.given
                if not given and not steps_of(rest) and self._links.is_gated:
                    self._arrive(Record(self._message.id, LEFT_OUT, b"", "", 0.0))
                    return
                try:
                    value = given[0] if given else None
                    kept = self._kept(states.FAILURE if isinstance(value, BaseException) else states.SUCCESS, value)
                except EncodeError as exc:
                    self._prevent(rest, exc, states.FAILURE, (), self._kept(states.FAILURE, exc))
                else:
                    self._go_on(rest, Given(given), kept)

    def _arrive(self, record: Record | None) -> None:
        """Arrive at the join: the last of the step's chain has ended."""
        step = self._step
        if step.join is not None:
            self._arrivals += [(step.join, member, record, False) for member in step.members]

    def _fail_join(self, record: Record | None, scope: int) -> None:
        """Arrive at the join as what fails it; `scope`: so much of what follows it is prevented, not failed."""
        step = self._step
        if step.join is None:
            return
        if self._links.is_gated:
            members = (passed_on(scope),) if scope else step.members
        else:
            members = (passed_on(scope - 1),) if scope else step.members[:1]
        self._arrivals += [(step.join, member, record, True) for member in members]

    def _kept(self, state: str, result: object) -> Record:
        """Return a record for a join alone."""
        body = self._codec.encode(self._message.id, state, result, done_at=0.0)
        return Record(self._message.id, state, body, self._codec.content_type, 0.0)

    def _try(self, callback: Canvas[Any], incoming: Incoming, sent: list[str]) -> None:
        """Send a callback; one that can't be sent is told in the log, and nobody else's concern."""
        try:
            self._take(self._planner.plan(frozen(callback), incoming, self._beside()), sent)
        except AioTQError as exc:
            self._complain(callback, exc)

    def _complain(self, callback: Canvas[Any], error: AioTQError) -> None:
        message = self._message
        logger.error("Task %s[%s]: callback %s can't be sent: %s", message.task, message.id, shown(callback), error)

    def _take(self, plan: Plan, sent: list[str]) -> None:
        self.envelopes += plan.envelopes
        self._opened += plan.joins
        sent += [envelope.message.id for envelope in plan.envelopes]

    def _beside(self) -> Position:
        """Return where callbacks stand."""
        message = self._message
        return Position(parent_id=message.id, root_id=message.root_id or message.id, reply_to=message.reply_to)

    def _inside(self, rest: Rest) -> Position:
        """Return where the next step of the chain stands."""
        step, message = self._step, self._message
        return Position(
            rest=rest,
            is_short=len(message.body) <= INLINE and message.compression is None,  # which holds all of `rest`
            parent_id=message.id,
            root_id=message.root_id or message.id,
            reply_to=message.reply_to,
            join=step.join,
            members=step.members,
            then=self._links.then,
            is_gated=self._links.is_gated,
            chord=step.chord,
            group_id=step.group_id,
            group_index=step.group_index,
        )

    def _request(self, links: Links, *, whole: bool) -> dict[str, Any]:
        """Return the request of the failed call as plain values, for error callbacks."""
        message = self._message
        args, kwargs = links.called_with
        called_with = {"args": list(args), "kwargs": dict(kwargs)} if whole else {}
        return {
            **called_with,
            "id": message.id,
            "task": message.task,
            "root_id": message.root_id or message.id,
            "parent_id": message.parent_id,
            "retries": message.retries,
            "attempt": message.attempt,
            "timelimit": [message.time_limit, message.soft_time_limit],
            "headers": dict(message.headers or {}),
            **({"stamps": dict(message.stamps)} if message.stamps else {}),
            "reply_to": message.reply_to,
            "origin": message.origin,
            "group": self._step.group_id,
            "group_index": self._step.group_index,
            "argsrepr": shown(args),
            "kwargsrepr": shown(dict(kwargs)),
        }


def passed_on(scope: int) -> str:
    """Return as which member arrives what prevents all that a join starts, and `scope` behind it."""
    return f"-{scope}"


def neighbours_of_message(message: Message, links: Links) -> Neighbours:
    """Return what a message says of those around it."""
    step = message.step
    root_id = None if message.root_id == message.id else message.root_id
    if step is None:
        return NO_NEIGHBOURS if root_id is None else Neighbours(root_id)
    is_nested = step.join != step.group_id and not links.is_gated
    return Neighbours(
        root_id,
        step.group_id,
        step.group_index if links.is_gated or not step.members else _number(step.members[0]),
        step.awaits if links.awaited else None,
        links.begins,
        links.awaited,
        join=step.join if is_nested else None,
    )


def _number(member: str) -> int:
    """Return where a member stands; those that were added stand last."""
    return int(member) if member.isdecimal() else _LAST


def _next(rest: Rest) -> tuple[Canvas[Any], Rest]:
    """Return the first step of `rest`, and what is behind it."""
    at = next(at for at, each in enumerate(rest) if not isinstance(each, Resume))
    return cast("Canvas[Any]", rest[at]), rest[at + 1 :]
