"""A worker and its callers while connections to RabbitMQ fail: nothing is lost, and everybody goes on (P1, P2, P7)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from aiotq import AsyncResult
from aiotq.exceptions import InvalidSetting, NotConnected, OperationalError, PublishTimeout

from ..proxy import Proxy
from ..servers import free_port, shared_rabbit
from ..waiting import wait_until
from .amqp_work import Work, vhost_of


@pytest.fixture
def vhost() -> str:
    return shared_rabbit().vhost()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy(shared_rabbit().port) as proxy:
        yield proxy


def through(proxy: Proxy, url: str, options: str = "") -> str:
    return f"amqp://guest:guest@127.0.0.1:{proxy.port}/{vhost_of(url)}{options}"


async def test_a_running_task_survives_a_cut_connection_and_runs_once(vhost: str, proxy: Proxy) -> None:
    work = Work(through(proxy, vhost), worker_lease=15.0)
    other = Work(vhost, backend=work.app.conf.result_backend, worker_lease=15.0)
    async with work.app, work.app.worker():
        results = [await work.hold.delay(x) for x in range(5)]
        await wait_until(lambda: len(work.began) == 5, "they run")
        async with other.app, other.app.worker():
            proxy.cut()
            await work.works()
            work.gate.set()
            assert [await result.get(timeout=10) for result in results] == [0, 2, 4, 6, 8]

    assert {x: count for x, count in (work.began + other.began).items() if x != 21} == dict.fromkeys(range(5), 1)


async def test_calls_and_tasks_go_on_through_many_cuts_and_none_is_lost(vhost: str, proxy: Proxy) -> None:
    work = Work(through(proxy, vhost), worker_lease=15.0, amqp_queue_type="quorum")
    async with work.app, work.app.worker():

        async def cut() -> None:
            for _ in range(4):
                await asyncio.sleep(0.25)
                proxy.cut()

        async with asyncio.TaskGroup() as group:
            cutting = group.create_task(cut())
            results: list[AsyncResult[int]] = []
            while not cutting.done():
                results.append(await work.double.delay(len(results)))
        assert [await result.get(timeout=20) for result in results] == [2 * x for x in range(len(results))]

    assert set(work.began.values()) == {1}


async def test_a_silent_connection_is_torn_down_and_made_anew(
    vhost: str, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(through(proxy, vhost, "?heartbeat=1&reply_timeout=1"), worker_lease=15.0)
    async with work.app, work.app.worker():
        await work.works()
        proxy.black_hole()
        await wait_until(lambda: caplog.text.count("silent for") >= 2, "both connections are closed", timeout=20)
        proxy.restore()
        await work.works(timeout=20)


async def test_a_server_that_is_not_there_is_passed_over(
    vhost: str, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(f"amqp://guest:guest@127.0.0.1:{free_port()},127.0.0.1:{proxy.port}/{vhost_of(vhost)}")

    async with asyncio.timeout(10), work.app, work.app.worker():
        await work.works()

        assert proxy.connections > 0, "it is connected to the server that is there"
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_without_any_server_the_error_names_it_and_says_that_nothing_was_sent() -> None:
    port = free_port()
    work = Work(f"amqp://127.0.0.1:{port}")

    with pytest.raises(PublishTimeout, match=f"it was not sent .*127.0.0.1:{port} can't be reached"):
        await work.double.apply_async((1,), publish_timeout=0.5)


async def test_wrong_passwords_and_virtual_hosts_are_named(vhost: str) -> None:
    at = urlsplit(vhost)
    for url, why in [
        (f"amqp://guest:wrong@127.0.0.1:{at.port}{at.path}", "refused user 'guest'|ACCESS_REFUSED"),
        (f"amqp://guest:guest@127.0.0.1:{at.port}/nowhere", "virtual host"),
    ]:
        with pytest.raises(OperationalError, match=why) as refused:
            await Work(url).double.delay(1)
        assert not isinstance(refused.value, NotConnected)


async def test_a_virtual_host_with_all_its_connections_is_not_taken_for_one_that_is_missing(vhost: str) -> None:
    name = f'<<"{vhost_of(vhost)}">>'
    limits = '[{<<"max-connections">>, 0}]'
    shared_rabbit().eval(f'ok = rabbit_vhost_limit:set({name}, {limits}, <<"test">>)')

    with pytest.raises(OperationalError, match=r"a limit of the server is reached.*connection limit"):
        await Work(vhost).double.delay(1)

    at = urlsplit(vhost)
    with pytest.raises(OperationalError, match="the virtual host of the URL does not exist"):
        await Work(f"amqp://guest:guest@127.0.0.1:{at.port}/limit-reached").double.delay(1)


async def test_connections_are_named_in_the_management_page(vhost: str) -> None:
    work = Work(vhost)
    async with work.app, work.app.worker() as worker:
        said = "rabbit_networking:connection_info_all([client_properties])"
        shown = shared_rabbit().eval(f'lists:flatten(io_lib:format("~p", [{said}]))')

    assert worker.name in shown


async def test_urls_that_can_not_be_used_are_refused_without_their_password() -> None:
    with pytest.raises(InvalidSetting, match="heartbeat") as refused:
        await Work("amqp://me:secret@host?heartbeat=x").double.delay(1)

    assert "secret" not in str(refused.value)
