"""Workers that do nothing: `python -m benchmarks.idlers COUNT`, each with connections of its own, until stdin ends."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack

from aiotq import AioTQ


async def idle(count: int) -> None:
    """Have `count` workers until whoever started this process closes its standard input."""
    async with AsyncExitStack() as stack:
        for number in range(count):
            idler = AioTQ(f"idler{number}")
            await stack.enter_async_context(idler)
            await stack.enter_async_context(idler.worker())
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(idle(int(sys.argv[1])))
