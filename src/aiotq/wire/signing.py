"""Signed messages: a signature covers all of a message, so that none of it is changed or used for another call (P5).

A message that is sent once more as it is, under its own id and attempt, is no forgery: it is the same call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, Final, Protocol

import orjson

from ..core.values import shown
from ..exceptions import BadSignature, MalformedMessage, Unsigned
from .message import Envelope, Message

#: Says what is signed, so that a signature of something else can't be taken for one.
_PREFIX: Final = b"aiotq message 1\n"
_DEFAULTS: Final = {
    each.name: each.default for each in fields(Message) if each.name not in {"id", "task", "body", "signature"}
}
_TIMES: Final = frozenset({"sent_at", "eta", "expires", "soft_time_limit", "time_limit"})
_SCHEME: Final = "hs256"


class Signer(Protocol):
    """What signs messages and looks at the signatures of others."""

    def signed(self, message: Message) -> Message:
        """Return `message` with a signature, in place of one that it has."""
        ...

    def verify(self, message: Message) -> None:
        """Raise unless `message` was signed by one who may, and is as it was then.

        Raises:
            Unsigned: it has no signature of this kind.
            BadSignature: it was changed, or signed by somebody unknown.
        """
        ...


def sealed(signer: Signer | None, envelope: Envelope) -> Envelope:
    """Return `envelope` with its message signed, if there is a signer."""
    return envelope if signer is None else replace(envelope, message=signer.signed(envelope.message))


def canonical(message: Message) -> bytes:
    """Return the bytes that are signed: every header that has not its default, and the body.

    Times are taken as whole microseconds, as some brokers carry no more.

    Raises:
        MalformedMessage: a header has no such form.
    """
    headers: dict[str, Any] = {"id": message.id, "task": message.task}
    for name, default in _DEFAULTS.items():
        given = getattr(message, name)
        if given != default:
            headers[name] = round(given * 1_000_000) if name in _TIMES else given
    try:
        head = orjson.dumps(headers, option=orjson.OPT_SORT_KEYS)
    except TypeError as exc:
        raise MalformedMessage(f"the headers {shown(headers)} can't be signed: {exc}") from exc
    return b"%b%d\n%b%b" % (_PREFIX, len(head), head, message.body)


class SharedKey:
    """Signs with a key that all senders and workers have: HMAC-SHA256.

    `previous` are keys that others may still sign with, while all of them change over to a new one.

    Source: RFC 2104.
    """

    def __init__(self, key: str, previous: Sequence[str] = ()) -> None:
        self._keys = [each.encode() for each in (key, *previous)]

    def signed(self, message: Message) -> Message:
        """Return `message` with a signature, in place of one that it has."""
        return replace(message, signature=_signature(self._keys[0], canonical(message)))

    def verify(self, message: Message) -> None:
        """Raise `Unsigned` or `BadSignature` unless `message` is as one who has a key signed it."""
        given = message.signature
        if given is None:
            raise Unsigned("the message is not signed, and the setting security_key asks for it")
        import hmac  # noqa: PLC0415  # not everybody's start, for few

        data = canonical(message)
        if not any(hmac.compare_digest(_signature(key, data).encode(), given.encode()) for key in self._keys):
            raise BadSignature("the signature is not of this message, or not made with a key that is accepted here")


def _signature(key: bytes, data: bytes) -> str:
    import hmac  # noqa: PLC0415  # as above

    return f"{_SCHEME}:{hmac.digest(key, data, 'sha256').hex()}"
