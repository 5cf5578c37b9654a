"""How a run ended, as a value. Whatever a task does becomes one of these; nothing leaves execution as an exception.

`Replace`, which a task raises to be replaced, stands here too. Each outcome has the `state` of the call after it; the
`error` that a caller gets; `retval`, the value that the task returned or raised; `is_reported`: whether observers hear
of it as an end (not of a task that was skipped, or that comes again without having run).
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from .. import states
from ..core.values import value
from ..exceptions import DeadLettered, TaskIgnored, TaskPredicate, TaskRevokedError
from ..results import Record
from ..transport.broker import Delivery
from ..wire.message import Envelope
from .links import NO_LINKS, Links
from .serialized import as_canvas, as_form
from .signature import Canvas

#: Reasons of a dead letter whose workflow is not followed: anybody may have written it.
UNTRUSTED: Final = frozenset({"unsigned", "bad_signature"})

#: States of which no caller ever hears: only hooks and tests do.
REJECTED: Final = "REJECTED"
REPLACED: Final = "REPLACED"
#: The state in which a flow is stored that waits for its steps, its sleeps and its events.
WAITING: Final = "WAITING"


class Replace(TaskPredicate):
    """The task is to go on as `canvas`, in its place; made by `self.replace(...)`."""

    def __init__(self, canvas: Canvas[Any]) -> None:
        self.canvas = canvas
        super().__init__(f"replaced by {canvas!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _of_form, (as_form(self.canvas),)


def _of_form(form: dict[str, Any]) -> Replace:
    return Replace(as_canvas(form))


class Park(TaskPredicate):
    """A flow waits: its run ends, and messages will wake it. Raised by its own code alone.

    `said` is stored of it (None: nothing). It waits `until` a wall time, as far as that is known. `released` are joins
    that it has read, `children` the ids of its steps.
    """

    def __init__(
        self, said: Any = None, until: float = 0.0, released: tuple[str, ...] = (), children: tuple[str, ...] = ()
    ) -> None:
        self.said, self.until, self.released, self.children = said, until, released, children
        super().__init__(said, until, released, children)


@value
class Policy:
    """Whether the outcome is kept, as the task and its call say."""

    ignore_result: bool = False
    keeps_errors: bool = False  #: although results are ignored


@value
class Success:
    """The task returned `value`."""

    state: ClassVar[str] = states.SUCCESS
    is_reported: ClassVar[bool] = True
    error: ClassVar[None] = None
    delivery: Delivery
    value: Any
    policy: Policy
    children: tuple[str, ...] = ()  #: ids of the calls it made
    links: Links = NO_LINKS
    added: tuple[Canvas[Any], ...] = ()  #: members that it added to the join it belongs to

    @property
    def retval(self) -> Any:
        return self.value


@value
class Retried:
    """The task is to run again: as `again`, the same id with the next attempt. `error` is why."""

    state: ClassVar[str] = states.RETRY
    is_reported: ClassVar[bool] = True
    delivery: Delivery
    error: BaseException
    again: Envelope
    policy: Policy

    @property
    def retval(self) -> Any:
        return self.error


@value
class Ignored:
    """The task asked to be ignored: it has neither a value nor an error of its own."""

    state: ClassVar[str] = states.IGNORED
    is_reported: ClassVar[bool] = True
    retval: ClassVar[Any] = None
    delivery: Delivery
    policy: Policy
    links: Links = NO_LINKS

    @property
    def error(self) -> TaskIgnored:
        """The exception that a caller who awaits it gets."""
        message = self.delivery.message
        return TaskIgnored(f"task {message.task}[{message.id}] asked to be ignored: it has no result")


@value
class Failure:
    """The task raised `error`, or could not be run to its end because of it."""

    state: ClassVar[str] = states.FAILURE
    is_reported: ClassVar[bool] = True
    delivery: Delivery
    error: BaseException
    policy: Policy
    links: Links = NO_LINKS
    children: tuple[str, ...] = ()  #: ids of the calls it made

    @property
    def retval(self) -> Any:
        return self.error


@value
class Skipped:
    """The task was not run: the join it awaited failed by `error`, and ended in `state`, before its turn came.

    `cause` is the record of the task that failed.
    """

    is_reported: ClassVar[bool] = False
    delivery: Delivery
    error: BaseException
    state: str
    policy: Policy
    links: Links = NO_LINKS
    cause: Record | None = None

    @property
    def retval(self) -> Any:
        return self.error


@value
class Postponed:
    """The task is to start later than its message came: as `again`."""

    state: ClassVar[str] = states.PENDING
    is_reported: ClassVar[bool] = False
    error: ClassVar[None] = None
    retval: ClassVar[Any] = None
    delivery: Delivery
    again: Envelope


@value
class Replaced:
    """The task is to go on as `canvas`, in its place."""

    state: ClassVar[str] = REPLACED
    is_reported: ClassVar[bool] = True
    error: ClassVar[None] = None
    retval: ClassVar[Any] = None
    delivery: Delivery
    canvas: Canvas[Any]
    policy: Policy
    links: Links = NO_LINKS


@value
class Revoked:
    """The task was not to be run (any more)."""

    state: ClassVar[str] = states.REVOKED
    is_reported: ClassVar[bool] = True
    retval: ClassVar[Any] = None
    delivery: Delivery
    reason: str
    policy: Policy
    links: Links = NO_LINKS

    @property
    def error(self) -> TaskRevokedError:
        """The exception that a caller who awaits it gets."""
        return TaskRevokedError(self.reason)


@value
class Rejected:
    """No worker can run the message: it becomes a dead letter, and callers that wait get an error."""

    state: ClassVar[str] = REJECTED
    is_reported: ClassVar[bool] = True
    retval: ClassVar[Any] = None
    delivery: Delivery
    reason: str
    detail: str
    links: Links = NO_LINKS

    @property
    def error(self) -> DeadLettered:
        """The exception that a caller who awaits it gets."""
        return DeadLettered(f"{self.reason}: {self.detail}")


@value
class Parked:
    """The task, a flow, waits for what will wake it: nothing ended."""

    state: ClassVar[str] = states.PENDING
    is_reported: ClassVar[bool] = False
    error: ClassVar[None] = None
    retval: ClassVar[Any] = None
    delivery: Delivery
    asked: Park
    policy: Policy


@value
class Returned:
    """The task was not run to its end and may be run again by anybody, `delay` seconds from now."""

    state: ClassVar[str] = states.PENDING
    is_reported: ClassVar[bool] = False
    error: ClassVar[None] = None
    retval: ClassVar[Any] = None
    delivery: Delivery
    delay: float = 0.0


Outcome = (
    Success | Retried | Ignored | Failure | Skipped | Postponed | Replaced | Revoked | Rejected | Parked | Returned
)
