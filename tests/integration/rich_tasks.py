"""A task for a process, which takes and gives what JSON does not have."""

from __future__ import annotations

import dataclasses
import decimal

from aiotq import AioTQ

app = AioTQ("rich", broker="memory://")


@dataclasses.dataclass
class Amount:
    value: decimal.Decimal


@app.task(run="process")
def double(amount: Amount) -> tuple[Amount, set[int]]:
    return Amount(amount.value * 2), {1}
