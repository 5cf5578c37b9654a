"""One request of somebody who was let in, and what is answered to it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from typing import Any, Final
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from ...core.values import value
from .doors import Visitor
from .forms import Form

audit = logging.getLogger("aiotq.audit")

#: Letters of one field in the audit log.
_MOST_LETTERS: Final = 200
_UNSAID: Final = frozenset({"csrf", "token"})


@value(eq=False)
class Visit:
    """One request: who asks, where the dashboard is mounted, and how it is to look."""

    request: Request
    visitor: Visitor
    csrf: str  #: what its forms must bring
    base: str  #: the path under which the dashboard is mounted
    theme: str | None  #: `light` or `dark`; None: as the system has it
    now: float

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query_params

    def url(self, path: str, /, **query: Any) -> str:
        """Return the address of a page here; what is None or empty is left out of its query."""
        given = {name: text for name, text in query.items() if text not in {None, ""}}
        return f"{self.base}/{quote(path)}" + (f"?{urlencode(given)}" if given else "")

    def url_with(self, **changed: Any) -> str:
        """Return the address of this page, with some of its query changed; None takes a field away."""
        path: str = self.request.scope["path"].removeprefix(self.base).lstrip("/")
        return self.url(path, **{**dict(self.query), **changed})


@value
class Undo:
    """The act that takes another one back, and the fields it needs."""

    act: str
    fields: Mapping[str, str]


@value
class Done:
    """What came of an act, in a sentence, and the page that says it."""

    said: str
    to: str  #: its address
    is_ok: bool = True
    undo: Undo | None = None
    link: tuple[str, str] | None = None  #: words and an address
    told: Mapping[str, Any] = field(default_factory=dict[str, Any])  #: more for the audit log


Page = Callable[[Visit], Awaitable[Response]]
Act = Callable[[Visit, Form], Awaitable[Done]]


def record(visitor: str, address: str, act: str, form: Form | None, outcome: str) -> None:
    """Write a line into the audit log: who did what with what, from where, and what came of it."""
    fields = {} if form is None else {name: form.all(name) for name in sorted(form.names() - _UNSAID)}
    shown = " ".join(f"{name}={_clipped(','.join(texts))!r}" for name, texts in fields.items())
    audit.info("%s from %s: %s %s: %s", ascii(visitor), address, act, shown, ascii(_clipped(outcome)))


def _clipped(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}… ({len(text)} letters)"
