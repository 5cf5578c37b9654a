"""The contract of record stores, as tests that you run against yours.

    from aiotq.testing.contracts import PushContract, RecordContract, StoreHarness

    class TestMyRecords(RecordContract, PushContract):
        @pytest.fixture
        async def results(self):
            async with StoreHarness(lambda clock: MyRecords("my://localhost", clock=clock)) as harness:
                yield harness

They need pytest and what runs coroutines as tests, such as pytest-asyncio with `asyncio_mode = "auto"`.
`docs/guides/stores.md` in the sources says how a store is written.
"""

from .finished import FinishedContract
from .harness import KeptHarness, StoreHarness
from .records import PushContract, RecordContract, WatchContract

__all__ = ["FinishedContract", "KeptHarness", "PushContract", "RecordContract", "StoreHarness", "WatchContract"]
