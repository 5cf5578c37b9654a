"""Logs for machines: one JSON object a line, whatever is logged."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from aiotq.core.json_logs import JsonFormatter
from aiotq.core.logs import ReadableFormatter, has_colours, state_of


class Log:
    """A logger of its own, and the lines it wrote."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self._stream = io.StringIO()
        handler = logging.StreamHandler(self._stream)
        handler.setFormatter(formatter)
        self.logger = logging.Logger("proj.jobs")
        self.logger.addHandler(handler)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]


@pytest.fixture
def about() -> dict[str, Any]:
    return {}


@pytest.fixture
def log(about: Mapping[str, Any]) -> Log:
    return Log(JsonFormatter(about=lambda _: about))


def test_a_line_has_its_time_level_logger_and_message(log: Log) -> None:
    before = datetime.now(UTC)
    log.logger.info("%d of %s\nand more", 3, "“them”")

    (line,) = log.lines()

    assert line.keys() == {"time", "level", "logger", "message"}
    assert (line["level"], line["logger"], line["message"]) == ("INFO", "proj.jobs", "3 of “them”\nand more")
    assert line["time"].endswith("Z")
    assert abs(datetime.fromisoformat(line["time"]) - before).total_seconds() < 5


def test_the_task_that_runs_is_named(log: Log, about: dict[str, Any]) -> None:
    about.update(task="proj.add", task_id="42")
    log.logger.warning("slow")

    assert log.lines()[0].items() >= {"task": "proj.add", "task_id": "42"}.items()


def test_an_exception_is_the_text_of_its_traceback(log: Log) -> None:
    def fail() -> None:
        raise ValueError("no luck")

    try:
        fail()
    except ValueError:
        log.logger.exception("it failed")

    (line,) = log.lines()
    assert line["message"] == "it failed"
    assert "in fail" in line["exception"]
    assert line["exception"].endswith("ValueError: no luck")


def test_what_is_logged_beside_the_message_is_there_even_if_it_has_no_json_form(log: Log) -> None:
    log.logger.info("shop", extra={"order": 7, "when": datetime(2030, 1, 1, tzinfo=UTC)})
    log.logger.info("odd", extra={"keys": {("a", "b"): 1}, "number": float("nan")})
    circle: list[Any] = []
    circle.append(circle)
    log.logger.info("round", extra={"circle": circle}, stack_info=True)

    shop, odd, around = log.lines()
    assert shop["extra"] == {"order": 7, "when": "datetime.datetime(2030, 1, 1, 0, 0, tzinfo=datetime.timezone.utc)"}
    assert "('a', 'b')" in odd["extra"]
    assert "circle" in around["extra"]
    assert "test_logs.py" in around["stack"]


def test_the_name_of_the_worker_is_said() -> None:
    log = Log(JsonFormatter(label="anna-1"))
    log.logger.info("hello")

    assert log.lines()[0]["worker"] == "anna-1"


def task_line(text: str, *values: object, name: str = "aiotq.task") -> logging.LogRecord:
    return logging.LogRecord(name, logging.INFO, __file__, 1, text, values, None)


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("Task %s[%s] succeeded in %.3f s: %s", "SUCCESS"),
        ("Task %s[%s] failed in %.3f s: %s", "FAILURE"),
        ("Task %s[%s] raised expected: %s", "FAILURE"),
        ("Task %s[%s] raised %s after %.3f s", "FAILURE"),
        ("Task %s[%s]: %s", "RETRY"),
        ("Task %s[%s] runs again in %g s", "RETRY"),
        ("Task %s[%s] expired", "REVOKED"),
        ("Task %s[%s] was revoked while it ran", "REVOKED"),
        ("Task %s[%s] becomes a dead letter (%s): %s", "REJECTED"),
        ("Task %s[%s] was interrupted by the stop and is handed back", "PENDING"),
        ("Task %s[%s] runs in a thread: its time_limit can't be kept", None),
        ("Task proj.add is what I wrote myself: it failed", None),
    ],
)
def test_a_workers_line_tells_the_state_of_its_task(text: str, state: str | None) -> None:
    assert state_of(task_line(text, "proj.add", "42")) == state
    assert state_of(task_line(text, "proj.add", "42", name="proj.jobs")) is None


def test_no_value_can_pretend_to_be_a_verb() -> None:
    assert state_of(task_line("Task %s[%s] runs in %s", "proj.add", "42", "x] failed")) is None


def test_a_line_of_a_task_that_ended_has_its_state_and_asks_for_its_times() -> None:
    asked: list[str | None] = []

    def about(state: str | None) -> Mapping[str, Any]:
        asked.append(state)
        return {"duration": 0.5}

    formatter = JsonFormatter(about=about)

    line = json.loads(formatter.format(task_line("Task %s[%s] succeeded in %.3f s: %s", "proj.add", "42", 0.5, "4")))

    assert asked == ["SUCCESS"]
    assert (line["state"], line["duration"]) == ("SUCCESS", 0.5)


@pytest.mark.parametrize(
    ("verb", "coloured"),
    [
        ("succeeded in 0.002 s: 4", "\x1b[32msucceeded\x1b[0m in 0.002 s: 4"),
        ("failed in 0.1 s: no luck", "\x1b[31mfailed\x1b[0m in 0.1 s: no luck"),
        ("raised expected: no luck", "\x1b[33mraised expected\x1b[0m: no luck"),
        ("says hello", "says hello"),
    ],
)
def test_the_verb_is_coloured_on_terminals_alone(verb: str, coloured: str) -> None:
    record = task_line(f"Task proj.add[42] {verb}")

    assert ReadableFormatter(coloured=True).format(record).endswith(f" Task proj.add[42] {coloured}")
    assert ReadableFormatter().format(record).endswith(f" Task proj.add[42] {verb}")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_a_terminal_has_colours_unless_somebody_said_no(
    monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str], wanted: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert has_colours(Terminal()) == wanted
    assert not has_colours(io.StringIO())
