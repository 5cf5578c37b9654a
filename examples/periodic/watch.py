"""A program that looks after a folder, with periodic tasks alone: it counts its files, reports, and clears away.

    python watch.py [FOLDER]

Worker and scheduler run in this process. Start the program twice: the second one only helps, and each occurrence still
runs once. Or run the parts apart: `aiotq worker watch:app` and, any number of times, `aiotq beat watch:app`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aiotq import AioTQ, crontab, current_task

app = AioTQ("watch", timezone="Europe/Berlin")
FOLDER = Path(sys.argv[1] if __name__ == "__main__" and len(sys.argv) > 1 else ".").resolve()


@app.periodic(1.0, args=[str(FOLDER)], overlap="skip")  # a slow disk: the next look waits for the one before
@app.task
def count(folder: str) -> int:
    """Runs in a thread, once a second."""
    files = sum(each.is_file() for each in Path(folder).iterdir())
    occurrence = current_task.request.periodic
    if occurrence is not None:
        print(f"{occurrence.due:%H:%M:%S} {files} files in {folder}", flush=True)
    return files


@app.periodic(crontab(minute=30, hour=7, day_of_week="mon-fri"), name="report", misfire=3600)
@app.task
async def report() -> None:
    """On weekdays at 07:30. If no scheduler ran then, it is sent up to an hour late."""
    print("good morning")


async def main() -> None:
    async with app, app.worker(), app.beat():
        for due, task in await app.schedules.next(1, "report"):
            print(f"next {task.name}: {due:%a %H:%M %Z}", flush=True)
        await asyncio.sleep(4)
        for each in await app.schedules.list():
            print(f"{each.name}: {each.shown}, sent {each.runs} times")


if __name__ == "__main__":
    asyncio.run(main())
