"""Dead letters: why messages were given up, and running them again or letting them go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from starlette.responses import Response

from ...control.views import DeadView
from .desk import Desk, is_confirmed
from .forms import BadForm, Form
from .visits import Done, Visit
from .words import counted, number

#: Letters on a page, and of which a page looks through the newest.
_A_PAGE: Final = 50
_MOST: Final = 1_000
#: What a reason means, and what to do.
_REASONS: Final[Mapping[str, tuple[str, str]]] = {
    "poison": (
        "Killed its worker",
        "Its worker died each time it ran: see that machine's log for the memory it took. Replay it when the cause is "
        'gone, or run the task with run="process" and a limit.',
    ),
    "malformed": ("Unreadable", "It is no message of aiotq, or was cut off: find out who sends to this queue."),
    "unregistered": ("Unknown task", "No worker here knows the task: deploy the code that has it, then replay."),
    "rejected": ("Rejected", "The task asked for this itself. Read its detail; replay it when the cause is gone."),
    "refused": ("Refused", "Its outcome could not be stored or sent, for good: most often it was too large."),
    "forbidden": ("Forbidden", "Its content type is not among accept_content: change the sender, or the setting."),
    "unsigned": ("Not signed", "It has no signature of security_key: who sends without it?"),
    "bad-signature": ("Wrongly signed", "It was signed with another key, or was changed on its way."),
    "expired": ("Expired", "It waited longer than it was to be run at all."),
    "defect": ("Defect", "aiotq itself failed: please report it with the detail."),
}


def reason(name: str) -> tuple[str, str]:
    """Return a reason in words, and what to do."""
    found = _REASONS.get(name)
    return (
        found if found is not None else (name[:1].upper() + name[1:], "Read its detail; replay it when that is mended.")
    )


async def page(desk: Desk, visit: Visit) -> Response:
    """Return the page of dead letters, one of them opened if that is asked for."""
    queue, why, text = visit.query.get("queue") or None, visit.query.get("why", ""), visit.query.get("find", "").strip()
    letters = await desk.queries.dead_letters(queue, limit=_MOST)
    reasons = Counter(each.reason for each in letters)
    found = [each for each in letters if (not why or each.reason == why) and (not text or _says(each, text))]
    start = number(visit.query.get("from", ""))
    look = await desk.watch.look()
    return await desk.page(
        visit,
        "dead.html",
        "dead",
        live="dead",
        letters=found[start : start + _A_PAGE],
        reasons=[(name, reason(name)[0], count) for name, count in reasons.most_common()],
        reason=reason,
        why=why,
        queue=queue,
        text=text,
        queues=sorted(
            {each.stats.name for each in look.queues if each.stats.dead} | ({queue} if queue else set[str]())
        ),
        total=len(found),
        is_cut=len(letters) == _MOST,
        start=start,
        a_page=_A_PAGE,
        opened=visit.query.get("show", ""),
    )


def _says(letter: DeadView, text: str) -> bool:
    wanted = text.casefold()
    said = (letter.key, letter.detail, letter.reason, letter.id, letter.name, letter.args)
    return any(wanted in each.casefold() for each in said if each is not None)


def _to(visit: Visit, form: Form) -> str:
    return visit.url("dead", queue=form.get("queue"), why=form.get("why"), find=form.get("find"))


async def _replay(desk: Desk, visit: Visit, form: Form) -> Done:
    keys = form.all("key")
    if not keys:
        raise BadForm("no letter was chosen")
    count = await desk.app.admin.replay(keys)
    left = len(keys) - count
    more = f" {counted(left, 'letter')} stayed: unreadable, or gone already." if left else ""
    return Done(f"{counted(count, 'dead letter')} sent to run again.{more}", _to(visit, form), is_ok=count > 0)


async def _replay_all(desk: Desk, visit: Visit, form: Form) -> Done:
    queue = form.get("queue") or None
    where = f" of {queue}" if queue else ""
    is_confirmed(
        form,
        "",
        title=f"Replay all dead letters{where}?",
        lost="Each is sent to its queue again and runs once more: what killed a worker before may do so again.",
        button="Replay all",
    )
    count = await desk.app.admin.replay_all(queue)
    return Done(f"{counted(count, 'dead letter')}{where} sent to run again.", _to(visit, form))


async def _delete(desk: Desk, visit: Visit, form: Form) -> Done:
    keys = form.all("key")
    if not keys:
        raise BadForm("no letter was chosen")
    if not is_confirmed(
        form,
        "delete",
        title=f"Delete {counted(len(keys), 'dead letter')}?",
        lost="They are the last trace of these tasks. Nobody can replay them afterwards.",
        button=f"Delete {counted(len(keys), 'letter')}",
    ):
        return Done('Nothing was deleted: what was typed is not "delete".', _to(visit, form), is_ok=False)
    count = await desk.app.admin.remove_dead(keys)
    return Done(f"{counted(count, 'dead letter')} deleted.", _to(visit, form))


async def _purge(desk: Desk, visit: Visit, form: Form) -> Done:
    queue = form.get("queue") or None
    word = queue or "all dead letters"
    if not is_confirmed(
        form,
        word,
        title=f"Delete all dead letters{f' of {queue}' if queue else ''}?",
        lost="They are the last trace of these tasks. Nobody can replay them afterwards.",
        button="Delete all",
    ):
        return Done(f"Nothing was deleted: what was typed is not {word}.", _to(visit, form), is_ok=False)
    count = await desk.app.admin.purge_dead(queue)
    return Done(f"{counted(count, 'dead letter')} deleted.", visit.url("dead"))


async def _act(desk: Desk, visit: Visit, form: Form) -> Done:
    """Do with the chosen letters what the button says that was pressed."""
    return await (_delete if form.get("act") == "delete" else _replay)(desk, visit, form)


ACTS: Final[Mapping[str, Callable[[Desk, Visit, Form], Awaitable[Done]]]] = {
    "dead/chosen": _act,
    "dead/replay-all": _replay_all,
    "dead/purge": _purge,
}
