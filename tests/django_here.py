"""A Django project in this process: a database file, the application of aiotq, the admin; made when asked for."""

from __future__ import annotations

import atexit
import importlib.util
import tempfile
from functools import cache
from typing import Any, Final

import django
from asgiref.sync import SyncToAsync
from django.conf import settings
from django.core.management import call_command

from aiotq.core import surroundings

#: Of the database.
_FOLDER: Final = tempfile.TemporaryDirectory(prefix="aiotq-django-")


@cache
def set_up() -> None:
    """Configure Django and make its tables, once."""
    configure()
    call_command("migrate", verbosity=0)
    close()


@cache
def configure() -> None:
    """Configure Django, once."""
    atexit.register(_FOLDER.cleanup)
    settings.configure(
        SECRET_KEY="for tests only",
        USE_TZ=True,
        ALLOWED_HOSTS=["testserver"],
        INSTALLED_APPS=[
            "django.contrib.admin",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.messages",
            "django.contrib.sessions",
            "aiotq.contrib.django",
            *(() if importlib.util.find_spec("django.tasks") else ("django_tasks",)),
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        STATIC_URL="static/",
        ROOT_URLCONF="tests.django_urls",
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": f"{_FOLDER.name}/django.sqlite3",
                "OPTIONS": {"timeout": 20},
            }
        },
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        TASKS={"default": {"BACKEND": "aiotq.contrib.django.tasks_backend.AiotqBackend", "QUEUES": []}},
    )
    django.setup()
    surroundings.install(None)  # other tests of this process have no project; those of this one's say so


def start_thread() -> None:
    """Start the thread of `sync_to_async` outside of requests and tasks, which stays as long as the process."""
    SyncToAsync.single_thread_executor.submit(int).result()


def close() -> None:
    """Close the connections of this thread."""
    from django.db import connections  # noqa: PLC0415  # not before it is configured

    connections.close_all()


def empty() -> None:
    """Delete all results."""
    set_up()
    from aiotq.contrib.django.models import TaskRecord  # noqa: PLC0415  # the same

    model: Any = TaskRecord
    model.objects.all().delete()
    close()
