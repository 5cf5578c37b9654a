"""The table of orders."""

# Django has no types, and pyright's guesses are none.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("customer", models.CharField(max_length=100)),
                ("amount", models.PositiveIntegerField()),
                ("receipts", models.PositiveIntegerField(default=0)),
                ("is_shipped", models.BooleanField(default=False)),
            ],
        ),
    )
