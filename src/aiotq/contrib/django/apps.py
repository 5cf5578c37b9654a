"""The configuration of the application."""

# pyright: basic
from __future__ import annotations

from django.apps import AppConfig

from . import connections


class AiotqConfig(AppConfig):
    name = "aiotq.contrib.django"
    label = "aiotq"
    verbose_name = "Tasks"
    default_auto_field = "django.db.models.BigAutoField"  # pyright: ignore[reportAssignmentType]

    def ready(self) -> None:
        """Look after the database connections of tasks that run in this process."""
        connections.install()
