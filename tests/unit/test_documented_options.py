"""The page on options has all there are, and none that there aren't."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from aiotq.tasks.options import CALL_OPTIONS, DECLARABLE
from aiotq.tasks.request import Request

PAGE = (Path(__file__).parents[2] / "docs" / "semantics.md").read_text()
#: Of a request, what is for the inside.
INSIDE = {"step", "mode", "added", "runner", "slot", "following"}


def named(section: str) -> set[str]:
    """Return what stands in backquotes in the first column of a section's table."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize(("section", "options"), [("Calls", CALL_OPTIONS), ("Tasks", DECLARABLE | {"base"})])
def test_every_option_is_explained(section: str, options: frozenset[str]) -> None:
    assert named(section) == options


def test_every_field_of_a_request_is_named() -> None:
    of_class = {name for name, each in vars(Request).items() if isinstance(each, property)}
    there_are = {each.name for each in fields(Request)} | of_class
    (listed,) = re.findall(r"`self\.request` has `([^`]*)`", PAGE)

    assert set(listed.split()) == there_are - INSIDE
