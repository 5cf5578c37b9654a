"""What the ledger's row of a periodic task has: the entry, signed like a message, and how far it has come."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import field
from datetime import UTC, datetime
from typing import Any, Final, cast

import orjson

from ..calling.core import AppCore
from ..canvas.serialized import as_canvas, as_form
from ..core.values import replace, shown, value
from ..exceptions import CallError, EncodeError, MessageError, ScheduleError
from ..results.ledger import ScheduleRow
from ..wire.message import Message
from ..wire.message import pack as pack_message
from ..wire.message import unpack as unpack_message
from .entries import Entry, entry, naming
from .occurrences import Policy, Progress, Reason, policy_from_dict, policy_to_dict
from .schedules import from_dict, to_dict

_JSON: Final = "application/json"
_REASONS: Final = frozenset({"missed", "superseded", "too late", "overlap"})


@value
class State:
    """How far an entry has come.

    last: the due time that was handled last; first the time when it was added.
    runs: how many occurrences were sent. sent_due, sent_id, sent_at: of the last one of them.
    skipped: how many occurrences were not sent, by the reason. skipped_due, skipped_why: of the last one of them.
    """

    last: datetime
    runs: int = 0
    is_paused: bool = False
    sent_due: datetime | None = None
    sent_id: str | None = None
    sent_at: datetime | None = None
    skipped: Mapping[Reason, int] = field(default_factory=dict[Reason, int])
    skipped_due: datetime | None = None
    skipped_why: Reason | None = None

    @property
    def progress(self) -> Progress:
        return Progress(self.last, self.runs)


@value
class Kept:
    """A row that was read: the entry as it was written, and how far it has come.

    `entry` is None for one of code whose schedule or arguments only code has. `definition` is its bytes either way, and
    `about` what is in them.
    """

    name: str
    mark: str
    task: str
    entry: Entry | None
    definition: bytes
    about: Mapping[str, Any]
    state: State

    @property
    def is_of_code(self) -> bool:
        return bool(self.about["source"] == "code")


def new_mark() -> str:
    """Return a mark that no row ever had."""
    return os.urandom(9).hex()


def definition_of(core: AppCore, entry: Entry) -> bytes:
    """Return what a row keeps of `entry`, in a signed message: the same for the same entry.

    Raises:
        EncodeError: an argument has no form in JSON, and the entry is not of code.
        ScheduleError: its schedule is of a class of the user's own, and the entry is not of code.
    """
    is_of_code = entry.source == "code"
    try:
        schedule: object = to_dict(entry.schedule)
    except ScheduleError:
        if not is_of_code:
            raise
        schedule = None
    about: dict[str, Any] = {
        "source": entry.source,
        "schedule": schedule,
        "shown": shown(entry.schedule),
        "options": dict(entry.options),
        "policy": policy_to_dict(entry.policy),
        "overlap": entry.overlap,
        "timezone": entry.zone,
    }
    if entry.workflow is not None:
        about["workflow"] = as_form(entry.workflow)
    json = core.serializers.get("json")
    with naming(entry.name):
        try:
            body = core.serializers.encode(json, about | {"args": [*entry.args], "kwargs": dict(entry.kwargs)}, "it")
        except EncodeError:
            if not is_of_code:
                raise
            # What is sent is the code's; this is for whoever looks at it.
            about |= {"is_shown": True, "options": {}, "args": [shown(each) for each in entry.args], "kwargs": {}}
            about["kwargs"] = {name: shown(each) for name, each in entry.kwargs.items()}
            about.pop("workflow", None)
            body = core.serializers.encode(json, about, "it")
    message = Message(entry.name, entry.task, body, _JSON)
    return pack_message(message if core.signer is None else core.signer.signed(message))


def body_of(definition: bytes, state: State) -> bytes:
    """Return the body of a row."""
    given: dict[str, Any] = {"last": state.last.isoformat(), "runs": state.runs, "paused": state.is_paused}
    if state.sent_due is not None and state.sent_at is not None:
        given |= {"due": state.sent_due.isoformat(), "id": state.sent_id, "at": state.sent_at.isoformat()}
    if state.skipped_due is not None:
        given |= {"skipped": dict(state.skipped), "not": [state.skipped_due.isoformat(), state.skipped_why]}
    return orjson.dumps(given) + b"\n" + definition


def read_row(core: AppCore, row: ScheduleRow) -> Kept:
    """Return what is in a row.

    Raises:
        ScheduleError: it is damaged, or not signed by one who may; the text has its name and what to do.
    """
    try:
        head, newline, definition = row.body.partition(b"\n")
        if not newline:
            raise ValueError("it is incomplete")
        state = _state(orjson.loads(head))
        message = unpack_message(definition)
        if core.signer is not None:
            core.signer.verify(message)
        if message.id != row.name:
            raise ValueError(f"it is that of {message.id!r}")
        about: Any = core.serializers.decode(_JSON, message.body, frozenset({"json"}))
        return Kept(
            row.name, row.mark, message.task, _entry(core, row.name, message.task, about), definition, about, state
        )
    except (KeyError, TypeError, ValueError, AttributeError, MessageError, CallError) as exc:
        raise ScheduleError(
            "periodic task", row.name, f"can't be read from the ledger ({exc}): aiotq schedule remove deletes it"
        ) from exc


def _entry(core: AppCore, name: str, task: str, about: Mapping[str, Any]) -> Entry | None:
    source = about["source"]
    if source not in {"code", "runtime"}:
        raise ValueError(f"it is of {shown(source)}")
    if (about["schedule"] is None or about.get("is_shown")) and source == "code":
        return None
    rules: Policy = policy_from_dict(about["policy"])
    options = {**about["options"], "overlap": about["overlap"], "timezone": about["timezone"]}
    form = about.get("workflow")
    workflow = None if form is None else as_canvas(form, core)
    schedule = from_dict(about["schedule"])
    made = entry(name, schedule, task, about["args"], about["kwargs"], options, source=source, workflow=workflow)
    return replace(made, policy=rules)


def _state(given: Any) -> State:
    if not isinstance(given, dict):
        raise TypeError("its progress is not a mapping")
    given = cast("dict[str, Any]", given)
    runs, is_paused, why = given["runs"], given["paused"], given.get("not", [None, None])
    skipped: dict[Reason, int] = given.get("skipped", {})
    if type(runs) is not int or type(is_paused) is not bool or {*skipped} - _REASONS:
        raise TypeError("its progress has values that can't be")
    return State(
        _moment(given["last"]),
        runs,
        is_paused,
        _moment_or_none(given.get("due")),
        given.get("id"),
        _moment_or_none(given.get("at")),
        skipped,
        _moment_or_none(why[0]),
        why[1],
    )


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return found.astimezone(UTC)


def _moment_or_none(text: str | None) -> datetime | None:
    return None if text is None else _moment(text)
