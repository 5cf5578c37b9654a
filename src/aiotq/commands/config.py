"""`aiotq config`: the settings as they are, and what each means."""

from __future__ import annotations

import difflib
import os
from typing import Annotated, Any

import typer

from ..control.shown_settings import SettingRow, setting_rows
from ..core.settings import APP_VARIABLE, NAMES, Settings
from ..core.settings_reference import described
from . import output
from .app_option import Target, UsageError
from .command import command
from .words import Json


@command()
def config(
    target: Target,
    explain: Annotated[bool, typer.Option("--explain", help="Say what each setting means; needs no app.")] = False,
    setting: Annotated[
        list[str] | None, typer.Option("-s", "--setting", metavar="NAME", help="Only this one, and its like.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List all settings; a star marks those that were changed."""
    needs_app = not explain or target.app is not None or APP_VARIABLE in os.environ
    conf = target.load(with_tasks=False).conf if needs_app else Settings()
    chosen = [row for row in setting_rows(conf) if row.name in _chosen(setting)]
    if as_json:
        output.as_json([_as_data(row, explain=explain) for row in chosen])
    elif explain:
        _explain(chosen)
    else:
        rows = [
            ("*" if row.is_changed else "", row.name, row.shown, str(row.default) if row.is_changed else "")
            for row in chosen
        ]
        output.table(("", "setting", "value", "default"), rows, whole=("setting",))


def _chosen(wanted: list[str] | None) -> list[str]:
    """Return the settings with one of these words in their names; all if no word is given.

    Raises:
        UsageError: one of the words is in no name.
    """
    if not wanted:
        return list(NAMES)
    for word in wanted:
        if not any(word.lower() in name for name in NAMES):
            near = difflib.get_close_matches(word.lower(), NAMES, n=1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"no setting has {word!r} in its name{hint}")
    return [name for name in NAMES if any(word.lower() in name for word in wanted)]


def _as_data(row: SettingRow, *, explain: bool) -> dict[str, Any]:
    data = {"setting": row.name, "value": row.value, "default": row.default, "changed": row.is_changed}
    if explain:
        found = described(row.name)
        data |= {"type": found.type, "meaning": found.meaning, "example": found.example}
    return data


def _explain(rows: list[SettingRow]) -> None:
    for index, row in enumerate(rows):
        found = described(row.name)
        print("" if index == 0 else "\n", end="")
        changed = f" (default: {row.default!r})" if row.is_changed else " (the default)"
        print(f"{row.name}: {found.type}\n  {found.meaning}")
        output.fields([("  value", f"{row.value!r}{changed}"), ("  example", found.example)])
