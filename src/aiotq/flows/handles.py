"""`app.flows`: flows that are under way, told something and looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ..core.values import replace, shown, value
from ..exceptions import FlowEnded, FlowNotFound, InvalidOption, StoreRequired
from ..results import ScheduleRow
from ..results.record_names import flow_row
from ..states import PENDING, is_ready
from ..wire.message import Envelope, is_name
from ..wire.signing import sealed
from .journal import BY_SIGNAL, MAX_SIZE, TO_REVOKE, Journal, Signal, unpacked
from .writing import change_of, full, joins_of, written

if TYPE_CHECKING:
    from ..calling.connection import Connection
    from ..calling.core import AppCore

#: Bytes of the id of a signal, which is remembered as long as the flow is.
_LONGEST_ID: Final = 200


@value
class Part:
    """A step, sleep or event of a flow. `state`: "waits", or what came: "ended", "failed", "due", "signal"."""

    kind: str
    name: str
    state: str
    due: float | None = None  #: wall time at which a sleep or the wait for an event ends
    task_id: str | None = None  #: of the call of a step


@value
class FlowState:
    """What the journal of a flow says: `parts` in the order in which it asked for them, and signals not yet taken."""

    id: str
    task: str
    state: str  #: that of its result
    parts: Sequence[Part]
    signals: Sequence[str]
    size: int  #: of its journal, in bytes


class Flows:
    """The flows of an app: `await app.flows.signal(result.id, "shipped", {"at": "noon"})`."""

    def __init__(self, core: AppCore) -> None:
        self._core = core

    async def signal(self, flow_id: str, name: str, value: Any = None, *, signal_id: str | None = None) -> None:
        """Give a flow the value that its next `ctx.event(name)` returns; one that comes early is kept.

        With a `signal_id` it counts once, however often it is sent.

        Raises:
            FlowNotFound: no flow of this id is known (a step of a workflow: before it begins), or it is forgotten.
            FlowEnded: it has ended, or is revoked.
            JournalFull: too much is kept for it.
            InvalidOption, EncodeError: the name, the id or the value can't be sent.
            OperationalError: broker or ledger can't be reached; sending it again with its `signal_id` is safe.
        """
        if not is_name(name):
            raise InvalidOption(f"a signal's name is text of 1 to 255 printable characters, not {shown(name)}")
        if signal_id is not None and not (is_name(signal_id) and len(signal_id.encode()) <= _LONGEST_ID):
            raise InvalidOption(f"signal_id must be text of 1 to {_LONGEST_ID} bytes, not {shown(signal_id)}")
        codec = self._core.codec
        accepted = Signal(name, codec.chunk_content_type, codec.encode_chunk(value))
        while True:
            connection, row, journal = await self._read(flow_id)
            if signal_id is not None and signal_id in journal.heard and not row.unsent:
                return
            number = journal.event_for(name)
            wakes = () if number is None else (journal.wake(number, BY_SIGNAL),)
            if signal_id is None or signal_id not in journal.heard:
                heard = journal.heard if signal_id is None else (*journal.heard, signal_id)
                journal = replace(journal, signals=(*journal.signals, accepted), heard=heard)
            if await self._write(connection, row, journal, wakes):
                return

    async def revoke(self, flow_id: str) -> None:
        """End a flow as REVOKED, now; steps of it that have not started are revoked too.

        Raises:
            FlowNotFound, FlowEnded: as `signal`.
        """
        while True:
            connection, row, journal = await self._read(flow_id)
            revoked = replace(journal, is_revoked=True)
            if await self._write(connection, row, revoked, (revoked.wake(0, TO_REVOKE),)):
                return

    async def show(self, flow_id: str) -> FlowState:
        """Return what the journal of a flow says, as long as its result is kept; raises `FlowNotFound`."""
        connection, row, journal = await self._found(flow_id)
        came = {each.number: each for each in journal.history}
        parts: list[Part] = []
        for number, asked in enumerate(journal.asked):
            state = "waits"
            if number in came:
                is_failed = came[number].how == "ended" and came[number].state != "SUCCESS"
                state = "failed" if is_failed else came[number].how
            task_id = journal.step_id(number) if asked.kind == "step" else None
            parts.append(Part(asked.kind, asked.name, state, asked.due, task_id))
        state = await self._state(connection, flow_id) or PENDING
        signals = [each.name for each in journal.signals]
        return FlowState(flow_id, journal.message.task, state, parts, signals, len(row.body))

    async def _read(self, flow_id: str) -> tuple[Connection, ScheduleRow, Journal]:
        """Return the journal of a flow that goes on."""
        connection, row, journal = await self._found(flow_id)
        state = await self._state(connection, flow_id)
        if journal.ended_by is not None or journal.is_revoked or (state is not None and is_ready(state)):
            raise FlowEnded(f"flow {journal.message.task}[{flow_id}] has ended: {state or 'its end is being written'}")
        return connection, row, journal

    async def _found(self, flow_id: str) -> tuple[Connection, ScheduleRow, Journal]:
        connection = await self._core.connection()
        if not connection.ledger.has_joins:
            raise StoreRequired(
                "flows need a store that all workers share: set result_backend or ledger to a redis://, postgresql:// "
                "or sqlite:// URL"
            )
        rows = await connection.ledger.keys([flow_row(flow_id)])
        if not rows:
            raise FlowNotFound(
                f"no flow {shown(flow_id)} is known: none was sent with this id, or it is a step of a workflow and has "
                "not begun yet, or its result has expired"
            )
        return connection, rows[0], unpacked(rows[0].body)

    async def _state(self, connection: Connection, flow_id: str) -> str | None:
        if not connection.keeps_results:
            return None
        (record,) = await connection.records.get([flow_id])
        return None if record is None else record.state

    async def _write(
        self, connection: Connection, row: ScheduleRow, journal: Journal, wakes: Sequence[Envelope]
    ) -> bool:
        """Write the journal and send what wakes the flow, in one step; False: somebody else wrote meanwhile."""
        conf = self._core.conf
        over = max(conf.result_expires, conf.join_timeout)
        change = change_of(journal, row.mark, over if journal.is_revoked else journal.lasts(self._core.now()))
        if len(change.body) > MAX_SIZE:
            raise full(journal, len(change.body))
        envelopes = [*row.unsent, *(sealed(self._core.signer, each) for each in wakes)]
        joins = joins_of(self._core, journal) if row.unsent else ()
        return await written(connection, change, envelopes, joins)
