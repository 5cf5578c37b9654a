"""`aiotq migrate-db`: aiotq's tables in PostgreSQL and SQL are made, or brought to this version."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from ..backends.base import backend_class, shown_place
from ..exceptions import OperationalError
from . import output
from .app_option import CommandFailed, Target
from .command import command


@command()
def migrate_db(target: Target) -> None:
    """Make the tables in PostgreSQL and SQL, or bring them to this version; workers need not run."""
    conf = target.load(with_tasks=False).conf
    urls = dict.fromkeys(url for url in (conf.broker_url, conf.result_backend, conf.ledger) if url is not None)
    has_any = False
    for url in urls:
        kind = backend_class(url)
        applied = _applied(kind.migrate(url)) if kind is not None else None
        if applied is not None:
            has_any = True
            done = f"{output.count(applied, 'migration')} applied" if applied else "up to date"
            print(f"{shown_place(url)}: {done}")
    if conf.outbox is not None:
        from ..backends.sql.outbox import migrate  # noqa: PLC0415

        has_any = True
        done = "made" if _applied(migrate(conf.outbox)) else "up to date"
        print(f"{shown_place(conf.outbox)}: outbox {done}")
    if not has_any:
        raise CommandFailed("neither broker nor results are in a database of SQL: there are no tables to be made")


def _applied(migrating: Coroutine[Any, Any, int | None]) -> int | None:
    try:
        return asyncio.run(migrating)
    except OperationalError as exc:
        raise CommandFailed(str(exc)) from exc
