"""An app with tasks for processes of their own: a child imports this module, so they stand at its top."""

from __future__ import annotations

from aiotq import AioTQ

from .process_tasks import announce_and_burn

app = AioTQ("process_app", broker="memory://", worker_processes=1)


@app.task
async def nothing() -> None: ...


@app.task(run="process")
async def send_from_the_child() -> str:
    return (await nothing.delay()).id


@app.task(run="process", time_limit=30 * 86_400)
def echo_within_a_month(x: int) -> int:
    return x


@app.task(run="process")
def burn_for_long(where: str) -> None:
    announce_and_burn(where)
