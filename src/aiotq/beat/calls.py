"""What an occurrence sends: one message, of a call or of a workflow's first call, with ids made of the occurrence's."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, cast

from ..calling.callbacks import call_options, signature_options
from ..calling.core import AppCore
from ..calling.envelopes import Part
from ..calling.middleware import OutgoingCall
from ..calling.publish_signals import Build
from ..canvas.planner import NOTHING, Planner, Position
from ..canvas.signature import Canvas, Signature
from ..canvas.structure import (
    begun_by_one_call,
    ending_in_one_call,
    first_calls,
    frozen,
    signatures_of,
    with_all_headers,
    with_final_options,
    with_first_calls,
)
from ..core.values import replace, value
from ..tasks.options import CallOptions
from ..tasks.request import PERIODIC_DUE, PERIODIC_NAME
from ..wire.message import Envelope
from .entries import Entry
from .occurrences import Occurrence, occurrence_id


@value(eq=False)
class Sent:
    """What is sent for an occurrence: a call, and the workflow that it starts, if there is more of it."""

    call: OutgoingCall
    workflow: Canvas[Any] | None = None

    def build(self, core: AppCore) -> Build:
        """Return what makes the messages of the call: more than one if it is routed to several queues.

        Raises:
            NotRegistered: a task of it is not known here.
        """
        if self.workflow is None:
            return partial(core.builder.envelopes, core.find_task(self.call.task), reply_to=None)
        for each in signatures_of(self.workflow):
            core.find_task(each.task)
        return partial(_planned, core, self.workflow)


def sent_for(core: AppCore, entry: Entry, occurrence: Occurrence, now: float) -> Sent:
    """Return what is sent for an occurrence at `now`."""
    headers = headers_of(entry.name, occurrence.due)
    if entry.workflow is None:
        options: dict[str, Any] = _timed(entry.options, occurrence, now)
        options["task_id"] = occurrence.id
        options["headers"] = {**(options.get("headers") or {}), **headers}
        return Sent(OutgoingCall(entry.task, entry.args, entry.kwargs, cast(CallOptions, options)))
    whole = sent_workflow(core, entry, entry.workflow, occurrence.due)
    numbers = itertools.count()
    whole = frozen(
        with_final_options(whole, task_id=occurrence.id),
        lambda: occurrence_id(f"{occurrence.id}/{next(numbers)}", occurrence.due),
    )
    (first,) = first_calls(whole)
    options = _timed(call_options(first.options), occurrence, now)
    return Sent(OutgoingCall(first.task, first.args, first.kwargs, cast(CallOptions, options)), whole)


def sent_workflow(core: AppCore, entry: Entry, workflow: Canvas[Any], due: datetime) -> Canvas[Any]:
    """Return the workflow of an entry as it is sent: one call starts it, one ends it, all know what they are for."""
    headers = headers_of(entry.name, due)
    whole = with_all_headers(ending_in_one_call(workflow.clone(**entry.options)), headers)
    first = first_calls(whole)[0]
    options = call_options(first.options)
    # Where the first call goes, somebody takes messages: the call that starts it goes there as well.
    like = core.builder.envelopes(
        core.tasks.get(first.task, first.task), (), {}, options, reply_to=None, part=Part(None, None, None, {})
    )[0]
    return begun_by_one_call(whole, queue=like.queue, priority=like.priority, headers=headers)


def headers_of(name: str, due: datetime) -> Mapping[str, str]:
    """Return the headers by which a task knows its entry."""
    return {PERIODIC_NAME: name, PERIODIC_DUE: due.isoformat()}


def _timed(given: Mapping[str, Any], occurrence: Occurrence, now: float) -> dict[str, Any]:
    """Return the options of a call such that it starts, and expires, as the occurrence says."""
    options = dict(given)
    start = occurrence.start
    if later := options.pop("countdown", None):
        start += later if isinstance(later, timedelta) else timedelta(seconds=later)
    if start.timestamp() > now:
        options["eta"] = start
    if occurrence.expires is not None:
        options.setdefault("expires", occurrence.expires)
    return options


def _planned(
    core: AppCore, workflow: Canvas[Any], args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions
) -> Sequence[Envelope]:
    """Return the messages of the call that starts `workflow`, with these arguments and options.

    They carry all of it: joins are opened by its workers, so there is nothing to be opened before a message is sent.
    """
    (first,) = first_calls(workflow)
    call: Signature[Any] = replace(
        first, args=tuple(args), kwargs=kwargs, options={**signature_options(first.options), **options}
    )
    planner = Planner(core.builder, has_joins=False)
    place = Position(root_id=call.options.get("task_id"))
    return planner.plan(with_first_calls(workflow, [call]), NOTHING, place).envelopes
