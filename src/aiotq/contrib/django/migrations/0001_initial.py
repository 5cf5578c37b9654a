"""The table of results."""

# pyright: basic
from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="Schedule",
            fields=[("name", models.CharField(max_length=255, primary_key=True, serialize=False))],
            options={
                "verbose_name": "periodic task",
                "managed": False,
                "default_permissions": ("view", "change"),
                "permissions": (("operate", "Can operate queues, tasks and workers in the dashboard"),),
            },
        ),
        migrations.CreateModel(
            name="TaskRecord",
            fields=[
                (
                    "id",
                    models.CharField(max_length=255, primary_key=True, serialize=False, verbose_name="task id"),
                ),
                ("state", models.CharField(db_index=True, max_length=255)),
                ("is_final", models.BooleanField()),
                ("task", models.CharField(db_index=True, max_length=255)),
                ("content_type", models.CharField(max_length=255)),
                ("body", models.BinaryField()),
                ("expires", models.FloatField(db_index=True)),
                ("reply_to", models.CharField(max_length=255, null=True)),
                ("stored", models.DateTimeField(db_index=True)),
                ("written", models.CharField(max_length=64)),
            ],
            options={"verbose_name": "result", "ordering": ("-stored",)},
        ),
    )
