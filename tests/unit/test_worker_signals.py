"""Signals of a worker's process that come in the middle of another one's handler."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import signal
from collections.abc import Iterator
from typing import Any, cast

import pytest

from aiotq.commands.worker_signals import Signals

_HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class StubWorker:
    """What the signals want of a worker."""

    def __init__(self) -> None:
        self.running = 0
        self.stop_signal = ""
        self.is_cut_short = asyncio.Event()

    def stop_now(self) -> None:
        self.is_cut_short.set()


@pytest.fixture(autouse=True)
def handlers_as_they_were() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in _HEARD}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def test_a_second_signal_in_the_middle_of_the_first_stops_the_worker_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    again = iter([signal.SIGTERM])

    def in_the_middle(*_: object, **__: object) -> None:
        for number in again:
            signal.raise_signal(number)

    monkeypatch.setattr(faulthandler, "dump_traceback_later", in_the_middle)
    caplog.set_level(logging.INFO, "aiotq.worker")
    worker = StubWorker()
    signals = Signals(cast(Any, worker), 1.0)
    signals.can_wait = True
    signals.listen()

    signal.raise_signal(signal.SIGTERM)
    async with asyncio.timeout(5):
        await signals.asked()
        await worker.is_cut_short.wait()
        await asyncio.sleep(0)
    assert sorted(message.partition(":")[2].split()[0] for message in caplog.messages) == ["handing", "stopping;"]
