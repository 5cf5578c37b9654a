"""What a browser keeps: a signed session, the token of forms, and tries that are counted; nothing is kept here."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections import OrderedDict, deque
from typing import Any, Final, cast

import orjson

from .doors import Visitor

#: Seconds that a session lasts.
LASTS: Final = 12 * 3600
#: Wrong tokens in a minute, of one address and of all together; addresses that are remembered.
_TRIES: Final = 5
_ALL_TRIES: Final = 50
_MINUTE: Final = 60.0
_ADDRESSES: Final = 10_000


class Seals:
    """Signs what a browser is given, and knows it again."""

    def __init__(self, secret: bytes) -> None:
        # Slow once, so that who sees a cookie can't try tokens against it.
        self._key = hashlib.scrypt(secret, salt=b"aiotq dashboard", n=2**14, r=8, p=1, dklen=32)

    def signature(self, purpose: str, text: str) -> str:
        """Return the signature of `text` for one purpose."""
        digest = hmac.new(self._key, f"{purpose}\n{text}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def is_signed(self, purpose: str, text: str, signature: str) -> bool:
        return hmac.compare_digest(self.signature(purpose, text).encode(), signature.encode("utf-8", "replace"))

    def session(self, visitor: Visitor, now: float) -> str:
        """Return the cookie of a session that begins."""
        told = [visitor.name, visitor.role, int(now + LASTS), secrets.token_urlsafe(16)]
        text = base64.urlsafe_b64encode(orjson.dumps(told)).decode()
        return f"{text}.{self.signature('session', text)}"

    def visitor(self, cookie: str, now: float) -> tuple[Visitor, str] | None:
        """Return who has this session, and what his forms are signed for; None: it has ended, or is none of ours."""
        text, _, signature = cookie.rpartition(".")
        if not text or not self.is_signed("session", text, signature):
            return None
        try:
            told = cast("list[Any]", orjson.loads(base64.urlsafe_b64decode(text)))
            name, role, ends, number = told
        except (binascii.Error, ValueError):
            return None
        return (Visitor(name, role), number) if ends > now else None


class Tries:
    """Counts wrong tokens, of each address and of all together: who guesses waits."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._all: deque[float] = deque(maxlen=_ALL_TRIES)

    def left(self, address: str, now: float) -> int:
        """Return how many tries an address has left in this minute."""
        if len(self._all) == _ALL_TRIES and self._all[0] > now - _MINUTE:
            return 0
        wrong = self._wrong.get(address, ())
        return max(0, _TRIES - sum(at > now - _MINUTE for at in wrong))

    def count(self, address: str, now: float) -> None:
        """Count a wrong token."""
        self._all.append(now)
        self._wrong.setdefault(address, deque(maxlen=_TRIES)).append(now)
        self._wrong.move_to_end(address)
        if len(self._wrong) > _ADDRESSES:
            self._wrong.popitem(last=False)
