"""Looking into the broker and clearing up: queues, purging, dead letters (P5)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Literal

from ..calling.core import AppCore
from ..core.values import replace
from ..exceptions import CallError, EncodeError, InvalidOption, OperationalError
from ..results.blocks import Block
from ..results.handle import LONG_REVOCATION
from ..results.ledger import PAUSED
from ..results.revocations import of_header, of_root, of_stamp, of_task
from ..tasks.options import stamps_of
from ..tasks.task import Task
from ..transport import Broker, DeadLetter, QueueStats
from ..wire.message import MAX_NAME, is_name
from . import blocks
from .celery_mail import tell_revoked

#: Seconds for which all calls of a task or with a header are revoked, unless told otherwise.
_WIDE_REVOCATION: Final = 86_400.0
#: Dead letters looked at together when all are replayed: their bodies are in memory meanwhile.
_PAGE: Final = 200


class Admin:
    """Queues, dead letters and revocations, for operators (`app.admin`); the command line uses it.

        for queue in await app.admin.queues():
            print(queue.name, queue.ready, queue.oldest_age)

    Everything here raises `OperationalError` when the broker can't be reached.
    """

    def __init__(self, core: AppCore, *, is_celery_told: bool = False) -> None:
        """`is_celery_told`: Celery's workers know already of what is revoked."""
        self._core = core
        self._is_celery_told = is_celery_told or core.signer is not None

    async def queues(self, names: Collection[str] | None = None) -> Sequence[QueueStats]:
        """Return how full the queues called `names` are (default: all that hold anything, or are paused)."""
        connection = await self._core.connection()
        paused = await connection.ledger.paused_queues()
        found = list(await connection.broker.stats(names))
        if names is None and (empty := paused.keys() - {each.name for each in found}):
            found = sorted([*found, *await connection.broker.stats(empty)], key=lambda each: each.name)
        return [replace(each, paused_since=paused.get(each.name)) for each in found] if paused else found

    async def pause(self, queue: str) -> bool:
        """Have all workers take no more from `queue`, until `resume`; False: it was paused already.

        Calls are accepted and wait. What workers have taken goes on. Workers that start later respect it.

        Raises:
            StoreRequired: no store is shared by all workers (`rpc://`).
            InvalidOption: no queue can have this name.
        """
        ledger = (await self._core.connection()).ledger
        is_new = await ledger.pause_queue(_checked_queue(queue), self._core.clock.time())
        await self._tell_of_pauses()
        return is_new

    async def block(
        self,
        task: Task[..., Any] | str,
        *,
        where: Mapping[str, Any] | None = None,
        action: Literal["hold", "reject"] = "hold",
        for_: float = 3600.0,
        reason: str = "",
    ) -> Block:
        """Have calls of `task` whose arguments are as `where` says (none: all) not start for `for_` seconds.

        They wait in the broker ("hold"), or end as REVOKED ("reject"). What runs goes on. Workers read the arguments
        from the message, whoever sent it; arguments are equal if they are as JSON.

        Raises:
            InvalidOption: something of it can't be.
            StoreRequired: no store is shared by all workers (`rpc://`).
        """
        return await blocks.block(self._core, task, where or {}, action, for_, reason)

    async def blocks(self) -> Sequence[Block]:
        """Return the blocks that hold, the first to end in front."""
        return await blocks.blocks(self._core)

    async def unblock(self, block_id: str) -> int:
        """Lift a block, and let go of the calls that it holds; return how many of them were made due.

        RabbitMQ can't make a call due: there 0 is returned, and each asks again by itself, within a minute.

        Raises:
            CallError: there is no block of this id.
        """
        count = await blocks.unblock(self._core, block_id)
        if count is None:
            raise CallError(f"there is no block {block_id!r}")
        return count

    async def resume(self, queue: str) -> bool:
        """Have all workers take from `queue` again; False: it was not paused. Raises as `pause`."""
        ledger = (await self._core.connection()).ledger
        was_paused = await ledger.resume_queue(_checked_queue(queue))
        await self._tell_of_pauses()
        return was_paused

    async def purge(self, queue: str) -> int:
        """Delete what is ready or delayed in `queue`; return how many. What runs goes on."""
        return await (await self._broker()).purge(queue)

    async def dead_letters(self, queue: str | None = None, *, limit: int = 100) -> Sequence[DeadLetter]:
        """Return up to `limit` dead letters, the newest first."""
        return await (await self._broker()).dead_letters(queue, limit=limit)

    async def dead_letter(self, key: str) -> DeadLetter | None:
        """Return one dead letter by its key or its task's id."""
        return await (await self._broker()).dead_letter(key)

    async def replay(self, keys: Sequence[str]) -> int:
        """Send dead letters, named by key or task id, to their queues again; return how many were sent.

        The failure recorded for them is forgotten first: the result of the second run is the one that counts.
        Interrupted in between, the letters are still there. One whose message could not be read stays, and does
        not count.
        """
        broker = await self._broker()
        letters = [letter for key in keys if (letter := await broker.dead_letter(key)) is not None]
        return await self._replay(list({letter.key: letter for letter in letters}.values()))

    async def replay_all(self, queue: str | None = None) -> int:
        """Replay every dead letter (of `queue`) that was there when this began; return how many were sent."""
        broker = await self._broker()
        began = self._core.clock.time()
        replayed, limit = 0, _PAGE
        while True:
            letters = await broker.dead_letters(queue, limit=limit)
            chosen = [letter for letter in letters if letter.message is not None and letter.died_at <= began]
            if chosen and (count := await self._replay(chosen)):
                replayed += count
            elif len(letters) < limit:
                return replayed
            else:
                limit *= 2  # unreadable and newer ones stand before the rest

    async def remove_dead(self, keys: Sequence[str]) -> int:
        """Delete dead letters by their keys; return how many there were."""
        return await (await self._broker()).remove_dead(keys)

    async def purge_dead(self, queue: str | None = None, *, older_than: float | None = None) -> int:
        """Delete dead letters (of `queue`; those that died more than `older_than` seconds ago); return how many."""
        before = None if older_than is None else self._core.clock.time() - older_than
        return await (await self._broker()).purge_dead(queue, before=before)

    async def revoke(
        self,
        *task_ids: str,
        tasks: Collection[str] = (),
        roots: Collection[str] = (),
        headers: Mapping[str, Any] | None = None,
        stamps: Mapping[str, Any] | None = None,
        terminate: bool = False,
        expires: float | None = None,
    ) -> None:
        """See to it that calls do not run: they end as REVOKED when a worker comes to them.

            await app.admin.revoke(result.id, other.id)
            await app.admin.revoke(tasks=["proj.send_mail"], terminate=True)
            await app.admin.revoke(headers={"customer": 7}, expires=3600)
            await app.admin.revoke(stamps={"campaign": ["spring", "autumn"]})
            await app.admin.revoke(roots=[result.id])

        By id; all calls of tasks; a call and all that it led to (`roots`: the ids of what was called first, in a
        workflow the `root_id` of its requests); all calls that have one of `headers`, or one of a stamp's values. This
        holds for `expires` seconds (None: a year for ids and `roots`, a day otherwise), for workers that start later,
        and for calls that are sent later. With `terminate` those that run are cancelled, as `AsyncResult.revoke` says.

        With `celery_compat` on RabbitMQ the workers of Celery that run now are told of ids and stamps too. They know
        no other way to name calls, and with `security_key` they are not told.

        Raises:
            CallError: nothing is named.
            InvalidOption: a name or `expires` is impossible.
            EncodeError: a header or stamp has no form in JSON.
        """
        lasting, passing = _keys(task_ids, tasks, roots, headers or {}, stamps or {})
        if expires is not None and not 0 < expires < float("inf"):
            raise InvalidOption(f"revoke: expires must be seconds, more than 0, not {expires!r}")
        connection = await self._core.connection()
        ledger, now = connection.ledger, self._core.clock.time()
        for keys, seconds in ((lasting, LONG_REVOCATION), (passing, _WIDE_REVOCATION)):
            if keys:
                ends = now + (seconds if expires is None else expires)
                await ledger.revoke(keys, terminate=terminate, expires=ends)
        if not self._is_celery_told:
            await tell_revoked(connection.celery, task_ids, stamps_of(stamps or {}), terminate=terminate)

    async def unrevoke(
        self,
        *task_ids: str,
        tasks: Collection[str] = (),
        roots: Collection[str] = (),
        headers: Mapping[str, Any] | None = None,
        stamps: Mapping[str, Any] | None = None,
    ) -> None:
        """Take `revoke` back for what it was said of; what has ended as REVOKED stays so. Raises as that."""
        lasting, passing = _keys(task_ids, tasks, roots, headers or {}, stamps or {})
        await (await self._core.connection()).ledger.unrevoke([*lasting, *passing])

    async def _tell_of_pauses(self) -> None:
        """Have workers look now; who misses it looks within seconds."""
        with suppress(OperationalError):
            await (await self._core.connection()).bus.tell_all(PAUSED, b"")

    async def _replay(self, letters: Sequence[DeadLetter]) -> int:
        readable = [(letter.key, letter.message.id) for letter in letters if letter.message is not None]
        if not readable:
            return 0
        connection = await self._core.connection()
        ids = [task_id for _, task_id in readable]
        await connection.ledger.forget(ids)
        await connection.records.forget(ids)
        return await connection.broker.replay([key for key, _ in readable])

    async def _broker(self) -> Broker:
        return (await self._core.connection()).broker


def _checked_queue(name: str) -> str:
    if not is_name(name):
        raise InvalidOption(f"a queue's name is 1 to {MAX_NAME} printable characters, not {name!r}")
    return name


def _keys(
    task_ids: Sequence[str],
    tasks: Collection[str],
    roots: Collection[str],
    headers: Mapping[str, Any],
    stamps: Mapping[str, Any],
) -> tuple[Sequence[str], Sequence[str]]:
    """Return the keys under which revocations are stored: of ids, roots, tasks, headers and stamps."""
    for option, names in (("task_ids", task_ids), ("tasks", tasks), ("roots", roots)):
        if isinstance(names, str):
            raise InvalidOption(f"revoke: {option} is a list of names: [{names!r}], not {names!r}")
        for name in names:
            if not is_name(name):
                raise InvalidOption(
                    f"revoke: {option} must be strings of 1 to {MAX_NAME} printable characters, not {name!r}"
                )
    if not (task_ids or tasks or roots or headers or stamps):
        raise CallError("revoke: nothing is named; give ids, tasks, roots, headers or stamps")
    try:
        wide = [of_header(name, given) for name, given in headers.items()]
        wide += [of_stamp(name, given) for name, values in stamps_of(stamps).items() for given in values]
    except TypeError as exc:
        raise EncodeError(f"revoke: a header or stamp can't be so: {exc}") from exc
    except ValueError as exc:
        raise InvalidOption(f"revoke: stamps: {exc}") from None
    return [*task_ids, *map(of_root, roots)], [*map(of_task, tasks), *wide]
