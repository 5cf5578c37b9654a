"""`--http`: what probes and Prometheus see of a worker or scheduler process."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest

from ..servers import RedisServer
from ..waiting import wait_until
from .shells import Command, Shell, shell

__all__ = ["shell"]


async def address_of(command: Command) -> str:
    await command.line("health and metrics at")
    found = re.search(r"health and metrics at (http://\S+)/", command.text)
    assert found is not None
    return found[1]


async def test_a_worker_tells_its_health_and_what_it_did(shell: Shell) -> None:
    async with shell.started("worker", "jobs", "--http", "127.0.0.1:0", "-B") as worker:
        address = await address_of(worker)
        await worker.line("is ready")
        shell.output("call", "jobs", "jobs.add", "--args", "[2, 2]")
        await worker.line("succeeded in")

        async with httpx.AsyncClient(base_url=address) as client:
            live, ready, metrics = [await client.get(f"/{name}") for name in ("live", "ready", "metrics")]
            assert (await client.get("/nothing")).status_code == 404
        worker.send(signal.SIGTERM)
        assert await worker.ended() == 0

    assert (live.status_code, ready.status_code) == (200, 200)
    assert 'aiotq_tasks_succeeded_total{queue="default",task="jobs.add"} 1.0' in metrics.text
    assert "aiotq_scheduler_is_live" in metrics.text


async def test_it_answers_while_a_task_blocks_the_loop(shell: Shell) -> None:
    async with shell.started("worker", "jobs", "--http", "127.0.0.1:0") as worker:
        address = await address_of(worker)
        await worker.line("is ready")
        shell.output("call", "jobs", "jobs.block", "--args", '["gate"]')
        await shell.runs("gate", worker.pid)

        async with httpx.AsyncClient(base_url=address, timeout=10) as client:
            answers = [await client.get(f"/{name}") for name in ("live", "metrics")]

    assert [each.status_code for each in answers] == [200, 200]
    assert "aiotq_worker_running" in answers[1].text


async def test_a_worker_that_waits_for_its_broker_is_live_and_not_ready(shell: Shell) -> None:
    with RedisServer() as server:
        server.kill()
        async with shell.started("worker", "jobs", "-b", server.url, "--http", "127.0.0.1:0") as worker:
            address = await address_of(worker)
            await worker.line("waiting for the broker")
            async with httpx.AsyncClient(base_url=address) as client:
                codes = [(await client.get(f"/{name}")).status_code for name in ("live", "ready")]
                assert codes == [200, 503]
                server.start()
                await worker.line("is ready")
                assert (await client.get("/ready")).status_code == 200


async def test_a_scheduler_tells_its_health(shell: Shell) -> None:
    async with shell.started("beat", "jobs", "--http", "127.0.0.1:0") as beat:
        address = await address_of(beat)
        async with httpx.AsyncClient(base_url=address) as client:

            async def is_ready() -> bool:
                return (await client.get("/ready")).status_code == 200

            await wait_until(is_ready, "the scheduler is ready")
            assert (await client.get("/live")).json()["checks"][0]["name"].startswith("scheduler ")


@pytest.mark.parametrize("address", ["nowhere", ":9100", "127.0.0.1:99999", "127.0.0.1:"])
async def test_an_address_that_can_not_be_is_refused(shell: Shell, address: str) -> None:
    assert "--http: write HOST:PORT" in shell.error("worker", "jobs", "--http", address, code=2)


async def test_an_address_that_is_taken_is_told(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = await asyncio.to_thread(shell.error, "worker", "jobs", "--no-banner", "--http", f"127.0.0.1:{port}")

    assert f"--http: can't listen at 127.0.0.1 port {port}: Address already in use" in told


async def test_one_port_speaks_for_all_workers_and_for_those_that_have_ended(shell: Shell) -> None:
    done = 'aiotq_tasks_succeeded_total{queue="default",task="jobs.add"} '
    async with shell.started("worker", "jobs", "--workers", "2", "-B", "-n", "a", "--http", "127.0.0.1:0") as parent:
        address = await address_of(parent)
        ready = [await parent.line(r"worker (a-\d) is ready \(pid (\d+)\)") for _ in range(2)]
        pids = {each[1]: int(each[2]) for each in ready}

        async with httpx.AsyncClient(base_url=address, timeout=30) as client:

            async def said(path: str) -> httpx.Response:
                return await client.get(path)

            async def is_told(sample: str) -> bool:
                return sample in (await said("/metrics")).text

            async def answers(path: str, code: int) -> bool:
                return (await said(path)).status_code == code

            shell.output("call", "jobs", "jobs.add", "--args", "[2, 2]")
            await wait_until(lambda: is_told(f"{done}1.0"), "the end of one task is counted")
            # As often as there are workers and schedulers, of which one is live.
            names = {each["name"] for each in (await said("/live")).json()["checks"]}
            assert names == {f"{kind} a-{number}" for kind in ("worker", "scheduler") for number in (1, 2)}
            await wait_until(lambda: answers("/ready", 200), "all are ready")
            told = (await said("/metrics")).text
            live = re.findall(r"aiotq_scheduler_is_live\{scheduler=\"a-\d\"\} (\d)", told)
            assert sorted(live) == ["0", "1"]
            if sys.platform == "linux":
                pages = int(Path(f"/proc/{parent.pid}/statm").read_text().split()[1])
                assert pages * os.sysconf("SC_PAGE_SIZE") <= 30 * 1024**2

            os.kill(pids["a-1"], signal.SIGSTOP)  # neither its loop nor its thread answers
            assert await answers("/live", 200)
            assert await answers("/ready", 503)
            os.kill(pids["a-1"], signal.SIGKILL)
            await parent.line(r"worker a-1\.2 is ready")
            parent.send(signal.SIGHUP)
            await parent.line("all workers are replaced")
            shell.output("call", "jobs", "jobs.add", "--args", "[2, 2]")
            await wait_until(lambda: is_told(f"{done}2.0"), "what an ended worker had counted is told")
            assert (await said("/nothing")).status_code == 404
            assert (await client.post("/live")).status_code == 405
            openmetrics = await client.get("/metrics", headers={"accept": "application/openmetrics-text"})
            assert openmetrics.text.endswith("# EOF\n")
        parent.send(signal.SIGTERM)
        assert await parent.ended() == 0


async def test_several_workers_that_are_reloaded_have_no_port(shell: Shell) -> None:
    told = shell.error("worker", "jobs", "--workers", "2", "--reload", "--http", "127.0.0.1:0", code=2)

    assert "--http: with --reload one worker alone" in told
