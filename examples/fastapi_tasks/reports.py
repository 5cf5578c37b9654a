"""The tasks. They get their arguments as models, and the rest from the dependencies that the API has too.

aiotq worker reports:tq
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated

from fastapi import Depends
from pydantic import BaseModel, Field
from request_context import CarriesContext, get_user, request_id

from aiotq import INJECTED, AioTQ, current_task

logger = logging.getLogger(__name__)

# Where it keeps its tasks is a setting: `AIOTQ_BROKER_URL=…`, by default `sqlite:///aiotq.db`.
tq = AioTQ("reports")
tq.add_middleware(CarriesContext())
DATABASE = os.environ.get("REPORTS_DATABASE", "reports.db")


def get_database() -> Iterator[sqlite3.Connection]:
    """A transaction: committed when the route or task has succeeded, otherwise rolled back."""
    database = sqlite3.connect(DATABASE, check_same_thread=False)
    try:
        database.execute("create table if not exists reports (task_id primary key, customer, total, made_for)")
        yield database
        database.commit()
    finally:
        database.close()


# The same in routes and in tasks.
Database = Annotated[sqlite3.Connection, Depends(get_database)]
User = Annotated[str, Depends(get_user)]


class Line(BaseModel):
    name: str
    price: Decimal = Field(gt=0)
    count: int = 1


class Order(BaseModel):
    customer: str
    lines: list[Line]


class Report(BaseModel):
    customer: str
    total: Decimal
    made_for: str


# The default keeps type checkers from asking `report.delay(…)` for what the worker gives.
@tq.task
async def report(order: Order, pause: float = 0, database: Database = INJECTED, user: User = INJECTED) -> Report:
    """Add up an order, line by line, and tell how far it is."""
    total = Decimal(0)
    for done, line in enumerate(order.lines):
        await current_task.update_state("PROGRESS", {"done": done, "of": len(order.lines)})
        total += line.price * line.count
        await asyncio.sleep(pause)
    made = Report(customer=order.customer, total=total, made_for=user)
    # A task may run twice, if its worker dies: what it writes is written under its id.
    database.execute(
        "insert or replace into reports values (?, ?, ?, ?)",
        (current_task.request.id, made.customer, str(made.total), made.made_for),
    )
    await announce.delay(made)
    return made


@tq.task
def announce(made: Report, user: User = INJECTED) -> None:
    """A plain function: it runs in a thread."""
    logger.warning("request %s: a report of %s for %s", request_id.get(), made.customer, user)
