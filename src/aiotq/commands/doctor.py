"""`aiotq doctor`: what needs a look, and what to do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ..app import AioTQ
from ..backends.base import shown_place
from ..beat.manage import Schedules
from ..control.asking import TIMEOUT
from ..control.examining import picture_of
from ..control.findings import examined
from ..control.picture import Finding, ScheduleFacts
from ..core.inside import core_of
from ..core.settings import APP_VARIABLE
from ..exceptions import AioTQError, OperationalError
from . import output
from .app_option import CommandFailed, Target, run
from .command import command
from .fleet import UNAVAILABLE, Seconds
from .words import Json


class Unreachable(CommandFailed):
    """Broker or store can't be reached."""

    exit_code = UNAVAILABLE


class NeedsALook(CommandFailed):
    """Something is wrong, or soon may be."""


@command()
def doctor(target: Target, timeout: Seconds = TIMEOUT, as_json: Json = False) -> None:
    """Look whether all is well, and say what to do where it is not.

    The exit code is 0 when nothing needs a look, 1 when something does, and 69 when broker or store can't be reached.
    """
    app = target.load()
    try:
        found = run(app, lambda app: _examine(app, timeout))
    except (CommandFailed, OperationalError) as exc:
        found = [_unreachable(app, exc)]
    if as_json:
        output.as_json([_as_data(each) for each in found])
    else:
        for each in found:
            print(output.printable(f"{each.level}: {each.text}\n    {each.advice}"))
        if APP_VARIABLE not in os.environ and any("aiotq " in each.advice for each in found):
            print(f"These commands want the app: export {APP_VARIABLE}={target.spec}")
    if any(each.rule == "unreachable" for each in found):
        raise Unreachable("broker or store can't be reached")
    if serious := [each for each in found if each.level != "note"]:
        raise NeedsALook(f"{output.count(len(serious), 'finding')}")
    if not as_json:
        print("nothing needs a look")


async def _examine(app: AioTQ, timeout: float) -> Sequence[Finding]:
    core = core_of(app)
    try:
        periodic = [each for each in await Schedules(core).list() if not each.is_paused]
    except OperationalError:
        raise
    except AioTQError as exc:  # one that can't be
        finding = Finding(
            "periodic-task", "error", "beat", f"periodic tasks can't be sent: {exc}", "correct it in code."
        )
        return [finding, *examined(await picture_of(core, timeout=timeout))]
    unusable = [
        Finding(
            "periodic-task", "error", each.name, f"periodic task {each.name}: {each.problem}", "correct or remove it."
        )
        for each in periodic
        if each.problem is not None
    ]
    schedules = [ScheduleFacts(each.name, each.last_state, each.last_id) for each in periodic]
    return [*unusable, *examined(await picture_of(core, periodic=len(periodic), schedules=schedules, timeout=timeout))]


def _unreachable(app: AioTQ, exc: AioTQError) -> Finding:
    places = dict.fromkeys(
        [app.conf.broker_url, app.conf.result_backend or app.conf.broker_url, app.conf.ledger or app.conf.broker_url]
    )
    where = " or ".join(map(shown_place, places))
    advice = f"is the server up, and is this the right address: {where}? From where the workers are, too?"
    return Finding("unreachable", "error", "broker", str(exc), advice)


def _as_data(finding: Finding) -> dict[str, Any]:
    return {
        "rule": finding.rule,
        "level": finding.level,
        "about": finding.about,
        "text": finding.text,
        "advice": finding.advice,
    }
