"""Properties as they travel: what is written is read, as pamqp reads it and as Celery's client does."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pamqp.commands
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotq.backends.amqp.properties import pack_properties, properties_of

from .test_message import text

short = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(short, inner, max_size=3),
    max_leaves=10,
)
strings = short.filter(bool)
properties = st.fixed_dictionaries(
    {},
    optional={
        "content_type": strings,
        "content_encoding": strings,
        "headers": st.dictionaries(short, values, min_size=1, max_size=4),
        "delivery_mode": st.integers(1, 2),
        "priority": st.integers(1, 255),
        "correlation_id": strings,
        "reply_to": strings,
        "expiration": strings,
        "message_id": strings,
        "app_id": strings,
    },
)


def written(value: Any) -> bytes:
    """Return the type and bytes of a header's value."""
    return pack_properties(headers={"a": value})[2 + 4 + 2 :]


@given(properties)
def test_what_is_written_is_read(given: dict[str, Any]) -> None:
    assert properties_of(pack_properties(**given, user_id=None)) == given


def test_what_only_others_send_can_be_sent_on() -> None:
    headers = {"when": datetime(2026, 1, 2, tzinfo=UTC), "amount": [Decimal("1.5")], "raw": b"\xff"}

    assert properties_of(pack_properties(headers=headers))["headers"] == headers


def test_rare_properties_are_as_the_library_writes_them() -> None:
    given: dict[str, Any] = {
        "content_type": "x",
        "timestamp": datetime(2026, 1, 2, tzinfo=UTC),
        "user_id": "guest",
        "message_type": "y",
    }

    assert pack_properties(**given) == pamqp.commands.Basic.Properties(**given).marshal()


@pytest.mark.parametrize(("value", "kind"), [(1, b"I"), (300, b"I"), (-300, b"I"), (2**31, b"l"), (0.1, b"d")])
def test_numbers_are_of_types_that_all_clients_read_alike(value: float, kind: bytes) -> None:
    assert written(value)[:1] == kind


@pytest.mark.parametrize(
    "given",
    [{"reply_to": "x" * 256}, {"headers": {"x" * 256: 1}}, {"headers": {"a": 2**63}}, {"headers": {"a": object()}}],
)
def test_what_can_not_be_sent_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        pack_properties(**given)
