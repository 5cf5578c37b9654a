"""The pytest plugin: the fixture `aiotq_worker`, and what was sent and ran in the report of a test that fails."""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, cast

import pytest

from ..app import AioTQ
from ..lookup import find_app
from .worker import TestWorker

# Their assertions tell what they saw, as those of tests do.
pytest.register_assert_rewrite("aiotq.testing.contracts")


def _async_fixture() -> Callable[[Any], Any]:
    """Return what makes a coroutine function a fixture: pytest-asyncio's own in its strict mode, or pytest's."""
    try:
        return cast("Callable[[Any], Any]", importlib.import_module("pytest_asyncio").fixture)
    except ImportError:
        return pytest.fixture


def pytest_addoption(parser: pytest.Parser) -> None:
    """Make the option `aiotq_app` known."""
    parser.addini("aiotq_app", "The app that the fixtures aiotq_app and aiotq_worker are about, as proj:app.")


@pytest.fixture
def aiotq_app(request: pytest.FixtureRequest) -> AioTQ:
    """The app under test, as the option `aiotq_app` names it; a project may define this fixture itself."""
    spec = str(request.config.getini("aiotq_app"))
    if not spec:
        pytest.fail("which app? Name it in pytest's options (aiotq_app = proj:app), or define a fixture aiotq_app")
    app = find_app(spec)
    app.load_tasks()
    return app


@_async_fixture()
async def aiotq_worker(aiotq_app: AioTQ) -> AsyncGenerator[TestWorker, None]:
    """A `TestWorker` of the app, for the time of one test."""
    async with TestWorker(aiotq_app) as worker:
        yield worker


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the story of each worker to the report of a test that fails."""
    report = yield
    if report.when == "call" and report.failed:
        for worker in tuple(TestWorker.entered):
            report.sections.append(("aiotq", worker.story()))
    return report
