"""A project as Django makes one: its tasks are found, use its models, and are called after a commit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, Final

import pytest

from aiotq import AioTQ
from aiotq.exceptions import CallError, InvalidOption

FILES: Final = {
    "proj/__init__.py": "from .celery import app",
    "proj/settings.py": """
SECRET_KEY = "for tests only"
INSTALLED_APPS = ["django.contrib.contenttypes", "shop.apps.ShopConfig", "empty", "aiotq.contrib.django"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "django.db"}}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
CELERY_BROKER_URL = "sqlite:///queue.db"
CELERY_RESULT_BACKEND = "django-db"
""",
    "proj/celery.py": """
import os

from aiotq import AioTQ

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")
app = AioTQ("proj")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
""",
    "empty/__init__.py": "",
    "shop/__init__.py": "",
    "shop/apps.py": """
from django.apps import AppConfig


class ShopConfig(AppConfig):
    name = "shop"
""",
    "shop/models.py": """
from django.db import models


class Order(models.Model):
    name = models.CharField(max_length=20)
""",
    "shop/tasks.py": """
from aiotq import shared_task

from .models import Order


@shared_task
def count():
    return Order.objects.count()


@shared_task(run="process")
def count_in_a_process():
    return Order.objects.count()
""",
    "run.py": """
import asyncio
import json

from aiotq.exceptions import CallError
from proj.celery import app


async def work():
    async with app, app.worker():
        from shop.tasks import count, count_in_a_process

        told["counted"] = [await (await task.delay()).get(timeout=20) for task in (count, count_in_a_process)]


def buy():
    from django.db import transaction
    from shop.tasks import count

    with transaction.atomic():
        count.delay_on_commit()
        count.apply_async_on_commit(queue="later")
        told["inside"] = waiting()
    told["after"] = waiting()
    try:
        with transaction.atomic():
            count.delay_on_commit()
            raise ZeroDivisionError
    except ZeroDivisionError:
        told["rolled back"] = waiting()
    for wrong in ({"args": (1,)}, {"colour": "red"}):
        try:
            count.apply_async_on_commit(**wrong)
        except CallError as exc:
            told.setdefault("wrong", []).append(type(exc).__name__)


async def buy_in_a_coroutine():
    from asgiref.sync import sync_to_async
    from django.db import transaction
    from shop.tasks import count

    try:
        count.delay_on_commit()
    except CallError as exc:
        told["in a coroutine"] = str(exc)
    atomic = transaction.atomic()
    await sync_to_async(atomic.__enter__)()
    await sync_to_async(count.delay_on_commit)()
    told["inside, in a coroutine"] = await ask()
    await sync_to_async(atomic.__exit__)(None, None, None)
    told["after, in a coroutine"] = await ask()


def waiting():
    return app.sync(ask)


async def ask():
    return {queue.name: queue.ready for queue in await app.admin.queues() if queue.ready}


def make_tables():
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", run_syncdb=True, verbosity=0)


if __name__ == "__main__":
    told = {}
    app.load_tasks()
    told["tasks"] = sorted(name for name in app.tasks if name.startswith("shop"))
    make_tables()
    asyncio.run(work())
    buy()
    asyncio.run(buy_in_a_coroutine())
    print(json.dumps(told))
""",
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the project's program says."""
    directory = tmp_path_factory.mktemp("django")
    for name, text in FILES.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    path = os.pathsep.join([str(directory), *filter(None, [os.environ.get("PYTHONPATH")])])
    said = subprocess.run(
        [sys.executable, "run.py"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    return {**json.loads(said.stdout), "on stderr": said.stderr}


def test_tasks_of_the_installed_apps_are_found(told: dict[str, Any]) -> None:
    assert told["tasks"] == ["shop.tasks.count", "shop.tasks.count_in_a_process"]


def test_tasks_use_models_also_in_child_processes(told: dict[str, Any]) -> None:
    assert told["counted"] == [0, 0]


def test_calls_are_sent_when_the_transaction_is_committed(told: dict[str, Any]) -> None:
    assert told["inside"] == {}
    assert told["after"] == {"default": 1, "later": 1}


def test_a_coroutine_has_the_transactions_thread_register_them(told: dict[str, Any]) -> None:
    assert "await sync_to_async(shop.tasks.count.delay_on_commit)(…)" in told["in a coroutine"]
    assert told["inside, in a coroutine"] == told["after"]
    assert told["after, in a coroutine"] == {"default": 2, "later": 1}


def test_calls_are_not_sent_when_it_is_rolled_back(told: dict[str, Any]) -> None:
    assert told["rolled back"] == told["after"]


def test_a_script_that_called_tasks_ends_without_a_word(told: dict[str, Any]) -> None:
    assert "Exception ignored" not in told["on stderr"]


def test_what_can_t_be_called_is_refused_where_it_is_asked_for(told: dict[str, Any]) -> None:
    assert told["wrong"] == ["InvalidArguments", "InvalidOption"]


def test_without_a_project_packages_have_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)

    with pytest.raises(InvalidOption, match="name the packages"):
        AioTQ().autodiscover_tasks()


def test_without_django_a_call_that_waits_for_a_commit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("django", "django.db", "django.db.transaction"):  # another test may have loaded it
        monkeypatch.setitem(sys.modules, module, None)
    app = AioTQ()

    @app.task(name="django.nothing")
    def nothing() -> None: ...

    with pytest.raises(CallError, match="needs Django"):
        nothing.delay_on_commit()
