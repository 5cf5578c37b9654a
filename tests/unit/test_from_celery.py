"""`aiotq from-celery`: what must change in a project is found by reading it, with file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aiotq.cli import cli
from aiotq.commands.app_option import Target
from aiotq.commands.celery_source import findings_in


def found_in(source: str, *, is_config: bool = False) -> list[tuple[int, str, str]]:
    return [(each.line, each.found, each.instead) for each in findings_in(source, "proj.py", is_config=is_config)]


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("from celery import Celery", "from aiotq import AioTQ"),
        ("from celery import shared_task", "from aiotq import shared_task"),
        ("from celery.result import AsyncResult", "from aiotq import AsyncResult"),
        ("from celery.signals import task_failure", "from aiotq.signals import task_failure"),
        ("from celery.signals import eventlet_pool_started", "no signal here is told of this"),
        ("from celery.exceptions import SoftTimeLimitExceeded", "from aiotq.exceptions import SoftTimeLimitExceeded"),
        ("from celery.utils.log import get_task_logger", "logging.getLogger(__name__)"),
        ("from celery.nowhere import nothing", "nothing here is called so: see docs/guides/from-celery.md"),
        ("from kombu import Queue", "from aiotq import Queue: Queue(name, exchange, routing_key)"),
        ("import celery", "import aiotq, or what you need from it"),
    ],
)
def test_an_import_is_named_with_what_stands_for_it(line: str, instead: str) -> None:
    assert found_in(line) == [(1, line, instead)]


@pytest.mark.parametrize("line", ["import celery_tools", "from .celery import app", "from kombu import Connection"])
def test_other_imports_are_left_alone(line: str) -> None:
    assert found_in(line) == []


def test_calls_are_awaited_where_they_can_be_and_go_by_sync_elsewhere() -> None:
    found = found_in(
        "async def view():\n    add.delay(1, 2)\n    await add.delay(1, 2)\n\n"
        "def job():\n    add.delay(1, 2)\n    add.sync.delay(1, 2)\n"
    )

    assert found == [
        (2, "add.delay(...)", "await add.delay(...)"),
        (6, "add.delay(...)", "add.sync.delay(...), or in an async def: await add.delay(...)"),
    ]


def test_what_handles_tell_is_awaited_and_other_things_called_so_are_not() -> None:
    found = found_in(
        "async def view(request):\n"
        "    result = await add.delay(1, 2)\n"
        "    if result.status == 'SUCCESS':\n"
        "        return result.get()\n"
        "    return request.get('x'), cache.get('y'), request.state\n"
        "def job():\n    return add.sync.delay(1, 2).get()\n"
    )

    assert found == [
        (3, "result.status", "await result.state()"),
        (4, "result.get(...)", "await result.get(...)"),
    ]


def test_without_a_loop_a_handle_that_was_sent_tells_what_celerys_does_and_one_by_its_id_does_so_under_sync() -> None:
    found = found_in(
        "from aiotq import AioTQ\n"
        "def job():\n"
        "    result = add.delay(1, 2)\n"
        "    result.get(), result.state, result.status, result.result\n"
        "    other = app.AsyncResult('id')\n"
        "    other.get(), other.status, other.ready(), other.result, other.name\n"
        "    app.send_task('add', args=(1, 2))\n"
        "    add.apply_async(args=(1, 2), kwargs={})\n"
    )

    assert [(line, instead.partition(", or")[0]) for line, _, instead in found] == [
        (3, "add.sync.delay(...)"),
        (4, "result.state"),
        (4, "result.info"),
        (6, "other.sync.get(...)"),
        (6, "other.sync.state"),
        (6, "other.sync.ready()"),
        (6, "other.sync.info"),
        (6, "other.sync.name"),
        (7, "app.sync(app.send_task, ...).sync"),
        (8, "add.sync.apply_async(...)"),
    ]


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    ran = CliRunner().invoke(cli, ["from-celery", str(tmp_path / "nowhere")], obj=Target())
    assert ran.exit_code != 0
    assert "No such file" in str(ran.exception)


def test_a_retry_that_is_not_raised_and_a_state_that_is_not_awaited_are_found() -> None:
    found = found_in(
        "def job(self):\n    self.retry()\n    raise self.retry()\n"
        "    self.update_state(state='X')\n    self.sync.update_state(state='X')\n\n"
        "async def other(self):\n    self.update_state(state='X')\n    await self.update_state(state='X')\n"
    )

    assert [(line, instead.partition(", or")[0]) for line, _, instead in found] == [
        (2, "raise self.retry(...)"),
        (4, "self.sync.update_state(...)"),
        (8, "await self.update_state(...)"),
    ]


def test_options_that_mean_nothing_here_are_named_with_what_to_do() -> None:
    found = found_in(
        "@app.task(bind=True, send_events=True, max_retries=3)\ndef job(self): ...\n"
        "@shared_task(time_limit=5)\ndef other(): ...\n"
        "@shared_task(time_limit=5)\nasync def third():\n    await add.apply_async((1,), connection=None, queue='q')\n"
    )

    assert [(line, text) for line, text, _ in found] == [
        (1, "task option send_events"),
        (3, "time_limit of a plain function"),
        (7, "calling option connection"),
    ]


def test_settings_are_found_wherever_they_are_made() -> None:
    found = found_in(
        "from celery import Celery\n"
        "app = Celery('proj', broker='redis://', task_cls=None)\n"
        "app.conf.update(task_serializer='json', enable_utc=True, worker_pool='prefork')\n"
        "app.conf.update({'imports': ['a']})\n"
        "app.conf.enable_utc = False\n"
        "app.conf['broker_pool_limit'] = 3\n"
        "CELERY_TASK_SERIALIZER = 'json'\n"
        "CELERY_WORKER_POOL = 'solo'\n"
        "app.control.purge()\n"
    )

    assert [(line, text) for line, text, _ in found] == [
        (1, "from celery import Celery"),
        (2, "Celery(...)"),
        (3, "setting worker_pool"),
        (4, "setting imports"),
        (5, "setting conf.enable_utc"),
        (6, "setting conf['broker_pool_limit']"),
        (8, "setting CELERY_WORKER_POOL"),
        (9, "app.control"),
    ]


def test_names_in_a_module_of_settings_are_settings_and_in_others_they_are_not() -> None:
    source = "broker_heartbeat = 10\ntask_acks_late = True\n"

    assert [line for line, _, _ in found_in(source, is_config=True)] == [1]
    assert found_in(source) == []


def test_a_file_that_is_no_python_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "proj_settings.py").write_text("worker_pool_restarts = True\n")
    (tmp_path / "proj.py").write_text("app.config_from_object('conf.proj_settings')\n")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "theirs.py").write_text("import celery\n")

    ran = CliRunner().invoke(cli, ["from-celery", str(tmp_path)], obj=Target())

    assert ran.exit_code == 0
    lines = ran.output.splitlines()
    assert lines[0].startswith(f"{tmp_path}/broken.py:1: a syntax error -> it can't be read: ")
    assert lines[1].startswith(f"{tmp_path}/conf/proj_settings.py:1: setting worker_pool_restarts -> ")
    assert lines[2:] == ["2 places in 2 files to change"]


def test_programs_get_json_and_a_clean_project_is_said_to_be_so(tmp_path: Path) -> None:
    file = tmp_path / "proj.py"
    file.write_text("import celery\n")

    found = CliRunner().invoke(cli, ["from-celery", str(file), "--json"], obj=Target())
    file.write_text("import aiotq\n")
    clean = CliRunner().invoke(cli, ["from-celery", str(file)], obj=Target())

    instead = "import aiotq, or what you need from it"
    assert json.loads(found.output) == [{"file": str(file), "line": 1, "found": "import celery", "instead": instead}]
    assert clean.output == "nothing to change\n"
