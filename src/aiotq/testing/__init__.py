"""Tests of programs that use aiotq: an app in memory, with the real worker and a clock that jumps.

    async with TestWorker(app) as t:
        await remind.options(countdown=3 * 86_400).delay("ann")
        await t.advance(days=3)
        t.assert_ran(remind, args=("ann",))

Tests that are plain functions have `SyncTestWorker`. The pytest plugin (`aiotq.testing.plugin`) has it as the fixture
`aiotq_worker`; nothing here needs pytest.
"""

from .plain import SyncTestWorker
from .records import Ran, Sent
from .worker import TestWorker

__all__ = ["Ran", "Sent", "SyncTestWorker", "TestWorker"]
