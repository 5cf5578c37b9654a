"""Results of tasks in the project's database (`result_backend = "django-db"`), and what the admin shows."""

# pyright: basic
from __future__ import annotations

from typing import Any

from django.db import models

from ...wire.message import MAX_NAME


class TaskRecord(models.Model):
    """One state of one task: the columns of `aiotq.results.records.Record`, and what people look for."""

    id = models.CharField(primary_key=True, max_length=MAX_NAME, verbose_name="task id")
    state = models.CharField(max_length=MAX_NAME, db_index=True)
    #: Whether it stays.
    is_final = models.BooleanField()
    #: Empty where the result says none, or is in a form that only its app reads.
    task = models.CharField(max_length=MAX_NAME, db_index=True)
    content_type = models.CharField(max_length=MAX_NAME)
    body = models.BinaryField()
    #: Wall time, in seconds.
    expires = models.FloatField(db_index=True)
    reply_to = models.CharField(max_length=MAX_NAME, null=True)
    stored = models.DateTimeField(db_index=True)
    #: By which a writer knows its own row.
    written = models.CharField(max_length=64)

    class Meta:
        verbose_name = "result"
        ordering = ("-stored",)

    def __str__(self) -> str:
        return f"{self.task or 'task'}[{self.id}] {self.state}"


class Schedule(models.Model):
    """Periodic tasks, for the admin; they are kept where the app keeps them, and in no table."""

    name = models.CharField(primary_key=True, max_length=MAX_NAME)

    class Meta:
        managed = False
        default_permissions = ("view", "change")
        permissions = (("operate", "Can operate queues, tasks and workers in the dashboard"),)
        verbose_name = "periodic task"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: `app.schedules` changes them."""
        raise NotImplementedError("periodic tasks are changed by app.schedules")
