"""Database connections of tasks in a Django project: how many are open, and for how long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, cast

import django
import pytest

from tests.servers import shared_postgres

FILES: Final = {
    "proj/__init__.py": "from .aiotq import app",
    "proj/settings.py": """
import json
import os

SECRET_KEY = "for tests only"
INSTALLED_APPS = ["shop"]
DATABASES = json.loads(os.environ["PROJ_DATABASES"])
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = True
""",
    "proj/aiotq.py": """
import os

from aiotq import AioTQ

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")
app = AioTQ("proj", broker="memory://")
app.autodiscover_tasks()
""",
    "shop/__init__.py": "",
    "shop/models.py": """
from django.db import models


class Order(models.Model):
    name = models.CharField(max_length=20)
""",
    "shop/tasks.py": """
from __future__ import annotations

import asyncio
import os
import threading

from django.db import connections

from aiotq import shared_task

from .models import Order

together = threading.Barrier(4)
at_once = asyncio.Barrier(4)


def opened():
    files = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            files.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass
    return sum(file.endswith("django.db") for file in files)


@shared_task
def in_a_thread():
    together.wait(20)
    Order.objects.count()
    together.wait(20)
    found = opened()
    together.wait(20)
    return found


@shared_task
async def in_a_coroutine():
    await at_once.wait()
    await Order.objects.acount()
    await at_once.wait()
    found = opened()
    await at_once.wait()
    return found


@shared_task(run="process")
def in_a_process():
    before = opened()
    Order.objects.count()
    return before, opened()


@shared_task(run="process")
async def coroutine_in_a_process():
    before = opened()
    await Order.objects.acount()
    return before, opened()


@shared_task
def count():
    return Order.objects.count()


@shared_task
def ask_the_pool():
    with connections["pooled"].cursor() as cursor:
        cursor.execute("SELECT 42")
        return cursor.fetchone()[0]


@shared_task
async def idle():
    return "no database"
""",
}

MAIN: Final = """
import asyncio
import json
import sys

import django
from proj import app


async def values(task, times):
    results = [await task.delay() for _ in range(times)]
    return [await result.get(timeout=30) for result in results]


async def main():
    from shop import tasks

    told = {{}}
    async with app, app.worker(concurrency=4, processes=1):
        {body}
    print(json.dumps(told))


def make_tables():
    from django.core.management import call_command
    from django.db import connections

    call_command("migrate", run_syncdb=True, verbosity=0)
    connections.close_all()


if __name__ == "__main__":
    django.setup()
    make_tables()
    asyncio.run(main())
"""

COUNT: Final = """
        for task in (tasks.in_a_thread, tasks.in_a_coroutine):
            told[task.__name__] = [max(await values(task, 4)), tasks.opened()]
        for task in (tasks.in_a_process, tasks.coroutine_in_a_process):
            told[task.__name__] = await values(task, 2)
        await values(tasks.idle, 4)
        told["in the end"] = tasks.opened()
"""

BREAK: Final = """
        import psycopg

        told["first"] = [await values(task, 1) for task in (tasks.count, tasks.ask_the_pool)]
        with psycopg.connect(sys.argv[1], autocommit=True) as other:
            theirs = "FROM pg_stat_activity WHERE application_name = 'tasks'"
            told["kept"] = other.execute(f"SELECT count(*) {theirs}").fetchone()[0]
            theirs = "FROM pg_stat_activity WHERE application_name LIKE '%tasks'"
            other.execute(f"SELECT pg_terminate_backend(pid) {theirs}").fetchall()
            told["then"] = [await values(task, 2) for task in (tasks.count, tasks.ask_the_pool)]
            theirs = "FROM pg_stat_activity WHERE application_name = 'tasks'"
            told["still"] = other.execute(f"SELECT count(*) {theirs}").fetchone()[0]
"""


def said(
    directory: Path, database: dict[str, Any], body: str, *arguments: str, **others: dict[str, Any]
) -> dict[str, Any]:
    """What the project's program tells."""
    for name, text in FILES.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    (directory / "run.py").write_text(MAIN.format(body=body.strip()))
    path = os.pathsep.join([str(directory), *filter(None, [os.environ.get("PYTHONPATH")])])
    ran = subprocess.run(
        [sys.executable, "-W", "error", "run.py", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path, "PROJ_DATABASES": json.dumps({"default": database, **others})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr
    return dict(json.loads(ran.stdout))


def sqlite(**more: Any) -> dict[str, Any]:
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": "django.db", **more}


def test_connections_are_closed_with_their_tasks(tmp_path: Path) -> None:
    assert said(tmp_path, sqlite(), COUNT) == {
        "in_a_thread": [4, 0],
        "in_a_coroutine": [4, 0],
        "in_a_process": [[0, 1], [0, 1]],
        "coroutine_in_a_process": [[0, 1], [0, 1]],
        "in the end": 0,
    }


def test_those_of_threads_and_processes_are_kept_as_long_as_the_project_says(tmp_path: Path) -> None:
    told = said(tmp_path, sqlite(CONN_MAX_AGE=60), COUNT)

    assert told["in_a_thread"] == [4, 4]
    assert told["in_a_coroutine"] == [8, 4]  # beside those of threads
    assert told["in_a_process"] == [[0, 1], [1, 1]]
    assert told["in the end"] <= 4


@pytest.mark.timeout(60)
def test_one_that_broke_is_replaced_before_the_next_task_also_in_a_pool(tmp_path: Path) -> None:
    server = shared_postgres()
    name = f"django_{os.urandom(4).hex()}"
    server.ask(f"create database {name}")
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "HOST": "127.0.0.1",
        "PORT": server.port,
        "USER": "aiotq",
        "CONN_HEALTH_CHECKS": True,
    }
    kept = {**database, "CONN_MAX_AGE": None, "OPTIONS": {"application_name": "tasks"}}
    pool = {"pool": {"min_size": 1}} if cast("tuple[int, ...]", django.VERSION[:2]) >= (5, 1) else {}
    pooled = {**database, "OPTIONS": {"application_name": "pooled tasks", **pool}}

    told = said(tmp_path, kept, BREAK, server.url, pooled=pooled)

    assert told == {"first": [[0], [42]], "kept": 1, "then": [[0, 0], [42, 42]], "still": told["still"]}
    assert 1 <= told["still"] <= 2
