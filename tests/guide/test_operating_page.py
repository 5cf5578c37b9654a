"""The commands of an operator's day in the guide run, one after the other, and print what stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, Final, cast

from typer.main import get_command

from aiotq.cli import cli
from aiotq.commands.reference import page
from aiotq.control import findings, trends

from ..integration.shells import Shell

DOCS: Final = Path(__file__).parents[2] / "docs"
PAGE: Final = (DOCS / "guides" / "operating.md").read_text()
PROJ: Final = """
from aiotq import AioTQ

app = AioTQ("proj", broker="sqlite:///proj.db")


@app.task
async def add(x: int, y: int) -> int:
    return x + y
"""


def steps_of(section: str) -> list[tuple[str, str]]:
    """The commands in a section, each with what it is said to print."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```\n(.*?)```", text, re.DOTALL)
    return [
        (command, said) for block in blocks for command, said in re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", block, re.M)
    ]


async def test_a_day_runs_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "proj.py").write_text(PROJ)
    shell = Shell(tmp_path)
    steps = steps_of("A day")
    assert len(steps) > 12
    async with shell.started("worker", "proj:app", "-n", "mail-1", "-Q", "mail,default") as worker:
        await worker.line("is ready")
        for command, said in steps:
            program, *words = shlex.split(command)
            assert program == "aiotq"
            done = shell.run(*words)
            assert (done.returncode, done.stderr) == (0, ""), command
            assert not said or done.stdout == said, command
        assert await worker.ended() == 0


def test_the_page_of_all_commands_is_as_they_are_declared() -> None:
    declared = page(cast("Any", get_command(cli)).commands)

    assert (DOCS / "reference" / "commands.md").read_text() == declared, (
        "run: python scripts/command_reference.py > docs/reference/commands.md"
    )


def test_every_rule_of_the_doctor_is_explained() -> None:
    text = PAGE.partition("\n## What needs a look: `aiotq doctor`\n")[2].partition("\n## ")[0]
    explained = set(re.findall(r"`([a-z]+-?[a-z-]*)`", text))
    source = Path(findings.__file__).read_text() + Path(trends.__file__).read_text()

    assert set(re.findall(r'Finding\(\s*"([a-z-]+)"', source)) <= explained
