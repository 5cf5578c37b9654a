"""`manage.py aiotq`: the whole command line of aiotq, about the project's app.

The app is what `AIOTQ_APP` or `-A` names, and by default what is found in the project's package: `app` in `shop`,
`shop.aiotq` or `shop.tasks`, where the settings are `shop.settings`.
"""

# pyright: basic
from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from django.conf import ENVIRONMENT_VARIABLE
from django.core.management.base import BaseCommand, CommandParser

from .....cli import main
from .....core.settings import APP_VARIABLE


class Command(BaseCommand):
    help = "aiotq's command line: worker, beat, status, queues and others; `manage.py aiotq -h` lists them."

    def run_from_argv(self, argv: list[str]) -> None:
        """Be `aiotq` with the words behind `manage.py aiotq`; the process ends with it."""
        ours = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        ours.add_argument("--settings")  # manage.py has obeyed them
        ours.add_argument("--pythonpath")
        self.handle(words=ours.parse_known_args(argv[2:])[1])

    def add_arguments(self, parser: CommandParser) -> None:
        """For `call_command("aiotq", "worker")`."""
        parser.add_argument("words", nargs=argparse.REMAINDER)

    def handle(self, *_: Any, words: list[str], **__: Any) -> None:
        """Run the command; raises SystemExit with its exit code."""
        package = os.environ.get(ENVIRONMENT_VARIABLE, "").partition(".")[0]
        if package:
            os.environ.setdefault(APP_VARIABLE, package)
        # Workers that are started from here find the project as this process does.
        path = [sys.path[0], *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, path)))
        sys.argv = ["aiotq", *words]
        main()
