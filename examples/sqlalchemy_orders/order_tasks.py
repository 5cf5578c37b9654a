"""Tasks with SQLAlchemy: a session for each run, committed when the task has succeeded.

    python order_tasks.py

It runs a worker and its callers in one process. As a service: `aiotq worker order_tasks:tq`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from sqlalchemy import ForeignKey, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload

from aiotq import INJECTED, AioTQ, Depends, Signature

tq = AioTQ("orders")

# An engine connects when it is used first, so a module can have it: the API, the worker and its child processes have
# one each. A worker runs 100 tasks at once by default, and each has a connection of the pool while it runs.
CONCURRENCY = 20
engine = create_async_engine(
    os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///orders.sqlite"), pool_size=CONCURRENCY, max_overflow=0
)
# Without expire_on_commit=False each attribute is read again after a commit, which a coroutine can't do unasked.
new_session = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase): ...


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    total: Mapped[Decimal | None]
    lines: Mapped[list[Line]] = relationship()


class Line(Base):
    __tablename__ = "lines"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    price: Mapped[Decimal]


@dataclass
class Summary:
    """What leaves a task: values, and no object of a session."""

    customer: str
    total: Decimal


@tq.worker_lifespan
async def database() -> AsyncIterator[None]:
    """Have the tables when the worker starts, and close the pool after its last commit."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    try:
        yield
    finally:
        await engine.dispose()


async def get_later() -> AsyncIterator[list[Signature[Any]]]:
    """Calls that are sent once the session is committed: it is opened after this, and so closed before."""
    later: list[Signature[Any]] = []
    yield later
    await tq.send_many(later)


Later = Annotated[list[Signature[Any]], Depends(get_later)]


async def get_session(_before: Later) -> AsyncIterator[AsyncSession]:
    """A transaction: committed when the task has succeeded; rolled back if it fails, or asks for a retry."""
    async with new_session.begin() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]


@tq.task
async def place(customer: str, prices: list[Decimal], session: Session = INJECTED, later: Later = INJECTED) -> int:
    """Store an order, and have it added up: by its id, when it is there to be found."""
    order = Order(customer=customer, lines=[Line(price=price) for price in prices])
    session.add(order)
    await session.flush()  # the database gives it its id
    later.append(add_up.s(order.id))
    return order.id


@tq.task
async def add_up(order_id: int, session: Session = INJECTED) -> Summary:
    """Running again changes nothing: it writes what follows from the order."""
    found = select(Order).where(Order.id == order_id).options(selectinload(Order.lines))
    order = (await session.execute(found)).scalar_one()
    total = order.total = sum((line.price for line in order.lines), Decimal(0))
    return Summary(order.customer, total)


async def main() -> None:
    async with tq, tq.worker(concurrency=CONCURRENCY):
        order_id: int = await (await place.delay("ACME", [Decimal("1.50"), Decimal("3.00")]))
        summary = await (await add_up.delay(order_id))
        print(f"{summary.customer}: {summary.total}")


if __name__ == "__main__":
    asyncio.run(main())
