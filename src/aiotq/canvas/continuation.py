"""The continuation of a workflow after one step: callbacks, the rest of its chain, an arrival at its join."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, cast

from .. import states
from ..core.values import replace, shown, value
from ..exceptions import AioTQError, EncodeError, MessageTooLarge
from ..results import NO_JOIN_CHANGES, Arrival, Join, JoinChanges, JoinGrowth, Record
from ..results.document import DocumentCodec, encode_exception
from ..results.lineage import MOST, NO_LINEAGE, Lineage, plan_id
from ..wire.message import Envelope, Message, Step, new_id
from .composites import Group
from .links import Broken, Links, Rest, Resume, steps_of
from .planner import NOTHING, Given, Incoming, Plan, Planner, Position, as_member, fits_inline
from .signature import Canvas
from .stamping import stamped
from .structure import ending_in_one_call, first_calls, frozen, signatures_of, with_final_options

logger = logging.getLogger("aiotq.task")

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

    def __init__(self, planner: Planner, message: Message, codec: DocumentCodec) -> None:
        self._planner = planner
        self._message = message
        self._codec = codec
        self._step = message.step or Step()
        self.envelopes: list[Envelope] = []
        self.prevented: list[NeverRan] = []
        self._next: list[str] = []
        self._callbacks: list[str] = []
        self._errbacks: list[str] = []
        self._added: list[str] = []
        #: Workflows that begin here, by the ids that their plans are stored under.
        self.begun: list[tuple[str, Canvas[Any]]] = []
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

    def lineage(self) -> Lineage:
        """Return what the record of the step says of its workflow."""
        sent = (self._callbacks, self._errbacks, self._added)
        return lineage_of_message(self._message, *(tuple(each[:MOST]) for each in sent))

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
                self._begin(frozen(callback), broken, self._beside(), self._errbacks)
            except (EncodeError, MessageTooLarge):  # what the task was called with can't be sent to the callback
                self._try(callback, replace(broken, request=self._request(links, whole=False)), self._errbacks)
            except AioTQError as exc:
                self._cannot_call(callback, exc, self._errbacks)

    def add(self, added: Sequence[Canvas[Any]]) -> None:
        """Let `added` be members of the chord too; sorted by name they are in the order of those who added them."""
        if not added or (chord := self._step.chord_member) is None:
            return
        join, member = chord
        begin = f"+{int(member):08}" if member.isdigit() else member.partition(".")[0]
        when = new_id()
        for at, canvas in enumerate(added):
            self._planner.check(Group[Any]((canvas,)))
            name = f"{begin}.{when}.{at:08}"
            place = replace(self._beside(), join=join, members=(name,), group_id=self._step.group_id)
            plain, incoming, place = as_member(frozen(canvas), NOTHING, place)
            self._begin(plain, incoming, place, self._added)
        self._grown = JoinGrowth(join, len(added))

    def replace(self, canvas: Canvas[Any], links: Links) -> None:
        """Let `canvas` take the step's place, as if it had always stood there.

        Raises:
            AioTQError: it can't be sent.
        """
        message = self._message
        whole = ending_in_one_call(canvas)
        if message.stamps:
            whole = stamped(whole, None, message.stamps, append=True)
        if links.errbacks:
            whole = whole.link_error(*links.errbacks)
        if links.callbacks:
            whole = whole.link(*links.callbacks)
        self._planner.check(whole)
        counts = {"attempt": message.attempt + 1, "replacements": message.replacements + 1}
        whole = frozen(with_final_options(whole, task_id=message.id, **counts))
        rest = links.rest
        if rest and rest[0] == Resume("skip"):
            rest = (Resume("skip", links.given), *rest[1:])
        place = replace(self._inside(rest), is_short=False, parent_id=message.parent_id)
        self._take(self._planner.plan(whole, NOTHING, place), self._next)
        self.begun.append((plan_id(message.id, message.replacements + 1), whole))

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
                if not given and not steps_of(rest) and self._step.is_gated:
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
        if self._step.is_gated:
            members = (passed_on(scope),) if scope else step.members
        else:
            members = (passed_on(scope - 1),) if scope else step.members[:1]
        self._arrivals += [(step.join, member, record, True) for member in members]

    def _kept(self, state: str, result: object) -> Record:
        """Return a record for a join alone."""
        body = self._codec.encode(self._message.id, state, result, done_at=0.0)
        return Record(self._message.id, state, body, self._codec.content_type, 0.0)

    def _try(self, callback: Canvas[Any], incoming: Incoming, sent: list[str]) -> None:
        """Send a callback; one that can't be sent has failed by that, and nobody else has."""
        try:
            self._begin(frozen(callback), incoming, self._beside(), sent)
        except AioTQError as exc:
            self._cannot_call(callback, exc, sent)

    def _cannot_call(self, callback: Canvas[Any], error: AioTQError, sent: list[str]) -> None:
        """Say in the log that a callback can't be sent, and let its calls have failed as children of the step."""
        message = self._message
        logger.error("Task %s[%s]: callback %s can't be sent: %s", message.task, message.id, shown(callback), error)
        with suppress(AioTQError):  # nested too deep to have ids
            whole = frozen(callback)
            self.prevented += [
                NeverRan(str(call.id), states.FAILURE, error, call.task) for call in signatures_of(whole)
            ]
            sent += [str(first.id) for first in first_calls(whole)]

    def _begin(self, whole: Canvas[Any], incoming: Incoming, place: Position, sent: list[str]) -> None:
        """Send a workflow of its own."""
        self._take(self._planner.plan(whole, incoming, place), sent)
        if starts := first_calls(whole):
            self.begun.append((plan_id(starts[0].options["task_id"]), whole))

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
            is_short=fits_inline(len(message.body)) and message.compression is None,  # which holds all of `rest`
            parent_id=message.id,
            root_id=message.root_id or message.id,
            reply_to=message.reply_to,
            join=step.join,
            members=step.members,
            is_gated=step.is_gated,
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
            "attempt": message.runs_before,
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


def lineage_of_message(
    message: Message,
    callbacks: tuple[str, ...] = (),
    errbacks: tuple[str, ...] = (),
    added: tuple[str, ...] = (),
) -> Lineage:
    """Return what the record of the task of `message` says of its workflow, when its end has sent these."""
    root_id = None if message.root_id == message.id else message.root_id
    if root_id is None and not (message.replacements or callbacks or errbacks or added):
        return NO_LINEAGE
    return Lineage(root_id, message.replacements, callbacks, errbacks, added)


def _next(rest: Rest) -> tuple[Canvas[Any], Rest]:
    """Return the first step of `rest`, and what is behind it."""
    at = next(at for at, each in enumerate(rest) if not isinstance(each, Resume))
    return cast("Canvas[Any]", rest[at]), rest[at + 1 :]
