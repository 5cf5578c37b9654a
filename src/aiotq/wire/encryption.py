"""Encrypted content: what is in messages and results is read only by those who have a key.

An encryption is a compression by its form: bytes become others before they leave, and come back where they are read. A
key of its own for each content is derived from the secret and random bytes, so that no nonce is used twice, however
much is sent.

Source: NIST SP 800-38D (AES-GCM); RFC 5869 (HKDF).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any, Final

from ..exceptions import InvalidOption, MissingLibrary
from .compression import Compression

#: What content is encrypted as.
NAME: Final = "aes-gcm"
_CONTENT_TYPE: Final = "application/x-aes-gcm"
_VERSION: Final = b"\x01"
_SALT: Final = 28  # 16 bytes for the key, 12 for the nonce
_KEY_ID: Final = 4
_HEAD: Final = len(_VERSION) + _KEY_ID + _SALT
_PURPOSE: Final = b"aiotq content 1"


def encryption(secrets: Callable[[], Sequence[str]]) -> Compression:
    """Return what encrypts with the first of `secrets`, and decrypts with any of them."""
    keys = _Keys(secrets)
    return Compression(NAME, _CONTENT_TYPE, keys.encrypt, keys.decrypt)


def encrypted(name: str, compression: str | None) -> str:
    """Return as what the content of a call of `name` is encrypted; raise `InvalidOption` if it is to be compressed."""
    if compression not in {None, NAME}:
        raise InvalidOption(
            f"{name}: compression {compression!r} can't be beside encryption_keys: what is encrypted is not compressed"
        )
    return NAME


class _Keys:
    def __init__(self, secrets: Callable[[], Sequence[str]]) -> None:
        self._secrets = secrets
        self._of: tuple[str, ...] = ()  # the secrets that these were made of
        self._by_id: dict[bytes, bytes] = {}  # master keys; the first is that of new content

    def encrypt(self, body: bytes) -> bytes:
        for key_id, key in self._known().items():
            salt = os.urandom(_SALT)
            head = _VERSION + key_id + salt
            sealed: bytes = _cipher(_derived(key, salt[:16])).encrypt(salt[16:], body, head)
            return head + sealed
        raise ValueError("the setting encryption_keys is empty")

    def decrypt(self, body: bytes, max_size: int) -> bytes:
        if len(body) < _HEAD or not body.startswith(_VERSION):
            raise ValueError("it has another form")
        head = body[:_HEAD]
        key = self._known().get(head[1 : 1 + _KEY_ID])
        if key is None:
            raise ValueError(
                "it is encrypted with a key that is not known here: add that to the setting encryption_keys"
            )
        salt = head[1 + _KEY_ID :]
        try:
            opened: bytes = _cipher(_derived(key, salt[:16])).decrypt(salt[16:], body[_HEAD:], head)
        except MissingLibrary:
            raise
        except Exception:  # the library's own, whose text is empty
            raise ValueError("it was changed, or is not of this key") from None
        return opened

    def _known(self) -> dict[bytes, bytes]:
        secrets = tuple(self._secrets())
        if secrets != self._of:
            masters = [_hashed(_PURPOSE, secret.encode()) for secret in secrets]
            self._by_id = {_hashed(master, b"id")[:_KEY_ID]: master for master in masters}
            self._of = secrets
        return self._by_id


def _derived(master: bytes, salt: bytes) -> bytes:
    return _hashed(master, b"content" + salt)


def _hashed(key: bytes, data: bytes) -> bytes:
    import hmac  # noqa: PLC0415  # not everybody's start, for few

    return hmac.digest(key, data, "sha256")


def _cipher(key: bytes) -> Any:
    try:
        ciphers = importlib.import_module("cryptography.hazmat.primitives.ciphers.aead")
    except ImportError as exc:
        raise MissingLibrary("encryption_keys needs the package cryptography: pip install 'aiotq[auth]'") from exc
    return ciphers.AESGCM(key)
