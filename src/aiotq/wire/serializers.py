"""Serializers by name and by content type, and the accept list that guards decoding (P5)."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, cast

from ..core.values import shown
from ..exceptions import ContentDisallowed, DecodeError, EncodeError, InvalidOption, MissingLibrary
from .compression import Compression, standard_compressions


@dataclass(frozen=True, slots=True)
class Serializer:
    """One way of turning values into bytes and back.

    `encode` and `decode` may raise any `Exception` for what they can't take. With `by_consent` it is used only where
    `accept_content` names it, for encoding as well. With `embeds` what it encodes may stand as a value inside a JSON
    object, which is decoded as a whole.
    """

    name: str
    content_type: str
    content_encoding: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    by_consent: bool = False
    embeds: bool = False

    def is_in(self, accept: Collection[str]) -> bool:
        """Whether an accept list has its name or content type."""
        return self.name in accept or self.content_type in accept


class SerializerRegistry:
    """The serializers an app knows, and its compressions; decoding uses only serializers that it accepts."""

    def __init__(self, serializers: Iterable[Serializer] = ()) -> None:
        self._by_name: dict[str, Serializer] = {}
        self._by_content_type: dict[str, Serializer] = {}
        self.compressions = standard_compressions()
        for serializer in serializers:
            self.register(serializer)

    def register(self, serializer: Serializer) -> None:
        """Make `serializer` known, in place of one with its name or content type."""
        self._by_name[serializer.name] = serializer
        self._by_content_type[serializer.content_type] = serializer

    def get(self, name: str) -> Serializer:
        """Return the serializer called `name`, or which has that content type.

        Raises:
            InvalidOption: there is none; the text has the nearest name.
        """
        found = self._by_name.get(name) or self._by_content_type.get(name)
        if found is None:
            near = difflib.get_close_matches(name, self._by_name, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(self._by_name))}"
            raise InvalidOption(f"unknown serializer {name!r}: {hint}")
        return found

    def to_send(self, name: str, accept: Collection[str]) -> Serializer:
        """As `get`, for what is to be sent.

        Raises:
            InvalidOption: there is none, or it must be in `accept` and is not.
        """
        found = self.get(name)
        if found.by_consent and not found.is_in(accept):
            raise InvalidOption(
                f"serializer {found.name!r} can run any code where it is read: to use it add {found.name!r} to the "
                "setting accept_content, here and in the workers"
            )
        return found

    def compression(self, name: str | None) -> Compression | None:
        """Return the compression called `name`; None for None.

        Raises:
            InvalidOption: it is unknown.
        """
        return None if name is None else self.compressions.get(name)

    def encode(self, serializer: Serializer, value: Any, what: str) -> bytes:
        """Return `value` as bytes; an error names the place in `what` that can't be encoded.

        Raises:
            EncodeError: some part of `value` has no form in this content type.
            MissingLibrary: the serializer's library is not installed.
        """
        return encoded(serializer, value, what)

    def decode(
        self,
        content_type: str,
        body: bytes,
        accept: frozenset[str],
        *,
        compression: str | None = None,
        max_size: int | None = None,
    ) -> Any:
        """Return the value in `body`, decompressed first; with a compression `max_size` says how much may come out.

        Raises:
            ContentDisallowed: the type is not in `accept` (names or content types); the compression is unknown.
            DecodeError: the bytes are not of that type, nested too deeply, or name a class that isn't known.
        """
        serializer = self._by_content_type.get(content_type)
        if serializer is None or not (serializer.name in accept or content_type in accept):
            raise ContentDisallowed(
                f"content type {content_type[:255]!r} is not accepted (accept_content: {', '.join(sorted(accept))})"
            )
        if compression is not None:
            body = self.compressions.decompress(compression, body, max_size or 0)
        try:
            return serializer.decode(body)
        except DecodeError as exc:
            raise DecodeError(f"body of {len(body)} bytes can't be read as {serializer.name}: {exc}") from exc
        except MissingLibrary as exc:
            raise ContentDisallowed(str(exc)) from exc
        except Exception as exc:  # whatever a serializer or a value's own methods raise
            raise DecodeError(f"body of {len(body)} bytes is not {serializer.name}: {exc}") from exc


def encoded(serializer: Serializer, value: Any, what: str) -> bytes:
    """Return `value` as bytes; raises as `SerializerRegistry.encode`."""
    try:
        return serializer.encode(value)
    except MissingLibrary:
        raise
    except Exception as exc:  # whatever a serializer or a value's own methods raise
        place, culprit = _find_culprit(serializer, value, what)
        raise EncodeError(f"{place} can't be serialized as {serializer.name}: {_describe(culprit)} ({exc})") from exc


def _find_culprit(serializer: Serializer, value: Any, place: str) -> tuple[str, Any]:
    """Descend to the smallest part of `value` that fails on its own."""
    for _ in range(32):  # deeper places are named no better by a longer path
        for step, part in _parts(value):
            try:
                serializer.encode(part)
            except Exception:
                place, value = f"{place}{step}", part
                break
        else:
            break
    return place, value


def _parts(value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"[{key!r}]", part) for key, part in cast("dict[Any, Any]", value).items()]
    if isinstance(value, (list, tuple)):
        return [(f"[{index}]", part) for index, part in enumerate(cast("list[Any]", value))]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f".{each.name}", getattr(value, each.name, None)) for each in dataclasses.fields(value)]
    return []


def _describe(value: Any) -> str:
    return f"{shown(value)} of type {type(value).__qualname__}"
