"""What operators do with calls beyond `Admin` and `Control`: running them again, deleting what is kept of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ..calling.core import AppCore
from ..exceptions import CallError
from ..results.document import Called, Document
from ..results.index import Finished, FinishedQuery
from ..states import PENDING, is_ready
from ..tasks.options import CallOptions
from .admin import Admin


async def run_again(
    core: AppCore, task_id: str, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None
) -> tuple[str, bool]:
    """Run a call once more; return the id that it has, and whether a dead letter was replayed for that.

    A dead letter goes to its queue again, with its id. Any other call is sent anew with another id: with these
    arguments, or with its own, which `result_extended` keeps.

    Raises:
        CallError: it has not ended, or what it was called with is not kept.
        OperationalError: broker or store can't be reached.
    """
    admin = Admin(core)
    letter = await admin.dead_letter(task_id)
    if letter is not None and letter.message is not None and args is None and kwargs is None:
        await admin.replay([letter.key])
        return letter.message.id, True
    found = await _document(core, task_id)
    name = None if found is None else found.name
    called = Called() if found is None else found.called
    if letter is not None and letter.message is not None:
        name, called = letter.message.task, Called(queue=letter.queue)
    elif not is_ready(state := PENDING if found is None else found.state):
        raise CallError(f"{task_id} has not ended: it is {state}")
    if args is None and kwargs is None:
        args, kwargs = called.args, called.kwargs
    if name is None or (args is None and kwargs is None):
        raise CallError(
            f"what {task_id} was called with is not kept: the setting result_extended keeps it, or give arguments"
        )
    options = CallOptions() if called.queue is None else CallOptions(queue=called.queue)
    result = await core.call(core.tasks.get(name, name), args or (), kwargs or {}, options)
    return result.id, False


async def delete(core: AppCore, task_ids: Sequence[str]) -> int:
    """Delete what is kept of calls that have ended: their records, and their entries in the index.

    Return how many entries there were. What runs is not stopped by it; whoever awaits one of them waits on.
    """
    reader = await core.reader()
    await reader.forget(list(task_ids))
    if not reader.records.has_index:
        return 0
    keys: list[str] = []
    for task_id in task_ids:
        page = await reader.records.find(FinishedQuery(id_prefix=task_id, limit=10))
        keys += [each.key for each in page.tasks if each.id == task_id]
    return await reader.records.unlist(keys)


async def delete_found(core: AppCore, found: Sequence[Finished]) -> int:
    """As `delete`, of calls that were found: without another search."""
    reader = await core.reader()
    await reader.forget([each.id for each in found])
    return await reader.records.unlist([each.key for each in found])


async def _document(core: AppCore, task_id: str) -> Document | None:
    with suppress(CallError):  # no results are kept
        reader = await core.reader()
        (record,) = await reader.records.get([task_id])
        return None if record is None else reader.codec.decode(record)
    return None
