"""What the files for deployment and the page of metrics name is there: metrics, commands and options."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any, Final, cast

import pytest
from prometheus_client.metrics_core import Metric
from typer.main import get_command

from aiotq import AioTQ
from aiotq.cli import cli
from aiotq.core.inside import core_of
from aiotq.web.health import Health

DOCS: Final = Path(__file__).parents[2] / "docs"
DEPLOY: Final = sorted(path for path in (DOCS / "guides" / "deploy").iterdir() if path.name != "README.md")
yaml: Any = importlib.import_module("yaml")  # which has no types
OPTION: Final = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


async def told() -> set[str]:
    """The names of all samples that a process with a worker and a scheduler tells."""
    app = AioTQ("proj", broker="memory://")

    @app.task
    async def work() -> None: ...

    health = Health(core_of(app), works=True)
    async with app, app.worker(), app.beat():
        await (await work.delay()).get(timeout=5)
        families: list[Metric] = await health.families()
    counters = {f"{family.name}_total" for family in families if family.type == "counter"}  # some have no sample yet
    samples = {sample.name for family in families for sample in family.samples}
    return counters | samples | {family.name for family in families}


@pytest.mark.parametrize(
    "file", [*DEPLOY, DOCS / "guides" / "metrics.md", DOCS / "reference" / "metrics.md"], ids=lambda path: path.name
)
async def test_all_metrics_that_are_named_are_told(file: Path) -> None:
    named = {name.rstrip("_") for name in re.findall(r"\baiotq_[a-z_]+\b", file.read_text())}
    there = await told()

    assert named <= there | {"aiotq_queue_oldest_seconds"}, named - there  # told while a message is ready


@pytest.mark.parametrize("file", DEPLOY, ids=lambda path: path.name)
def test_all_options_that_are_given_are_taken(file: Path) -> None:
    commands: Any = cast("Any", get_command(cli)).commands
    for name, words in re.findall(r'aiotq"?,? "?(worker|beat)\b([^\n]*)', file.read_text()):
        command = commands[name]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert set(OPTION.findall(words)) <= known


@pytest.mark.parametrize("file", [path for path in DEPLOY if path.suffix == ".yaml"], ids=lambda path: path.name)
def test_files_of_yaml_can_be_read(file: Path) -> None:
    assert all(isinstance(each, dict) for each in yaml.safe_load_all(file.read_text()))


def test_the_dashboard_for_grafana_is_whole() -> None:
    dashboard = json.loads((DOCS / "guides" / "deploy" / "grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]

    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]) > 10
    assert all(expr.count("(") == expr.count(")") and "aiotq_" in expr for expr in asked)
    assert {"source", "queue", "task"} == {each["name"] for each in dashboard["templating"]["list"]}
