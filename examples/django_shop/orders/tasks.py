"""The work; it runs in the worker."""

# Django has no types, and pyright's guesses are none.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
from __future__ import annotations

from django.db.models import F, Sum

from aiotq import shared_task

from .models import Order


@shared_task
def send_receipt(number: int) -> str:
    """Use the ORM as a sync view does; it runs in a thread."""
    Order.objects.filter(pk=number).update(receipts=F("receipts") + 1)
    return f"receipt for {Order.objects.get(pk=number).customer}"


@shared_task
async def ship(number: int) -> int:
    """Use the ORM's coroutines as an async view does; it runs on the worker's loop."""
    order = await Order.objects.aget(pk=number)
    order.is_shipped = True
    await order.asave(update_fields=["is_shipped"])
    await send_report.delay()
    return number


@shared_task(run="process")
def send_report() -> int:
    """Add up all orders in a process of its own, where long computations keep nobody waiting."""
    return Order.objects.aggregate(sum=Sum("amount"))["sum"] or 0
