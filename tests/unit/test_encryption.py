"""Encrypted content: only a key opens it, and only as it was."""

from __future__ import annotations

from typing import Any

import pytest

from aiotq import AioTQ
from aiotq.exceptions import DecodeError, EncodeError, InvalidOption, InvalidSetting, SecurityError
from aiotq.wire.compression import CompressionRegistry
from aiotq.wire.encryption import NAME, encryption

OLD, NEW = "an old secret of more than 32 letters", "a new secret of more than 32 letters"


def registry(*secrets: str) -> CompressionRegistry:
    return CompressionRegistry([encryption(lambda: secrets)])


def test_what_one_key_encrypts_any_list_with_it_opens_and_no_other() -> None:
    old, both, new = registry(OLD), registry(NEW, OLD), registry(NEW)
    body = b"what nobody may read"

    sealed = old.compress(old.get(NAME), body)

    assert both.decompress(NAME, sealed, 100) == body
    assert new.decompress(NAME, both.compress(both.get(NAME), body), 100) == body
    assert body not in sealed
    assert sealed != old.compress(old.get(NAME), body), "the same content twice is not the same bytes"
    with pytest.raises(DecodeError, match="a key that is not known here"):
        new.decompress(NAME, sealed, 100)
    with pytest.raises(EncodeError, match="encryption_keys is empty"):
        registry().compress(registry().get(NAME), body)


@pytest.mark.parametrize("place", [0, 1, 5, 20, 32, 33, 40, -1])
def test_what_was_changed_anywhere_is_refused(place: int) -> None:
    keys = registry(OLD)
    sealed = bytearray(keys.compress(keys.get(NAME), b"what nobody may change"))
    sealed[place] ^= 1

    with pytest.raises(DecodeError):
        keys.decompress(NAME, bytes(sealed), 100)
    with pytest.raises(DecodeError, match="another form"):
        keys.decompress(NAME, bytes(sealed[:10]), 100)


def test_more_than_may_come_out_is_refused() -> None:
    keys = registry(OLD)

    with pytest.raises(DecodeError, match="more than 10 bytes"):
        keys.decompress(NAME, keys.compress(keys.get(NAME), b"x" * 11), 10)


@pytest.mark.parametrize("given", [["short"], "one secret that is a string and no list", [5], [OLD, "short"]])
def test_a_key_that_is_none_is_refused_and_not_shown(given: Any) -> None:
    with pytest.raises(InvalidSetting) as refused:
        AioTQ("keys", broker="memory://", encryption_keys=given)

    assert "a secret of at least 32 characters" in str(refused.value)
    assert "short" not in str(refused.value)
    assert "string" not in str(refused.value)


@pytest.mark.parametrize("setting", [{"task_compression": "zlib"}, {"result_compression": "zlib"}])
async def test_what_does_not_go_with_it_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(SecurityError, match="don't go together"):
        async with AioTQ("keys", broker="memory://", encryption_keys=[NEW], **setting):
            pass

    app = AioTQ("keys", broker="memory://", encryption_keys=[NEW])

    @app.task(compression="zlib")
    async def small() -> None: ...

    async with app:
        with pytest.raises(InvalidOption, match="what is encrypted is not compressed"):
            await small.delay()
