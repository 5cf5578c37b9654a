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
from aiotq.core.logs import ReadableFormatter, giving, has_colours


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


def task_line(text: str, *values: object, state: str | None = None, level: int = logging.INFO) -> logging.LogRecord:
    record = logging.LogRecord("aiotq.task", level, __file__, 1, text, values, None)
    vars(record).update({} if state is None else giving(state))
    return record


def test_a_line_says_in_a_field_of_its_own_which_state_it_gives_its_task() -> None:
    told = json.loads(JsonFormatter().format(task_line("Task %s[%s] expired", "proj.add", "42", state="REVOKED")))
    written = json.loads(JsonFormatter().format(task_line("Task proj.add[42] succeeded, I wrote myself")))

    assert (told["state"], "extra" in told) == ("REVOKED", False)
    assert "state" not in written


def test_a_line_of_a_task_that_ended_has_its_state_and_asks_for_its_times() -> None:
    asked: list[str | None] = []

    def about(state: str | None) -> Mapping[str, Any]:
        asked.append(state)
        return {"duration": 0.5}

    formatter = JsonFormatter(about=about)

    line = json.loads(formatter.format(task_line("Task %s[%s] is over", "proj.add", "42", state="SUCCESS")))

    assert asked == ["SUCCESS"]
    assert (line["state"], line["duration"]) == ("SUCCESS", 0.5)


@pytest.mark.parametrize(
    ("verb", "state", "level", "coloured"),
    [
        ("succeeded in 0.002 s: 4", "SUCCESS", logging.INFO, "\x1b[32msucceeded\x1b[0m in 0.002 s: 4"),
        ("failed in 0.1 s: no luck", "FAILURE", logging.ERROR, "\x1b[31mfailed\x1b[0m in 0.1 s: no luck"),
        ("raised expected: no luck", "FAILURE", logging.INFO, "\x1b[33mraised expected\x1b[0m: no luck"),
        ("expired", "REVOKED", logging.INFO, "\x1b[33mexpired\x1b[0m"),
        ("says hello", None, logging.INFO, "says hello"),
    ],
)
def test_the_verb_is_coloured_on_terminals_alone(verb: str, state: str | None, level: int, coloured: str) -> None:
    record = task_line(f"Task proj.add[42] {verb}", state=state, level=level)

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
