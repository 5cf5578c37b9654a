"""Prints docs/reference/commands.md."""

from __future__ import annotations

import sys
from typing import Any, cast

from typer.main import get_command

from aiotq.cli import cli
from aiotq.commands.reference import page


def command_page() -> str:
    """Return the page about the commands of `aiotq`."""
    return page(cast("Any", get_command(cli)).commands)


if __name__ == "__main__":
    sys.stdout.write(command_page())
