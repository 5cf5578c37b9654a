"""Results in a Django project's database, and its admin pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, cast

import httpx
import pytest
from asgiref.sync import sync_to_async

from aiotq import AioTQ
from aiotq.beat.schedules import interval
from aiotq.exceptions import InvalidSetting, OperationalError
from tests import django_here
from tests.waiting import wait_until

WORD: Final = "secret"


@pytest.fixture(scope="module", autouse=True)
def _project() -> None:
    django_here.set_up()
    django_here.start_thread()


@pytest.fixture
async def app() -> AsyncIterator[AioTQ]:
    """An app whose results are in the project's database, with a worker."""
    await asyncio.to_thread(django_here.empty)
    app = AioTQ("shop", broker="memory://", backend="django-db", task_track_started=True)

    @app.task(name="shop.add")
    async def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="shop.fail")
    def fail() -> None:
        raise ValueError("no luck")

    app.add_periodic_task(interval(3600), add.s(1, 2), name="hourly")
    async with app, app.worker(), app.beat():
        yield app
    await asyncio.to_thread(app._core.bridge.stop)


async def test_outcomes_are_rows(app: AioTQ) -> None:
    result = await app.send_task("shop.add", (2, 2))

    assert await result.get(timeout=10) == 4
    rows = await asyncio.to_thread(_rows)
    assert rows == [(result.id, "shop.add", "SUCCESS", True)]
    await result.forget()
    assert await asyncio.to_thread(_rows) == []


def _rows() -> list[Any]:
    from aiotq.contrib.django.models import TaskRecord  # noqa: PLC0415  # needs a configured project

    try:
        model: Any = TaskRecord
        return list(model.objects.values_list("id", "task", "state", "is_final"))
    finally:
        django_here.close()


def test_what_it_can_t_be_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="takes no more"):
        AioTQ(broker="memory://", backend="django-db://elsewhere").sync(_connect, "django-db://elsewhere")


async def _connect(backend: str) -> None:
    async with AioTQ(broker="memory://", backend=backend):
        pass


async def test_a_database_that_is_out_of_reach_is_told_in_our_words() -> None:
    from django.db import connections  # noqa: PLC0415  # needs a configured project

    from aiotq.contrib.django.records import DjangoRecords  # noqa: PLC0415  # the same

    settings: Any = cast("Any", connections).settings["default"]
    name, settings["NAME"] = settings["NAME"], "/nowhere/django.sqlite3"
    try:
        async with DjangoRecords() as records:
            with pytest.raises(OperationalError, match="unable to open"):
                await records.get(["a"])
            settings["NAME"] = name
            assert list(await records.get(["a"])) == [None]  # it makes another connection by itself
    finally:
        settings["NAME"] = name


async def test_the_admin_shows_results_and_periodic_tasks(app: AioTQ) -> None:
    good, bad = await app.send_task("shop.add", (2, 2)), await app.send_task("shop.fail")
    assert await good.get(timeout=10) == 4
    assert isinstance(await bad.get(timeout=10, propagate=False), ValueError)

    pages = await sync_to_async(_look)(good.id, bad.id)

    assert "shop.add" in pages["list"]
    assert "FAILURE" in pages["list"]
    assert ">4<" in pages["good"].replace("\n", "")
    assert "ValueError: no luck" in pages["bad"]
    assert "hourly" in pages["schedules"]
    assert "Pause" in pages["schedules"]
    assert "Resume" in pages["paused"]
    assert pages["refused"] == 403
    assert pages["nobody"] == 302

    async def fired() -> bool:
        return (await asyncio.to_thread(_rows)).count("SUCCESS") > 1 or len(await asyncio.to_thread(_rows)) > 2

    await wait_until(fired, "the periodic task was fired")


def _look(good: str, bad: str) -> dict[str, Any]:
    """Look at the pages as a user with all rights, as one who may only look, and as nobody."""
    from django.contrib.auth.models import Permission, User  # noqa: PLC0415  # needs a configured project
    from django.test import Client  # noqa: PLC0415  # the same

    User.objects.all().delete()
    User.objects.create_superuser("ann", password=WORD)
    looker = User.objects.create_user("bob", password=WORD, is_staff=True)
    looker.user_permissions.add(Permission.objects.get(codename="view_schedule"))
    try:
        client: Any = Client()
        nobody = client.get("/admin/aiotq/schedule/").status_code
        assert client.login(username="ann", password=WORD)
        pages: dict[str, Any] = {
            "nobody": nobody,
            "list": client.get("/admin/aiotq/taskrecord/?q=shop").content.decode(),
            "good": client.get(f"/admin/aiotq/taskrecord/{good}/change/").content.decode(),
            "bad": client.get(f"/admin/aiotq/taskrecord/{bad}/change/").content.decode(),
            "schedules": client.get("/admin/aiotq/schedule/").content.decode(),
        }
        client.post("/admin/aiotq/schedule/", {"action": "pause", "name": "hourly"})
        pages["paused"] = client.get("/admin/aiotq/schedule/").content.decode()
        client.post("/admin/aiotq/schedule/", {"action": "fire", "name": "hourly"})
        assert client.login(username="bob", password=WORD)
        assert "Pause" not in client.get("/admin/aiotq/schedule/").content.decode()
        pages["refused"] = client.post("/admin/aiotq/schedule/", {"action": "fire", "name": "hourly"}).status_code
        return pages
    finally:
        django_here.close()


async def test_the_dashboard_is_for_staff_and_all_else_is_djangos(app: AioTQ) -> None:
    from django.core.asgi import get_asgi_application  # noqa: PLC0415  # needs a configured project

    from aiotq.contrib.django.dashboard import with_dashboard  # noqa: PLC0415  # the same

    sessions = await sync_to_async(_sessions)()
    transport = httpx.ASGITransport(with_dashboard(get_asgi_application(), app, at="/dashboard"))

    async def asked(path: str, who: str) -> httpx.Response:
        cookies = {"sessionid": sessions[who]} if who else {}
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver", cookies=cookies) as client:
            return await client.get(path)

    assert (await asked("/dashboard/queues", "ann")).status_code == 200
    assert "disabled" not in (await asked("/dashboard/schedules", "ann")).text
    assert "disabled" in (await asked("/dashboard/schedules", "bob")).text  # who may look, and not act
    for nobody in ("", "eve"):
        assert (await asked("/dashboard/queues", nobody)).status_code in {401, 403}
    assert "Django" in (await asked("/admin/login/", "")).text


def _sessions() -> dict[str, str]:
    """Sessions of one who operates, one of the staff, and one who is a customer."""
    from django.contrib.auth.models import User  # noqa: PLC0415  # needs a configured project
    from django.test import Client  # noqa: PLC0415  # the same

    User.objects.all().delete()
    User.objects.create_superuser("ann", password=WORD)
    User.objects.create_user("bob", password=WORD, is_staff=True)
    User.objects.create_user("eve", password=WORD)
    sessions: dict[str, str] = {}
    for name in ("ann", "bob", "eve"):
        client: Any = Client()
        assert client.login(username=name, password=WORD)
        sessions[name] = client.cookies["sessionid"].value
    django_here.close()
    return sessions
