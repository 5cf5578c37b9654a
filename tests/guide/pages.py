"""A page that a reader follows from an empty folder: its files are written and its commands given, from top to bottom.

A block that begins with `# name.py` is a file. In a block `console`, a line that begins with `$` is a command, and the
lines below it are what it prints (nothing is said of it when there are none); `…` stands for what differs. A command
that ends in `&` goes on beside the others: it is waited for until it has printed what stands below it, and stopped at
the end, or by `kill %1`.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests import forked
from tests.forked import Forked
from tests.waiting import wait_until

from ..integration.shells import environment

DOCS: Final = Path(__file__).parents[2] / "docs"
#: Seconds for one command; a busy machine takes several.
PATIENCE: Final = 60.0
_BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE: Final = re.compile(r"\A# ([\w./-]+\.\w+)\n")
#: What a reader does once and for all, or what is for other machines.
_SKIPPED: Final = ("pip ", "python3 -m venv", "mkdir ", "cd ", ". ", "sudo ", "docker ", "kubectl ")


def blocks(page: str) -> list[tuple[str, str]]:
    """The language and the text of each block of a page of docs/."""
    return [(kind, text) for kind, text in _BLOCK.findall((DOCS / page).read_text())]


def files_of(page: str) -> dict[str, str]:
    """The files of a page as they are when one has read to its end."""
    return {found[1]: text for _, text in blocks(page) if (found := _FILE.match(text))}


@dataclass
class Reader:
    """Somebody who does what pages say, in a folder."""

    folder: Path
    #: What stands on the page -> what it is here: addresses of servers.
    here: Mapping[str, str] = field(default_factory=dict[str, str])
    env: dict[str, str] = field(default_factory=dict[str, str])
    beside: list[tuple[str, Forked, Path]] = field(default_factory=list[tuple[str, Forked, Path]])
    done: list[str] = field(default_factory=list[str])

    async def follow(self, page: str) -> None:
        """Do all that the page says; fails where it happens otherwise."""
        try:
            for kind, text in blocks(page):
                if found := _FILE.match(text):
                    file = self.folder / found[1]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(text)
                elif kind == "console":
                    for command, said in re.findall(r"^\$ (.*)\n((?:[^$].*\n|\n)*)", text, re.MULTILINE):
                        await self.give(command.partition("   #")[0].strip(), said)
        finally:
            await self.stop()

    async def give(self, command: str, said: str) -> None:
        """Give one command, and compare what it prints."""
        self.done.append(command)
        for there, here in self.here.items():
            command = command.replace(there, here)
        if command.startswith(_SKIPPED) or command == "ID=…":  # which was found in what was printed
            return
        if command.startswith("export "):
            name, _, given = command.removeprefix("export ").partition("=")
            self.env[name] = given
            return
        if command.startswith("kill %"):
            await self.stop()
            return
        goes_on = command.endswith(" &")
        printed = self.folder / f".printed-{len(self.done)}"
        program = self._start(shlex.split(command.removesuffix(" &")), printed)
        if goes_on:
            self.beside.append((command, program, printed))
            expected = pattern(said)
            await wait_until(
                lambda: re.search(expected, printed.read_text()) is not None or program.poll() is not None,
                f"{command} prints what it should",
                timeout=PATIENCE,
            )
            assert program.poll() is None, f"{command} ended:\n{printed.read_text()}"
            return
        code = await asyncio.to_thread(program.wait, PATIENCE)
        text = printed.read_text()
        assert code == 0, f"$ {command}\n{text}"
        assert not said.strip() or re.fullmatch(pattern(said), text), f"$ {command}\n{text}\ninstead of\n{said}"
        if found := re.search(r'"id":"([\w-]+)"', text):
            self.here = {**self.here, "$ID": found[1]}

    def _start(self, words: list[str], printed: Path) -> Forked:
        match words:
            case ["python", "-m", *more] | ["aiotq", *more]:
                words = more if words[0] == "python" else words
            case ["python", script]:
                words = [script.removesuffix(".py")]
            case ["curl", "-s", url, *more]:
                words = ["tests.guide.fetched", url, *more]
            case ["uvicorn", *_]:
                pass
            case ["pytest", *more]:
                plugins = [
                    "-p",
                    "pytest_asyncio.plugin",
                    "-p",
                    "aiotq.testing.plugin",
                ]  # all that there are take seconds
                words = ["pytest", "-W", "ignore::pytest.PytestAssertRewriteWarning", *plugins, *more]
            case _:
                raise AssertionError(f"who knows how to do {words}?")
        with open(os.devnull, "rb") as nothing, printed.open("wb") as file:
            return forked.start(
                words,
                self.folder,
                environment(
                    {"COLUMNS": "120", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "", **self.env}
                ),
                stdin=nothing.fileno(),
                stdout=file.fileno(),
                stderr=file.fileno(),
            )

    async def stop(self) -> None:
        """Stop what goes on, as Ctrl-C does."""
        running = self.beside
        self.beside = []
        for _, program, _ in running:
            program.send_signal(signal.SIGTERM)
        for command, program, printed in running:
            good = (0, -signal.SIGTERM) if command.startswith("uvicorn") else (0,)  # it ends by what it was sent
            assert await asyncio.to_thread(program.wait, PATIENCE) in good, f"{command}\n{printed.read_text()}"


def pattern(said: str) -> str:
    """Return a regular expression for printed lines, in which `…` stands for anything."""
    return re.escape(said.strip("\n")).replace("…", r"[\s\S]*?") + r"\s*"
