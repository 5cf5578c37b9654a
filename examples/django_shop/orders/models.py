"""What the shop remembers."""

# Django has no types, and pyright's guesses are none.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
from __future__ import annotations

from django.db import models


class Order(models.Model):
    customer = models.CharField(max_length=100)
    amount = models.PositiveIntegerField()
    receipts = models.PositiveIntegerField(default=0)
    is_shipped = models.BooleanField(default=False)
