"""What needs no Amazon SQS: its URLs, and messages as text."""

from __future__ import annotations

import pytest

from aiotq.backends.sqs.address import parse
from aiotq.backends.sqs.messages import (
    LARGEST,
    Taken,
    Unreadable,
    group_of,
    letter_from,
    letter_text,
    taken_from,
    written,
)
from aiotq.backends.sqs.topology import LONGEST_NAME, name_problem
from aiotq.core.values import replace
from aiotq.exceptions import Refused
from aiotq.transport import DeadLetter
from aiotq.wire.message import Message, pack

PLAIN = Message("id", "proj.add", b'[[2, 2], {}, {"chain": null}]')


def test_a_url_says_where_it_is_and_shows_no_secret() -> None:
    address = parse(
        "sqs://AKIA:se%2Fcret@?region=eu-west-1&prefix=a-&fifo=true&wait=5&role=arn:aws:iam::123456789012:role/x"
    )

    assert (address.access_key, address.secret_key, address.region, address.prefix) == (
        "AKIA",
        "se/cret",
        "eu-west-1",
        "a-",
    )
    assert (address.is_fifo, address.has_priorities, address.wait) == (True, False, 5)
    assert "cret" not in repr(address)
    assert parse("sqs://").region is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("sqs://localhost:4566", "it has no host and no path"),
        ("sqs://key@", "come together"),
        ("sqs://?regoin=eu", "did you mean 'region'"),
        ("sqs://?fifo=true&priorities=true", "don't go together"),
        ("sqs://?fifo=perhaps", "must be one of false, true"),
        ("sqs://?wait=21", "from 1 to 20"),
        ("sqs://?prefix=a.b", "prefix must be at most 20 letters"),
        ("sqs://?role=workers", "the ARN of a role"),
        ("sqs://?endpoint=localhost:4566", "http:// or https://"),
        ("sqs://?reply_timeout=0", "a number of seconds"),
    ],
)
def test_a_url_that_can_not_be_used_says_why(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(url)


@pytest.mark.parametrize(
    "body",
    [PLAIN.body, b"", "Grüße 你好 \U0001f600\n\t".encode(), b"\x00\x01", b"\xff\xfe", "\ufffe".encode(), b"a\r\nb"],
)
def test_a_message_is_read_as_it_was_written(body: bytes) -> None:
    message = replace(PLAIN, body=body, headers={"name": "\ufffe" if body else "ü"})

    text = written(message, 9, 12.5, returns=2)
    taken = taken_from(text, 3)

    assert isinstance(taken, Taken)
    assert (taken.message, taken.priority, taken.due) == (message, 9, 12.5)
    assert taken.counts.returns == 4
    assert not any(char in text for char in "\x00\r\ufffe")


def test_plain_arguments_can_be_read_in_the_console() -> None:
    assert written(PLAIN, 4) == ('{"priority": 4}\n{"id":"id","task":"proj.add"}\n[[2, 2], {}, {"chain": null}]')


@pytest.mark.parametrize(
    "text", ["junk", "", "{}\n{}\n", "[]\n", '{"base64": true}\n%%%', '{"base64": true}\n', "\n\n\n"]
)
def test_what_is_no_message_is_told_apart(text: str) -> None:
    assert isinstance(taken_from(text, 1), Unreadable)


def test_headers_of_ours_that_are_odd_are_left_out() -> None:
    text = written(PLAIN, 4).replace('{"priority": 4}', '{"priority": 12, "due": "now", "returns": -1}')

    taken = taken_from(text, 1)

    assert isinstance(taken, Taken)
    assert (taken.priority, taken.due, taken.counts.returns) == (4, None, 0)


def test_the_largest_message_still_becomes_a_dead_letter_with_what_there_is_room_for() -> None:
    largest = replace(PLAIN, body=b"x" * (LARGEST - 1024 - len(written(replace(PLAIN, body=b""), 4))))
    with pytest.raises(Refused, match="over the limit"):
        written(replace(largest, body=largest.body + b"x"), 4)
    assert len(written(largest, 4)) == LARGEST - 1024
    letter = DeadLetter("key", "q", 4, largest, b"", "failed", "why " * 1024, 5.0, 2)

    text = letter_text(letter)

    assert len(text.encode()) <= LARGEST
    found = letter_from(text, "q", 0.0)
    assert letter.detail.startswith(found.detail)
    assert replace(found, detail="", raw=b"") == replace(letter, detail="")
    junk = DeadLetter("key", "q", 4, None, b"y" * LARGEST, "malformed", "", 5.0)
    assert junk.raw.startswith(letter_from(letter_text(junk), "q", 0.0).raw)


def test_what_others_put_among_the_dead_letters_is_shown() -> None:
    mine = letter_from(written(PLAIN, 4), "q", 7.0)
    junk = letter_from("junk", "q", 7.0)

    assert (mine.key, mine.queue, mine.message, mine.raw, mine.reason) == ("id", "q", PLAIN, pack(PLAIN), "unknown")
    assert (junk.message, junk.raw, junk.died_at) == (None, b"junk", 7.0)


def test_the_group_of_a_call_is_what_its_caller_says_or_its_key_or_its_own() -> None:
    assert group_of(PLAIN) == "id"
    assert (
        group_of(replace(PLAIN, headers={"message_group": "customer-7", "aiotq-key": ["k", "done", 1]})) == "customer-7"
    )
    assert group_of(replace(PLAIN, headers={"aiotq-key": ["proj.add:7", "done", 1]})) == "proj.add:7"
    assert len(group_of(replace(PLAIN, headers={"message_group": "with spaces"}))) == 64


def test_names_that_sqs_can_not_have_say_why() -> None:
    assert name_problem("a-b_C1") is None
    assert name_problem("x" * LONGEST_NAME) is None
    assert "at most 69" in str(name_problem("x" * 70, "pre--"))
    for name in ("a.b", "a b", "ü", "mail-dead", "mail-later", "mail-p9"):
        assert name_problem(name) is not None
