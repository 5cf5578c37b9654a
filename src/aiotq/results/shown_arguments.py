"""Arguments as they may be shown: clipped, with the values masked whose names say that they are secret."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final, cast

from ..core.settings import Settings

#: Stands in place of a secret.
MASK: Final = "•••"
#: Letters of the arguments of one call, and of one of them.
MOST: Final = 400
_MOST_EACH: Final = 120
#: Names that are remembered.
_MOST_KNOWN: Final = 1_000
#: Types whose own repr is short and never fails.
_PLAIN: Final = frozenset({bool, float, type(None)})
_SMALL: Final = 2**62


class ArgumentsShown:
    """Shows the arguments of calls; `masked` are parts of the names of parameters and keys whose values it masks."""

    def __init__(self, masked: Sequence[str]) -> None:
        self._masked = tuple(each.casefold() for each in masked)
        self._known: dict[str, bool] = {}
        self._places: dict[tuple[str, ...], tuple[int, ...]] = {}
        self._repr = _Clipped(self, items=10, letters=_MOST_EACH)
        self._long = _Clipped(self, items=20, letters=200)

    def call(self, args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str] = ()) -> str:
        """Return what a call was given, as its source would have it; `names` are those of its parameters."""
        parts = [*map(self._value, args)]
        for place in self._hidden(names) if args else ():
            if place < len(parts):
                parts[place] = MASK
        if kwargs:
            parts += [f"{name}={MASK if self.hides(name) else self._value(each)}" for name, each in kwargs.items()]
        text = ", ".join(parts)
        return text if len(text) <= MOST else f"{text[: MOST - 1]}…"

    def reprs(self, args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str] = ()) -> tuple[str, str]:
        """Return the arguments of a call as Python shows a tuple and a mapping: what Celery's tools are told."""
        if args and (hidden := self._hidden(names)):
            args = [MASK if place in hidden else each for place, each in enumerate(args)]
        return (
            "()" if not args else self._long.shown(tuple(args)),
            "{}" if not kwargs else self._long.shown(dict(kwargs)),
        )

    def value(self, given: object, name: str = "") -> str:
        """Return one value, which has this name."""
        return MASK if self.hides(name) else self._value(given)

    def hides(self, name: object) -> bool:
        """Whether a value called so is masked."""
        if not name or not self._masked or not isinstance(name, str):
            return False
        known = self._known.get(name)
        if known is None:
            if len(self._known) > _MOST_KNOWN:  # keys of a mapping may be anything
                self._known.clear()
            text = name.casefold()
            known = self._known[name] = any(each in text for each in self._masked)
        return known

    def _hidden(self, names: Sequence[str]) -> Sequence[int]:
        """Return the places of the parameters that are masked; asked for the same few tasks again and again."""
        key = tuple(names)
        known = self._places.get(key)
        if known is None:
            if len(self._places) > _MOST_KNOWN:
                self._places.clear()
            known = self._places[key] = tuple(place for place, name in enumerate(key) if self.hides(name))
        return known

    def _value(self, given: object) -> str:
        kind = type(given)
        if kind is str:
            text = cast(str, given)
            return _sendable(repr(text if len(text) <= _MOST_EACH else f"{text[: _MOST_EACH - 1]}…"))
        if kind in _PLAIN or (kind is int and -_SMALL < cast(int, given) < _SMALL):
            return repr(given)
        return self._repr.shown(given)


class _NothingShown(ArgumentsShown):
    """Shows that there are arguments, and how many."""

    def __init__(self) -> None:
        super().__init__(())

    def reprs(self, args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str] = ()) -> tuple[str, str]:
        return repr(tuple(MASK for _ in args)), repr(dict.fromkeys(kwargs, MASK))

    def hides(self, name: object) -> bool:
        return True

    def _value(self, given: object) -> str:
        return MASK


def arguments_shown(conf: Settings) -> ArgumentsShown:
    """Return what shows arguments as the settings say: nothing of them where they are encrypted."""
    return _NothingShown() if conf.encryption_keys else ArgumentsShown(conf.masked_arguments)


class _Clipped(reprlib.Repr):
    """Shows what is large in short, and masks values in mappings."""

    def __init__(self, arguments: ArgumentsShown, *, items: int, letters: int) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = items
        self.maxstring = self.maxother = self.maxlong = letters
        self._arguments = arguments

    def shown(self, given: object) -> str:
        """Return `given`, whatever it is."""
        try:
            return _sendable(self.repr(given))
        except Exception:  # an integer of very many digits, or the value's own repr
            return f"<{type(given).__qualname__} that can't be shown>"

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        """As `reprlib`'s, in the order of the mapping."""
        if not x:
            return "{}"
        if level <= 0:
            return "{...}"
        parts = [
            f"{self.repr1(key, level - 1)}: {MASK if self._arguments.hides(key) else self.repr1(each, level - 1)}"
            for key, each in islice(x.items(), self.maxdict)
        ]
        return f"{{{', '.join([*parts, '...'] if len(x) > self.maxdict else parts)}}}"


def _sendable(text: str) -> str:
    """Return `text` without lone surrogates, which have no form in a store."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
