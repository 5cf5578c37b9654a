"""Values as PostgreSQL reads them: text whose type the statement says by a cast, and bytes as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeGuard

import psycopg

#: What a statement is given.
Value = str | int | float | bytes | None | Sequence[str | None] | Sequence[int] | Sequence[float]

_TEXT: Final = 0
_BINARY: Final = 1


class Values:
    """The values of a statement, ready to be sent."""

    __slots__ = ("formats", "texts")

    def __init__(self, values: Sequence[Value]) -> None:
        """Encode `values`.

        Raises:
            DataError: text with NUL, or that has no form in UTF-8.
        """
        self.texts = [_encoded(value) for value in values]
        self.formats = [_BINARY if type(value) is bytes else _TEXT for value in values]


def _encoded(value: Value) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return _utf8(value)
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, int | float):
        return b"%a" % value
    return _array(value)


def _array(values: Sequence[str | None] | Sequence[int] | Sequence[float]) -> bytes:
    if _is_text(values):
        return _utf8(f"{{{','.join(map(_quoted, values))}}}")
    return f"{{{','.join(map(repr, values))}}}".encode()


def _is_text(values: Sequence[object]) -> TypeGuard[Sequence[str | None]]:
    return any(isinstance(value, str | None) for value in values)


def _quoted(value: str | None) -> str:
    if value is None:
        return "NULL"
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


def _utf8(text: str) -> bytes:
    if "\0" in text:  # libpq would end it there
        raise psycopg.DataError("text with a NUL character")
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise psycopg.DataError(str(exc)) from exc
