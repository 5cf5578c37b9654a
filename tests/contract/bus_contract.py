"""The contract of a bus as tests: subclass these in a test module whose fixtures give a harness."""

from __future__ import annotations

import logging
from functools import partial

import pytest

from aiotq.control.bus import MAX_PAYLOAD, Bus
from aiotq.exceptions import CallError, PayloadTooLarge

from ..waiting import wait_until
from .harness import BusHarness

TOPIC = "news"


class Heard:
    """What a bus was told under a topic, and how often it may have missed something."""

    def __init__(self, bus: Bus, topic: str = TOPIC) -> None:
        self.payloads: list[bytes] = []
        self.gaps = 0
        self.end = bus.hear(topic, self.payloads.append, self._missed)

    def _missed(self) -> None:
        self.gaps += 1

    def has(self, count: int) -> bool:
        """Whether so many have come."""
        return len(self.payloads) >= count

    async def came(self, *payloads: bytes) -> None:
        """Return when these came, and nothing else."""
        await wait_until(lambda: len(self.payloads) >= len(payloads), f"{len(payloads)} messages came")
        assert self.payloads == list(payloads)


async def marked(sender: Bus, *hearers: Heard) -> None:
    """Send a last message to all, and return when all have it: what was sent before has come, or won't."""
    await sender.tell_all(TOPIC, b"the last")
    await wait_until(lambda: all(b"the last" in heard.payloads for heard in hearers), "the last message came")


class BusContract:
    """What processes tell each other."""

    async def test_one_is_told_and_no_other(self, bus: BusHarness) -> None:
        sender, hearer, bystander = [await bus.connect() for _ in range(3)]
        heard, overheard = Heard(hearer), Heard(bystander)
        assert len({each.address for each in (sender, hearer, bystander)}) == 3

        await sender.tell(hearer.address, TOPIC, b"x")
        await marked(sender, heard, overheard)

        assert heard.payloads == [b"x", b"the last"]
        assert overheard.payloads == [b"the last"]

    async def test_all_are_told_the_sender_too(self, bus: BusHarness) -> None:
        buses = [await bus.connect() for _ in range(3)]
        hearers = [Heard(each) for each in buses]

        await buses[0].tell_all(TOPIC, b"x")

        for heard in hearers:
            await heard.came(b"x")

    async def test_one_may_tell_itself(self, bus: BusHarness) -> None:
        here = await bus.connect()
        heard = Heard(here)

        await here.tell(here.address, TOPIC, b"x")

        await heard.came(b"x")

    async def test_a_payload_comes_as_it_was_sent(self, bus: BusHarness) -> None:
        sender, hearer = await bus.connect(), await bus.connect()
        heard = Heard(hearer)
        payloads = [b"", b"\n", bytes(range(256)), b"x" * MAX_PAYLOAD]

        for payload in payloads:
            await sender.tell(hearer.address, TOPIC, payload)

        await heard.came(*payloads)

    async def test_topics_are_heard_apart_and_what_nobody_hears_is_passed_over(self, bus: BusHarness) -> None:
        sender, hearer = await bus.connect(), await bus.connect()
        heard, second, other = Heard(hearer), Heard(hearer), Heard(hearer, "other")

        for topic in ("nobody.hears-this_1", "other", TOPIC):
            await sender.tell(hearer.address, topic, topic.encode())

        await heard.came(TOPIC.encode())
        await second.came(TOPIC.encode())
        await other.came(b"other")

    async def test_messages_of_one_sender_come_in_order_and_once(self, bus: BusHarness) -> None:
        sender, hearer = await bus.connect(), await bus.connect()
        heard = Heard(hearer)
        numbers = [b"%d" % number for number in range(200)]

        for at, number in enumerate(numbers):
            await (sender.tell_all(TOPIC, number) if at % 2 else sender.tell(hearer.address, TOPIC, number))
            await wait_until(partial(heard.has, at - 4), "the hearer keeps up")

        await heard.came(*numbers)

    async def test_who_has_stopped_hearing_is_told_no_more(self, bus: BusHarness) -> None:
        sender, hearer = await bus.connect(), await bus.connect()
        ended, heard = Heard(hearer), Heard(hearer)
        ended.end()

        await sender.tell(hearer.address, TOPIC, b"x")

        await heard.came(b"x")
        assert not ended.payloads

    @pytest.mark.parametrize("to_all", [False, True])
    async def test_what_is_too_large_is_refused(self, bus: BusHarness, to_all: bool) -> None:
        here = await bus.connect()
        heard = Heard(here)
        large = b"x" * (MAX_PAYLOAD + 1)

        with pytest.raises(PayloadTooLarge, match=f"{MAX_PAYLOAD + 1} bytes, at most {MAX_PAYLOAD}") as refused:
            await (here.tell_all(TOPIC, large) if to_all else here.tell(here.address, TOPIC, large))

        assert (refused.value.size, refused.value.limit) == (MAX_PAYLOAD + 1, MAX_PAYLOAD)
        await marked(here, heard)
        assert heard.payloads == [b"the last"]

    @pytest.mark.parametrize("topic", ["", "two words", "UPPER", "line\nfeed", "x" * 33, "1st"])
    async def test_a_topic_that_is_none_is_refused(self, bus: BusHarness, topic: str) -> None:
        here = await bus.connect()

        with pytest.raises(CallError, match="a topic is"):
            await here.tell_all(topic, b"")

    async def test_one_that_is_not_there_any_more_costs_nothing(self, bus: BusHarness) -> None:
        sender, hearer = await bus.connect(), await bus.connect()
        heard = Heard(hearer)
        async with bus.connected() as gone:
            address = gone.address

        for unknown in (address, "nobody", "x" * 300):
            await sender.tell(unknown, TOPIC, b"lost")
        await sender.tell(hearer.address, TOPIC, b"x")

        await heard.came(b"x")

    async def test_who_has_left_hears_nothing(self, bus: BusHarness) -> None:
        sender, hearer = await bus.connect(), await bus.connect()
        heard = Heard(hearer)
        async with bus.connected() as gone:
            overheard = Heard(gone)

        await sender.tell_all(TOPIC, b"x")

        await heard.came(b"x")
        assert not overheard.payloads

    async def test_a_handler_that_fails_keeps_nobody_from_hearing(
        self, bus: BusHarness, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.CRITICAL + 1)
        sender, hearer = await bus.connect(), await bus.connect()

        def fail(_: bytes) -> None:
            raise ValueError("a defect")

        hearer.hear(TOPIC, fail)
        heard = Heard(hearer)

        for payload in (b"1", b"2"):
            await sender.tell(hearer.address, TOPIC, payload)

        await heard.came(b"1", b"2")

    async def test_what_is_no_message_is_counted_and_passed_over(
        self, bus: BusHarness, caplog: pytest.LogCaptureFixture
    ) -> None:
        sender, hearer = await bus.connect(), await bus.connect()
        heard = Heard(hearer)
        junk = (b"\xff\xfe", b"no line feed", b"Two Words\nx", b"\n", b"x" * 40 + b"\nx")
        if not await bus.send_raw(hearer, junk[0]):
            return  # nobody else can send there

        for data in junk[1:]:
            await bus.send_raw(hearer, data)
        await wait_until(lambda: hearer.malformed == len(junk), "all came")

        await sender.tell(hearer.address, TOPIC, b"x")
        await heard.came(b"x")
        assert caplog.text.count("is no message") == 1

    async def test_after_a_cut_one_hears_again_and_is_told_of_the_gap(
        self, bus: BusHarness, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.ERROR)
        sender, hearer = await bus.connect(), await bus.connect()
        heard = Heard(hearer)
        address = hearer.address
        if not await bus.cut(hearer):
            return

        await wait_until(lambda: heard.gaps, "it is told that it may have missed something")

        await sender.tell(address, TOPIC, b"x")
        await heard.came(b"x")

    async def test_nothing_is_left_behind(self, bus: BusHarness) -> None:
        async with bus.connected() as one, bus.connected() as two:
            heard = Heard(two)
            await one.tell(two.address, TOPIC, b"x")
            await one.tell_all(TOPIC, b"y")
            await heard.came(b"x", b"y")

        left: list[str] = ["not looked yet"]
        for _ in range(100):
            left = list(await bus.left_behind())
            if not left:
                break
            await bus.pass_time(0.05)
        assert left == []
