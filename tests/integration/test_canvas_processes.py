"""Workflows with steps in child processes: they are steps as any others."""

from __future__ import annotations

import pytest

from aiotq import ChordError, chord, group

from .canvas_process_app import add, app, become, collect, fail, grow, halve


async def test_steps_in_child_processes_take_part_in_workflows() -> None:
    async with app, app.worker(processes=1):
        whole = await chord([grow.s(1, 10, 20), become.s(2, 2), add.s(5, 5) | halve.s()], collect.s()).delay()
        mapped = await (halve.map([2, 4, 6]) | collect.s()).delay()
        tolerant = await (group(fail.s(3).allow_failure("skip"), halve.s(8)) | collect.s()).delay()
        failed = await chord([fail.s(3)], collect.s()).delay()

        assert await whole.get(timeout=30) == [1, [4, 4], 5, 20, 40]
        assert await mapped.get(timeout=10) == [1, 2, 3]
        assert await tolerant.get(timeout=10) == [4]
        with pytest.raises(ChordError, match=r"raised ValueError\('no luck', 3\)"):
            await failed.get(timeout=10)
