"""What all pages work with: the app, what is watched, and a way to become a response."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from http import HTTPStatus
from typing import Any, Final, TypeVar, cast

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from ...app import AioTQ
from ...control.queries import Queries
from ...core.inside import core_of
from .forms import Form
from .guard import FORMS, set_cookie
from .rendering import rendered
from .visits import Done, Undo, Visit
from .watching import Look, Watch

T = TypeVar("T")

#: Seconds that a page, or an act, may take.
PATIENCE: Final = 20.0
#: The cookie in which the answer to an act is kept until the next page, letters of it, and seconds.
_SAID: Final = "aiotq_said"
_MOST_SAID: Final = 600
_SAID_FOR: Final = 60
#: What a broker is called on the page, by how its URL begins.
_BROKERS: Final = {
    "sqlite": "SQLite",
    "redis": "Redis",
    "rediss": "Redis",
    "sentinel": "Redis",
    "amqp": "RabbitMQ",
    "amqps": "RabbitMQ",
    "postgresql": "PostgreSQL",
    "postgres": "PostgreSQL",
}


class Desk:
    """The app of a dashboard, what is watched of it, and how its pages are made."""

    def __init__(self, app: AioTQ, *, signs_out: bool) -> None:
        self.app = app
        self.core = core_of(app)
        self.name = self.core.main or "aiotq"
        self.queries = Queries(self.core)
        self.watch = Watch(self.queries, self.core.clock.time, self._beside)
        self.shown = self.core.arguments
        self.streams = 0  #: pages that follow what happens, now
        scheme = self.core.conf.broker_url.partition(":")[0].partition("+")[0]
        self.broker = _BROKERS.get(scheme, scheme)
        self._signs_out = signs_out

    async def page(
        self, visit: Visit, template: str, here: str, *, live: str = "", status: HTTPStatus = HTTPStatus.OK, **more: Any
    ) -> Response:
        """Return a page made of `template`; `live` names the parts of a look that it shows, and follows."""
        look = await self.watch.look()
        said = _read_said(visit.request)
        text = rendered(
            template,
            **self._common(visit, look),
            here=here,
            live=live,
            held=visit.query.get("live") == "off",
            toast=said,
            problems=look.problems,
            look=look,
            **more,
        )
        answer = HTMLResponse(text, status)
        if said is not None:
            answer.delete_cookie(_SAID, path=visit.base or "/")
        if (number := visit.request.scope.get("aiotq.forms_cookie")) is not None:
            set_cookie(answer, visit.request, FORMS, number)
        return answer

    def done(self, visit: Visit, done: Done) -> Response:
        """Return the way to the page that says what came of an act."""
        answer = RedirectResponse(done.to, HTTPStatus.SEE_OTHER)
        undo = None if done.undo is None else [done.undo.act, dict(done.undo.fields)]
        told = [done.said[:_MOST_SAID], done.is_ok, undo, done.link]
        set_cookie(answer, visit.request, _SAID, orjson.dumps(told).hex(), _SAID_FOR)
        return answer

    def nav(self, look: Look) -> Sequence[tuple[str, str, str, str, int | None, str]]:
        """Return the menu: key, path, sign, word, a count, and the class of that."""
        return (
            ("overview", "", "n-over", "Overview", None, ""),
            ("tasks", "tasks", "n-task", "Tasks", None, ""),
            ("workflows", "workflows", "n-flow", "Workflows", None, ""),
            ("queues", "queues", "n-queue", "Queues", len(look.queues), ""),
            ("workers", "workers", "n-work", "Workers", len(look.workers), ""),
            ("schedules", "schedules", "n-time", "Schedules", len(look.schedules), ""),
            ("dead", "dead", "n-dead", "Dead letters", look.dead, "dead"),
        )

    async def _beside(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return (await self.core.connection()).beside(work, name)

    def _common(self, visit: Visit, look: Look) -> dict[str, Any]:
        return {
            "visit": visit,
            "base": visit.base,
            "visitor": visit.visitor,
            "csrf": visit.csrf,
            "now": visit.now,
            "theme": visit.theme,
            "app_name": self.name,
            "broker": self.broker,
            "signs_out": self._signs_out,
            "nav": self.nav(look),
        }


async def within(ask: Awaitable[T], seconds: float = PATIENCE) -> T:
    """Return what `ask` returns.

    Raises:
        TimeoutError: it took longer.
    """
    async with asyncio.timeout(seconds):
        return await ask


class Unconfirmed(Exception):
    """Nobody was asked yet whether to do what loses something: `title` asks, `lost` says what goes.

    `word` is what is to be typed; empty: pressing `button` is enough.
    """

    def __init__(self, title: str, lost: str, button: str, word: str) -> None:
        super().__init__(title)
        self.title, self.lost, self.button, self.word = title, lost, button, word


def is_confirmed(form: Form, word: str, *, title: str, lost: str, button: str) -> bool:
    """Whether the word was typed that is asked for before something is lost.

    Raises:
        Unconfirmed: the form comes from where nobody was asked; a page asks, and sends it again.
    """
    if "typed" not in form.names():
        raise Unconfirmed(title, lost, button, word)
    return form.get("typed").strip() == word


def _read_said(request: Request) -> Done | None:
    """Return what the last act came to, as the browser kept it; it is shown as text."""
    try:
        told = cast("list[Any]", orjson.loads(bytes.fromhex(request.cookies.get(_SAID, ""))))
        said, is_ok, undo, link = told
        back = None if undo is None else Undo(str(undo[0]), {str(name): str(text) for name, text in undo[1].items()})
        way = None if link is None else (str(link[0]), str(link[1]))
    except (ValueError, TypeError, LookupError, AttributeError):
        return None
    if way is not None and not way[1].startswith("/"):
        return None
    return Done(str(said), "", bool(is_ok), back, way)
