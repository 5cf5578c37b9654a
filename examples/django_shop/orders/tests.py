"""The project's own tests: `python manage.py test`. Tasks run in memory, in the transaction of the test."""

# Django has no types, and pyright's guesses are none.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
from __future__ import annotations

from django.test import TestCase, TransactionTestCase
from shop import app

from aiotq.contrib.django.testing import SyncTestWorker, TestWorker

from . import tasks
from .models import Order

ANN = {"customer": "ann", "amount": 3}


class Orders(TestCase):
    def test_a_receipt_is_sent_for_an_order(self) -> None:
        with SyncTestWorker(app) as t:
            with self.captureOnCommitCallbacks(execute=True):
                self.client.post("/orders", ANN, "application/json")
            t.idle()

            t.assert_ran(tasks.send_receipt, state="SUCCESS", value="receipt for ann")
            self.assertEqual(Order.objects.get().receipts, 1)

    def test_none_is_sent_for_one_that_is_rolled_back(self) -> None:
        with SyncTestWorker(app) as t:
            with self.captureOnCommitCallbacks(execute=True):
                self.client.post("/orders", {**ANN, "amount": 2000}, "application/json")
            t.idle()

            t.assert_not_sent(tasks.send_receipt)

    def test_coroutines_see_the_transaction_too(self) -> None:
        order = Order.objects.create(**ANN)

        with SyncTestWorker(app) as t:
            self.client.post(f"/orders/{order.pk}/ship")
            t.idle()

            t.assert_ran(tasks.ship, value=order.pk)
            t.assert_sent(tasks.send_report)
        order.refresh_from_db()
        self.assertTrue(order.is_shipped)

    async def test_an_async_test_awaits(self) -> None:
        order = await Order.objects.acreate(**ANN)

        async with TestWorker(app) as t:
            receipt = await tasks.send_receipt.delay(order.pk)
            self.assertEqual(await receipt, "receipt for ann")
            await self.async_client.post(f"/orders/{order.pk}/ship")
            await t.idle()

        await order.arefresh_from_db()
        self.assertTrue(order.is_shipped)


class Committed(TransactionTestCase):
    def test_callbacks_of_the_commit_run_by_themselves(self) -> None:
        with SyncTestWorker(app) as t:
            self.client.post("/orders", ANN, "application/json")
            t.idle()

            t.assert_ran(tasks.send_receipt, value="receipt for ann")
