"""Views, sync and async: each sends its tasks in its own way."""

# Django has no types, and pyright's guesses are none.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
from __future__ import annotations

import json

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_GET, require_POST
from shop import app

from . import tasks
from .models import Order


@require_POST
def orders(request: HttpRequest) -> JsonResponse:
    """Take an order; its receipt is sent when the order is certainly there, and never if it is rolled back."""
    given = json.loads(request.body)
    with transaction.atomic():
        order = Order.objects.create(customer=given["customer"], amount=given["amount"])
        tasks.send_receipt.delay_on_commit(order.pk)
        if given["amount"] > 1000:
            transaction.set_rollback(True)
            return JsonResponse({"error": "too much"}, status=422)
    return JsonResponse({"number": order.pk}, status=201)


@require_GET
def order(request: HttpRequest, number: int) -> JsonResponse:
    found = get_object_or_404(Order, pk=number)
    return JsonResponse({"customer": found.customer, "receipts": found.receipts, "is_shipped": found.is_shipped})


async def ship(request: HttpRequest, number: int) -> JsonResponse:
    """Send a task from a coroutine."""
    result = await tasks.ship.delay(number)
    return JsonResponse({"task": result.id}, status=202)


@require_GET
def task(request: HttpRequest, task_id: str) -> JsonResponse:
    """Tell what became of a task."""
    now = app.sync(app.AsyncResult(task_id).look)
    value = now.info if now.state == "SUCCESS" else None
    return JsonResponse({"state": now.state, "value": value})
