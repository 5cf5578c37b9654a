"""An app on Redis with a task for a process of its own: the child imports this module, so it stands at its top.

Its broker is named in the environment.
"""

from __future__ import annotations

from aiotq import AioTQ

app = AioTQ("redis_process_app", worker_processes=1)


@app.task
async def double(x: int) -> int:
    return 2 * x


@app.task(run="process")
def call_from_the_child(x: int) -> int:
    return double.sync.delay(x).get(timeout=20)
