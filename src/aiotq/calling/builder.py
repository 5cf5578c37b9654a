"""From a signature to messages, as one app's settings, routes and keys say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from ..core.clock import Clock
from ..core.settings import Settings
from ..tasks.options import CallOptions
from ..transport.routing import Router
from ..wire.message import Envelope
from ..wire.serializers import SerializerRegistry
from ..wire.signing import Signer, sealed
from .envelopes import Callee, Part, build_envelopes


class BuilderHome(Protocol):
    """An app, as making messages needs it."""

    @property
    def conf(self) -> Settings: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def serializers(self) -> SerializerRegistry: ...

    @property
    def router(self) -> Router: ...

    @property
    def signer(self) -> Signer | None: ...

    @property
    def origin(self) -> str: ...

    @property
    def tasks(self) -> Mapping[str, Callee]: ...


class Builder:
    """Makes the messages of calls: the call's own, and a copy for each further queue that it goes to."""

    def __init__(self, home: BuilderHome) -> None:
        self._home = home

    @property
    def conf(self) -> Settings:
        return self._home.conf

    def now(self) -> float:
        return self._home.clock.time()

    def task(self, name: str) -> Callee | None:
        """Return a task that is registered here."""
        return self._home.tasks.get(name)

    def envelopes(
        self,
        task: Callee | str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        *,
        reply_to: str | None,
        part: Part | None = None,
    ) -> Sequence[Envelope]:
        """Return the envelopes of one call; raises as `calls.build_envelope`."""
        home = self._home
        envelopes = build_envelopes(
            home.conf,
            home.serializers,
            home.router,
            task,
            args,
            kwargs,
            cast(CallOptions, options),
            reply_to=reply_to,
            now=home.clock.time(),
            origin=home.origin,
            part=part,
        )
        signer = home.signer
        return envelopes if signer is None else [sealed(signer, envelope) for envelope in envelopes]
