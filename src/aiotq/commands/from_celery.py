"""`aiotq from-celery PATH`: what must change in a project that was written for Celery, as a list."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import output
from .app_option import CommandFailed
from .celery_source import findings_in_project
from .words import Json


def from_celery(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, or a directory with all below it.")],
    as_json: Json = False,
) -> None:
    """List what must change in a project that was written for Celery, with file and line; nothing is run or changed."""
    try:
        found = list(findings_in_project(path))
    except OSError as exc:
        raise CommandFailed(f"can't read {exc.filename or path}: {exc.strerror}") from exc
    if as_json:
        output.as_json(
            [{"file": each.file, "line": each.line, "found": each.found, "instead": each.instead} for each in found]
        )
        return
    for each in found:
        print(output.printable(f"{each.file}:{each.line}: {each.found} -> {each.instead}"))
    files = len({each.file for each in found})
    print(
        f"{output.count(len(found), 'place')} in {output.count(files, 'file')} to change"
        if found
        else "nothing to change"
    )
