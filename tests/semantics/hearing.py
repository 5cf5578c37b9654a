"""Hears what signals tell, and remembers it in order."""

from __future__ import annotations

from typing import Any

from aiotq.signals import Signal


class Heard:
    """What signals told, in order; `of` makes a receiver for some of them."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any, dict[str, Any]]] = []
        self._signals: list[Signal] = []

    def listen(self, *to: Signal) -> Heard:
        for signal in to:
            signal.connect(self._note)
            self._signals.append(signal)
        return self

    def _note(self, signal: Signal, sender: Any, **named: Any) -> None:
        self.told.append((signal.name, sender, named))

    def stop(self) -> None:
        for signal in self._signals:
            signal.disconnect(self._note)

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.told]

    def arguments(self, name: str) -> dict[str, Any]:
        """The arguments of the only time that `name` was told."""
        (found,) = [named for told, _, named in self.told if told == name]
        return found

    def sender(self, name: str) -> Any:
        (found,) = [sender for told, sender, _ in self.told if told == name]
        return found
