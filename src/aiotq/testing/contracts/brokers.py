"""The contract of brokers, as tests that you run against yours.

    from aiotq.testing.contracts.brokers import BrokerContract, BrokerHarness

    class MyHarness(BrokerHarness):
        @asynccontextmanager
        async def connected(self):
            async with MyBroker("my://localhost") as broker:
                yield broker

    class TestMyBroker(BrokerContract):
        @pytest.fixture
        async def broker(self):
            async with MyHarness() as harness:
                yield harness

A broker that knows leases, and each message by its id (`Broker.counts_deaths`), runs `FencingContract` too; its harness
says `is_fencing`. `RawContract` (fixture `raw_broker`) is for brokers that keep bytes; `LawContract` in `broker_laws`
(fixture `make_broker`) needs hypothesis.
"""

from .broker_harness import BrokerHarness, MakeBroker, RawBrokerHarness
from .broker_leases import DeathContract, LeaseContract, RenewalContract
from .broker_letters import DeadLetterContract, StatsContract
from .broker_order import HurryContract, OrderContract
from .broker_reads import DelayContract, IdempotenceContract, RawContract, RepetitionContract, WaitingContract

__all__ = [
    "BrokerContract",
    "BrokerHarness",
    "DeadLetterContract",
    "DeathContract",
    "DelayContract",
    "FencingContract",
    "HurryContract",
    "IdempotenceContract",
    "LeaseContract",
    "MakeBroker",
    "OrderContract",
    "RawBrokerHarness",
    "RawContract",
    "RenewalContract",
    "RepetitionContract",
    "StatsContract",
    "WaitingContract",
]


class BrokerContract(
    OrderContract,
    WaitingContract,
    DelayContract,
    HurryContract,
    RepetitionContract,
    LeaseContract,
    DeadLetterContract,
):
    """All that every broker keeps."""


class FencingContract(IdempotenceContract, RenewalContract, DeathContract, StatsContract):
    """What those keep beside, that know leases, and each message by its id."""
