"""A script that hands work to a worker, twice: as plain code, and as a coroutine.

aiotq worker words:app        # in another terminal, in this directory
python words.py some words
"""

from __future__ import annotations

import asyncio
import sys

from aiotq import AioTQ

app = AioTQ("words")


@app.task
async def count(word: str) -> int:
    return len(word)


def plain(words: list[str]) -> int:
    """Send one call a word, and wait for all; there is no loop here."""
    results = [count.sync.delay(word) for word in words]
    return sum(result.get(timeout=30) for result in results)


async def at_once(words: list[str]) -> int:
    """Send all calls in one round trip."""
    async with app:
        results = await app.send_many(count.s(word) for word in words)
        return sum(await results.get(timeout=30))


if __name__ == "__main__":
    print(plain(sys.argv[1:]), asyncio.run(at_once(sys.argv[1:])))
