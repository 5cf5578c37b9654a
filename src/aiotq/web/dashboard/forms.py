"""What a browser sends: a form, read with bounds, and its fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request

#: Bytes and fields of a form, at most.
_MOST_BYTES: Final = 4 * 1024 * 1024
_MOST_FIELDS: Final = 5_000


class BadForm(Exception):
    """Raised when what came is no form, or lacks something; the text says what."""


class Form:
    """The fields of a form."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._pairs = pairs

    def get(self, name: str, default: str = "") -> str:
        """Return the last field of this name."""
        return next((text for key, text in reversed(self._pairs) if key == name), default)

    def all(self, name: str) -> list[str]:
        """Return all fields of this name, each once."""
        return list(dict.fromkeys(text for key, text in self._pairs if key == name))

    def without(self, *names: str) -> list[tuple[str, str]]:
        """Return the fields of all other names."""
        return [(key, text) for key, text in self._pairs if key not in names]

    def names(self) -> frozenset[str]:
        return frozenset(key for key, _ in self._pairs)

    def need(self, name: str) -> str:
        """Return a field that must be there.

        Raises:
            BadForm: it is not, or is empty.
        """
        text = self.get(name)
        if not text:
            raise BadForm(f"the form has no {name}")
        return text


async def read_form(request: Request) -> Form:
    """Return the form that a request brings.

    Raises:
        BadForm: it brings none, or too much.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in {"application/x-www-form-urlencoded", ""}:
        raise BadForm(f"a form is application/x-www-form-urlencoded, not {kind}")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BYTES:
            raise BadForm(f"a form has at most {_MOST_BYTES} bytes")
    try:
        return Form(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError as exc:
        raise BadForm(f"that is no form: {exc}") from exc
