"""Links and chains that go through the workers of both."""

from __future__ import annotations

import os
from typing import Any

import pytest

from aiotq import AioTQ, chain

from ..waiting import wait_until
from .celery_process import THEIRS, CeleryClient, CeleryError
from .ours import RECORDED

ON_THEIRS: dict[str, Any] = {"queue": THEIRS}


def fresh() -> str:
    return os.urandom(6).hex()


async def recorded(key: str) -> Any:
    await wait_until(lambda: key in RECORDED, "the callback ran")
    return RECORDED[key]


# Sent by Celery


async def test_celerys_callback_gets_our_result(worker: AioTQ, celery: CeleryClient) -> None:
    key = fresh()

    await celery.ask("send_linked", "ours.add", [2, 2], link=[["ours.record", [key]]])

    assert await recorded(key) == 4


async def test_celerys_error_callback_hears_of_our_failure(worker: AioTQ, celery: CeleryClient) -> None:
    key = fresh()

    task_id = await celery.ask("send_linked", "ours.fail", ["bad"], link_error=[["ours.record_error", [key]]])

    assert task_id in repr(await recorded(key))


async def test_celerys_chain_of_our_tasks_runs(worker: AioTQ, celery: CeleryClient) -> None:
    steps = [["ours.add", [1, 1]], ["ours.add", [10]], ["ours.add", [5, 5], {}, True], ["ours.add", [100]]]

    last, *others = await celery.ask("send_chain", steps)

    assert await celery.ask("get", last) == 110
    assert [await celery.ask("get", each) for each in others] == [10, 12, 2]


@pytest.mark.usefixtures("celery_worker")
async def test_celerys_chain_goes_through_both_workers(worker: AioTQ, celery: CeleryClient) -> None:
    steps = [["ours.add", [1, 1]], ["theirs.add", [10], ON_THEIRS], ["ours.add", [100]]]

    last, *_ = await celery.ask("send_chain", steps)

    assert await celery.ask("get", last) == 112


async def test_a_failed_step_of_celerys_chain_ends_it(worker: AioTQ, celery: CeleryClient) -> None:
    key = fresh()

    last, first = await celery.ask("send_chain", [["ours.fail", ["bad"]], ["ours.record", [key]]])

    await wait_until(lambda: celery.ask("is_state", first, "FAILURE"), "the first step failed")
    assert key not in RECORDED
    assert last != first


async def test_celerys_group_of_our_tasks_runs(worker: AioTQ, celery: CeleryClient) -> None:
    ids = await celery.ask("send_group", [["ours.add", [number, 1]] for number in range(3)])

    assert [await celery.ask("get", each) for each in ids] == [1, 2, 3]


async def test_a_member_of_celerys_chord_is_refused_by_name(worker: AioTQ, celery: CeleryClient) -> None:
    ids = await celery.ask("send_chord", [["ours.add", [1, 1]], ["ours.add", [2, 2]]], ["ours.record", ["never"]])

    with pytest.raises(CeleryError, match="in the header of a chord of Celery's own"):
        await celery.ask("get", ids[0])
    await wait_until(lambda: _given_up(worker, ids), "all of the header are dead letters")


async def test_every_step_of_celerys_chain_has_its_stamps(worker: AioTQ, celery: CeleryClient) -> None:
    steps = [["ours.report", []], ["ours.report", []]]

    seen = await celery.ask("get", await celery.ask("send_stamped", steps, {"a": 1, "b": ["x", 2]}))

    assert seen["stamps"] == seen["args"][0]["stamps"] == {"a": [1], "b": ["x", 2]}


async def test_celerys_calls_are_revoked_by_stamp(worker: AioTQ, celery: CeleryClient) -> None:
    key = fresh()
    await worker.admin.revoke(stamps={"run": key})

    task_id = await celery.ask("send_stamped", [["ours.add", [1, 1]]], {"run": ["other", key]})

    await wait_until(lambda: celery.ask("is_state", task_id, "REVOKED"), "the call was revoked")


async def _given_up(app: AioTQ, ids: list[str]) -> bool:
    letters = await app.admin.dead_letters("celery")
    return {letter.message.id for letter in letters if letter.message is not None} >= set(ids)


# Sent by us


@pytest.mark.usefixtures("celery_worker")
async def test_our_chain_goes_through_both_workers(worker: AioTQ) -> None:
    result = await chain(
        worker.signature("theirs.add", (1, 1), **ON_THEIRS),
        worker.signature("ours.add", (10,)),
        worker.signature("theirs.add", (100,), **ON_THEIRS),
        worker.signature("theirs.add", (5, 6), immutable=True, **ON_THEIRS),
    )()

    assert await result.get(timeout=20) == 11
    assert result.parent is not None
    assert await result.parent.get(timeout=20) == 112


@pytest.mark.usefixtures("celery_worker")
async def test_every_step_of_our_chain_has_its_stamps_at_celerys_worker(worker: AioTQ) -> None:
    report = worker.signature("theirs.report", **ON_THEIRS)

    result = await chain(report, report).stamp(a=1, b=["x", 2]).delay()

    seen = await result.get(timeout=20)
    assert seen["stamps"] == seen["args"][0]["stamps"] == {"a": [1], "b": ["x", 2]}


@pytest.mark.usefixtures("celery_worker")
async def test_our_callback_gets_a_celery_tasks_result(worker: AioTQ) -> None:
    key = fresh()

    await worker.send_task("theirs.add", (2, 3), queue=THEIRS, link=worker.signature("ours.record", (key,)))

    assert await recorded(key) == 5


@pytest.mark.usefixtures("celery_worker")
async def test_our_error_callback_hears_of_a_celery_tasks_failure(worker: AioTQ) -> None:
    key = fresh()

    result = await worker.send_task(
        "theirs.fail", ("bad",), queue=THEIRS, link_error=worker.signature("ours.record_error", (key,))
    )

    assert result.id in repr(await recorded(key))
