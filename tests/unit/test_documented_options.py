"""The reference pages explain every option, and none that does not exist."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from aiotq.tasks.options import CALL_OPTIONS, DECLARABLE
from aiotq.tasks.request import Request

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
#: Of a request, what is for the inside.
INSIDE = {"step", "mode", "added", "events", "runner", "slot", "following"}


def named(page: str, section: str) -> set[str]:
    """The names in backquotes in the first column of a section's table."""
    text = (REFERENCE / page).read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize(
    ("page", "section", "options"),
    [("calling.md", "Calls", CALL_OPTIONS), ("tasks.md", "Tasks", DECLARABLE | {"base"})],
)
def test_every_option_is_explained(page: str, section: str, options: frozenset[str]) -> None:
    assert named(page, section) == options


def test_every_field_of_a_request_is_named() -> None:
    of_class = {name for name, each in vars(Request).items() if isinstance(each, property)}
    there_are = {each.name for each in fields(Request)} | of_class
    (listed,) = re.findall(r"`self\.request` has `([^`]*)`", (REFERENCE / "tasks.md").read_text())

    assert set(listed.split()) == there_are - INSIDE
