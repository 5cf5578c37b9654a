"""What the tests of results over RabbitMQ share: processes that are sent some, and records to send."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aiotq.backends.amqp.address import parse
from aiotq.backends.amqp.bus import AmqpBus
from aiotq.backends.amqp.connection import AmqpClient
from aiotq.backends.amqp.records import RpcRecords
from aiotq.exceptions import OperationalError
from aiotq.results import Record
from aiotq.results.celery_records import JSON
from aiotq.results.in_process import LocalLedger

from ..waiting import wait_until

FAR: Final = 4_000_000_000.0


class Listening:
    """What one process has, and what it was pushed and told of."""

    def __init__(self, records: RpcRecords, ledger: LocalLedger, bus: AmqpBus) -> None:
        self.records = records
        self.ledger = ledger
        self.bus = bus
        self.pushed: list[Record] = []
        self.revoked: list[str] = []
        records.on_push = self.pushed.extend
        ledger.on_revoked = self.revoked.extend

    def states(self) -> list[tuple[str, str]]:
        return [(record.id, record.state) for record in self.pushed]


@asynccontextmanager
async def process(url: str, expires: float = 60) -> AsyncIterator[Listening]:
    async with (
        AmqpClient(parse(url), "test") as client,
        AmqpBus(client) as bus,
        RpcRecords(client, expires=expires) as records,
        LocalLedger(bus) as ledger,
    ):
        yield Listening(records, ledger, bus)


def record(task_id: str, reply_to: str | None, state: str = "SUCCESS", body: bytes = b"{}", kind: str = JSON) -> Record:
    return Record(task_id, state, body, kind, FAR, reply_to)


async def put(store: RpcRecords, records: Sequence[Record]) -> None:
    """Put them, trying again as a committer does."""

    async def accepted() -> bool:
        try:
            await store.put(records)
        except OperationalError:
            return False
        return True

    await wait_until(accepted, "the broker accepts results", timeout=60)
