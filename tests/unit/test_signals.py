"""Signals: who is called, in which order, and that a receiver's failure is its own."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from aiotq import AioTQ, signals
from aiotq.exceptions import InvalidOption
from aiotq.signals import Signal, connected


@pytest.fixture
def happened() -> Signal:
    return Signal("happened", "what")


class Seen:
    """A receiver with a name for its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, Any]] = []

    def note(self, sender: object, what: Any = None, **more: Any) -> None:
        self.calls.append((sender, what))

    async def await_and_note(self, sender: object, what: Any = None, **more: Any) -> None:
        await asyncio.sleep(0)
        self.calls.append((sender, what))


async def test_receivers_are_called_in_the_order_in_which_they_connected(happened: Signal) -> None:
    order: list[str] = []

    @happened.connect
    def first(**named: Any) -> None:
        order.append(f"first {named['what']}")

    @happened.connect()
    async def second(**named: Any) -> None:
        await asyncio.sleep(0)
        order.append(f"second {named['sender']}")

    assert first.__name__ == "first"

    await happened.send("me", what=1)

    assert order == ["first 1", "second me"]
    assert second.__name__ == "second"


async def test_a_receiver_is_told_which_signal_it_is(happened: Signal) -> None:
    told: list[Signal] = []

    @happened.connect
    def receive(signal: Signal, **more: Any) -> None:
        told.append(signal)

    await happened.send(None)

    assert told == [happened]
    assert repr(happened) == "<Signal happened(what)>"
    assert receive is not None


async def test_a_sender_limits_what_is_told_by_identity_or_name(happened: Signal) -> None:
    app = AioTQ("test", broker="memory://")

    @app.task(name="proj.add")
    async def add() -> None: ...

    @app.task(name="proj.other")
    async def other() -> None: ...

    by_task, by_name, all_of_them = Seen(), Seen(), Seen()
    happened.connect(by_task.note, sender=add)
    happened.connect(by_name.note, sender="proj.add")
    happened.connect(all_of_them.note)

    for sender in (add, other, "proj.add", "proj.other"):
        await happened.send(sender)

    assert [sender for sender, _ in by_task.calls] == [add, "proj.add"]
    assert [sender for sender, _ in by_name.calls] == [add, "proj.add"]
    assert len(all_of_them.calls) == 4


async def test_a_receiver_connected_twice_is_called_once(happened: Signal) -> None:
    seen = Seen()
    happened.connect(seen.note)
    happened.connect(seen.note)
    happened.connect(seen.note, sender="me")

    await happened.send("me")

    assert len(seen.calls) == 2


async def test_a_dispatch_uid_stands_for_one_receiver(happened: Signal) -> None:
    one, other = Seen(), Seen()
    happened.connect(one.note, dispatch_uid="audit")
    happened.connect(other.note, dispatch_uid="audit")

    await happened.send(None)
    assert happened.disconnect(dispatch_uid="audit")
    await happened.send(None)

    assert (len(one.calls), len(other.calls)) == (1, 0)


async def test_disconnecting_says_whether_there_was_anything(happened: Signal) -> None:
    seen = Seen()
    happened.connect(seen.note)
    assert happened in connected

    assert not happened.disconnect(seen.note, sender="somebody")
    assert happened.disconnect(seen.note)
    assert not happened.disconnect(seen.note)

    await happened.send(None)
    assert seen.calls == []
    assert happened not in connected


def test_a_weak_receiver_is_forgotten_with_its_function(happened: Signal) -> None:
    def connect(weak: bool) -> None:
        def receive(**named: Any) -> None: ...

        happened.connect(receive, weak=weak)

    connect(weak=True)
    gc.collect()
    assert not happened.receivers
    assert happened not in connected

    connect(weak=False)
    gc.collect()
    assert len(happened.receivers) == 1
    connected.discard(happened)


async def test_a_weak_method_lives_as_long_as_its_object(happened: Signal) -> None:
    seen = Seen()
    happened.connect(seen.await_and_note)
    gc.collect()
    await happened.send("me", what=1)
    assert seen.calls == [("me", 1)]

    del seen
    gc.collect()

    assert not happened.receivers


@pytest.mark.parametrize("error", [ValueError("no luck"), SystemExit(3), asyncio.CancelledError()])
async def test_what_a_receiver_raises_is_logged_and_changes_nothing(
    happened: Signal, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    seen = Seen()

    @happened.connect
    def fail(**named: Any) -> None:
        raise error

    @happened.connect
    async def fail_later(**named: Any) -> None:
        await asyncio.sleep(0)
        raise error

    happened.connect(seen.note)

    await happened.send("me")

    assert len(seen.calls) == 1
    assert [record.getMessage().split()[-1] for record in caplog.records] == ["failed", "failed"]
    assert "fail_later" in caplog.text
    assert fail.__name__ != fail_later.__name__


async def test_a_cancellation_of_the_sender_goes_up(happened: Signal) -> None:
    began = asyncio.Event()

    @happened.connect
    async def wait(**named: Any) -> None:
        began.set()
        await asyncio.Event().wait()

    sending = asyncio.ensure_future(happened.send(None))
    await began.wait()
    sending.cancel()

    with pytest.raises(asyncio.CancelledError):
        await sending
    assert wait is not None


def test_without_a_loop_a_coroutine_has_one_of_its_own(happened: Signal, caplog: pytest.LogCaptureFixture) -> None:
    seen = Seen()
    happened.connect(seen.note)
    happened.connect(seen.await_and_note)

    @happened.connect
    async def fail(**named: Any) -> None:
        raise ValueError("no luck")

    happened.send_now("me", what=2)

    assert seen.calls == [("me", 2), ("me", 2)]
    assert "no luck" in caplog.text
    assert fail is not None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: 7, "must be a function"),
        (lambda: lambda sender: None, r"must take \*\*kwargs: it is called with what"),
        (lambda: lambda: None, r"must take \*\*kwargs"),
    ],
)
def test_what_can_not_be_a_receiver_is_refused(happened: Signal, make: Callable[[], Any], words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        happened.connect(make())


def test_every_signal_goes_by_the_name_it_is_bound_to() -> None:
    found = {name: each for name, each in vars(signals).items() if isinstance(each, Signal)}

    assert len(found) > 20
    assert [name for name, each in found.items() if each.name != name] == []
