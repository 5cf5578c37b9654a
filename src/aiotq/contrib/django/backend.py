"""`django-db`: results in the database of the Django project, as django-celery-results names it."""

# pyright: basic
from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from django.apps import apps

from ...backends.base import Backend, BackendContext
from ...core import django_project
from ...exceptions import InvalidSetting

if TYPE_CHECKING:
    from .records import DjangoRecords

_NAME = "aiotq.contrib.django"


class DjangoBackend(Backend):
    """Records through the ORM; the broker decides for all workers and pushes."""

    has_ledger = False

    def __init__(self, url: str, context: BackendContext) -> None:
        self.key(url)
        django_project.set_up()
        if not apps.is_installed(_NAME):
            raise InvalidSetting("result_backend", url, f'usable: add "{_NAME}" to INSTALLED_APPS, and migrate')
        self.records = _records(context)

    @classmethod
    def key(cls, url: str) -> Hashable:
        if url.partition("://")[2]:
            raise ValueError("django-db takes no more: the database is that of DATABASES, or what a router says")
        return "django-db"


def _records(context: BackendContext) -> DjangoRecords:
    from .records import DjangoRecords  # noqa: PLC0415  # models can be imported when the project is set up

    return DjangoRecords(clock=context.clock)
