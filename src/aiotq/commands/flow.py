"""Commands for flows that are under way: show, signal, revoke."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, Final

import typer

from ..flows.handles import FlowState, Part
from . import output
from .app_option import Target
from .command import command, group
from .words import Json

flow: Final = group("flow", "Durable functions that are under way: show, signal, revoke.")

_COLUMNS: Final = ("", "what", "state", "call")


@flow.command("show")
@command("ID")
def flow_show(target: Target, flow_id: str, as_json: Json = False) -> None:
    """Show what a flow has asked for, and what came of it."""
    found: FlowState = target.run(lambda app: app.flows.show(flow_id))
    if as_json:
        parts = [
            {name: getattr(each, name) for name in ("kind", "name", "state", "due", "task_id")} for each in found.parts
        ]
        fields = {name: getattr(found, name) for name in ("id", "task", "state", "size")}
        output.as_json({**fields, "parts": parts, "signals": list(found.signals)})
        return
    print(f"{found.task}[{found.id}] {found.state}, a journal of {found.size} bytes")
    now = time.time()
    rows = [(str(number), *_row(each, now)) for number, each in enumerate(found.parts, 1)]
    if rows:
        output.table(_COLUMNS, rows, whole=("what", "call"))
    if found.signals:
        print(f"signals not yet taken: {', '.join(found.signals)}")


@flow.command("signal")
@command("ID", "NAME")
def flow_signal(
    target: Target,
    flow_id: str,
    name: str,
    value: Annotated[
        str, typer.Option("--value", metavar="JSON", help="Its value; text that is no JSON is text.")
    ] = "null",
    signal_id: Annotated[
        str | None,
        typer.Option("--signal-id", metavar="ID", help="Sent again with it, it counts once.", show_default=False),
    ] = None,
) -> None:
    """Give a flow the signal NAME, for which it waits or will wait."""
    given = _read(value)
    target.run(lambda app: app.flows.signal(flow_id, name, given, signal_id=signal_id))
    print(f"accepted: {name}")


@flow.command("revoke")
@command("ID")
def flow_revoke(target: Target, flow_id: str) -> None:
    """End a flow as REVOKED, now."""
    target.run(lambda app: app.flows.revoke(flow_id))
    print(f"revoked: {flow_id}")


def _row(part: Part, now: float) -> tuple[str, ...]:
    state = part.state
    if state == "waits" and part.due is not None:
        state = f"waits, {output.age(max(0.0, part.due - now))} left"
    return f"{part.kind} {part.name}".strip(), state, part.task_id or ""


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
