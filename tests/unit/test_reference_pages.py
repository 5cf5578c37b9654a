"""Reference pages have all that the code has, and nothing else; charts are drawn from what was measured."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any, Final

from prometheus_client.metrics_core import Metric

from aiotq import AioTQ, signals
from aiotq.calling import sent_events
from aiotq.control import event_format
from aiotq.core.inside import core_of
from aiotq.signals import Signal
from aiotq.web.health import Health
from aiotq.worker import events

ROOT: Final = Path(__file__).parents[2]
REFERENCE: Final = ROOT / "docs" / "reference"


def rows(page: str) -> list[list[str]]:
    """The rows of a page's tables, by column."""
    found = re.findall(r"^\| (`.*) \|$", (REFERENCE / page).read_text(), re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in found]


def names(page: str) -> list[str]:
    """All names in backquotes in the first columns."""
    return [name for row in rows(page) for name in re.findall(r"`([\w-]+)`", row[0])]


def script(name: str) -> Any:
    """A module of scripts/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_errors_is_as_they_are_declared() -> None:
    assert (REFERENCE / "errors.md").read_text() == script("error_reference").error_page(), (
        "run: python scripts/error_reference.py > docs/reference/errors.md"
    )


def test_the_list_for_programs_is_that_of_the_index() -> None:
    assert (ROOT / "llms.txt").read_text() == script("documentation").llms(), (
        "run: python scripts/documentation.py llms > llms.txt"
    )


def test_the_charts_are_those_of_the_stored_results() -> None:
    drawn = script("charts").drawings()

    assert {file: (ROOT / "docs" / "pictures" / file).read_text() for file in drawn} == drawn, (
        "run: python scripts/charts.py"
    )


def test_every_signal_is_there_with_its_arguments() -> None:
    said = {
        name: tuple(re.findall(r"\w+", row[2])) for row in rows("signals.md") for name in re.findall(r"`(\w+)`", row[0])
    }

    assert said == {each.name: each.provides for each in vars(signals).values() if isinstance(each, Signal)}


def test_every_event_is_there() -> None:
    sources = "".join(Path(str(each.__file__)).read_text() for each in (events, event_format, sent_events))
    endings = re.findall(r'(?:return|:) "(succeeded|failed|retried|rejected|revoked|ignored|replaced)"', sources)
    told = set(re.findall(r'"((?:task|worker|events)-[a-z]+)"', sources)) | {f"task-{each}" for each in endings}

    assert len(told) > 10
    assert sorted(names("events.md")) == sorted(told)


async def test_every_metric_is_there() -> None:
    app = AioTQ("proj", broker="memory://")
    health = Health(core_of(app), works=True)
    async with app, app.worker(), app.beat():
        families: list[Metric] = await health.families()
    told = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}

    assert set(names("metrics.md")) == told
