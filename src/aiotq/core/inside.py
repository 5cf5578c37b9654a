"""The one way from an app, as users hold it, to what it is made of."""

from __future__ import annotations

from typing import Protocol, TypeVar

Core_co = TypeVar("Core_co", covariant=True)
Core = TypeVar("Core")


class App(Protocol[Core_co]):
    """An app, as those below it know one: something with a core that does what they ask for."""

    @property
    def _core(self) -> Core_co: ...


def core_of(app: App[Core]) -> Core:
    """Return what `app` is made of; of a core, itself."""
    return app._core  # pyright: ignore[reportPrivateUsage]  # the one place
