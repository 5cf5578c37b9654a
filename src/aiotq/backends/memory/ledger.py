"""The ledger in this process, of one step with the records beside it."""

from __future__ import annotations

from ...results.in_process import InProcessLedger
from .bus import MemoryBus
from .records import MemoryRecords
from .state import MemoryState


class MemoryLedger(InProcessLedger):
    """One loop's view of the ledger of a `MemoryState`."""

    def __init__(self, state: MemoryState, bus: MemoryBus, records: MemoryRecords) -> None:
        super().__init__(state.ledger, bus, lock=state.lock, write=state.write_closing, records=records)
        self.state = state
