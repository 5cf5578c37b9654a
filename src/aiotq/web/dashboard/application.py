"""The dashboard as an ASGI application: what stands where, and how acts and failures are answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, NotRequired, Required, TypedDict, Unpack

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from ...app import AioTQ
from ...exceptions import AioTQError, InvalidOption
from ..api.routes import api_routes
from . import dead, live, overview, queues, schedules, sending, task, tasks, workers, workflows
from .desk import PATIENCE, Desk, Unconfirmed
from .doors import Auth, Visitor, door_of
from .forms import BadForm, Form
from .guard import SESSION, THEME, Guard, address_of, set_cookie
from .rendering import HERE, Says
from .sessions import Seals
from .visits import Done, Visit, record

logger = logging.getLogger("aiotq.web")

_A_YEAR: Final = 365 * 86_400

#: Nobody is let in by accident.
_NOT_SAID: Final = (
    "dashboard: say who may come in: auth='a token of 12 letters or more', a function from a request to 'read', "
    "'operate' or None, or auth=None for whoever asks from this machine"
)

Page = Callable[[Desk, Visit], Awaitable[Response]]
Act = Callable[[Desk, Visit, Form], Awaitable[Done]]

PAGES: Final[Mapping[str, Page]] = {
    "/": overview.page,
    "/tasks": tasks.page,
    "/tasks/{id:path}": task.page,
    "/workflows": workflows.list_page,
    "/workflows/{id:path}": workflows.page,
    "/queues": queues.page,
    "/workers": workers.page,
    "/schedules": schedules.page,
    "/dead": dead.page,
    "/send": sending.page,
    "/live": live.stream,
}
ACTS: Final[Mapping[str, Act]] = {
    **queues.ACTS,
    **dead.ACTS,
    **workers.ACTS,
    **schedules.ACTS,
    **task.ACTS,
    **tasks.ACTS,
    **workflows.ACTS,
    **sending.ACTS,
}


class DashboardOptions(TypedDict):
    """What `app.dashboard` takes."""

    auth: Required[Auth | None]
    secret: NotRequired[str]


class Dashboard:
    """The pages of one app, as an ASGI application: `api.mount("/tasks", app.dashboard(auth=token))`.

    `auth` says who may come in: a token, which operates; a mapping of tokens to `"read"` or `"operate"`; `Basic(…)`; or
    a function from a request to one of these roles, or None for nobody. `auth=None` lets in whoever asks from this
    machine. `secret` signs sessions and forms (default: made of `auth`).

    Raises:
        InvalidOption: `auth` is not given, or can't be so.
    """

    def __init__(self, app: AioTQ, **options: Unpack[DashboardOptions]) -> None:
        if "auth" not in options:
            raise InvalidOption(_NOT_SAID)
        self._door = door_of(options["auth"])
        secret = options.get("secret")
        self.desk = Desk(app, signs_out=self._door.has_page)
        self._secret = _checked(secret) or self._door.secret or self._of_app()
        self._seals: Seals | None = None
        self._inner = Starlette(routes=self._routes(), lifespan=app.lifespan)
        self._guard = Guard(self._inner, self._door, self.seals, self.desk.core.clock, Says(self.desk.name))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
        elif scope["type"] == "http":
            await self._guard(scope, receive, send)
        else:  # no page of ours opens a websocket
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def send_away(self) -> None:
        """Have open pages let go, so that who serves them can stop; none is live any more."""
        await self.desk.watch.send_away()

    def seals(self) -> Seals:
        """Return what signs; made when it is first needed, since that is slow."""
        if self._seals is None:
            self._seals = Seals(self._secret)
        return self._seals

    def _of_app(self) -> bytes:
        """Return what all processes of the app have: forms are signed with it, and no session."""
        conf = self.desk.core.conf
        return f"{conf.security_key}\n{conf.broker_url}\n{conf.result_backend}".encode()

    def _routes(self) -> list[Route | Mount]:
        static = StaticFiles(directory=HERE / "static")
        return [
            Mount("/static", _Kept(static), name="static"),
            *(Route(path, self._page(page), methods=["GET"]) for path, page in PAGES.items()),
            *(Route(f"/act/{name}", self._act(name, act), methods=["POST"]) for name, act in ACTS.items()),
            Mount("/api", routes=api_routes(self.desk.core, _caller_of, _record_call)),
            Route("/sign-out", self._signs_out, methods=["POST"]),
            Route("/theme", self._theme, methods=["POST"]),
            Route("/{path:path}", self._nothing, methods=["GET", "POST"]),
        ]

    def _page(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            visit: Visit = request.scope["aiotq.visit"]
            try:
                async with asyncio.timeout(None if page is live.stream else PATIENCE):
                    return await page(self.desk, visit)
            except TimeoutError:
                return await self._failed(visit, f"No answer within {PATIENCE:g} s.")
            except AioTQError as exc:
                return await self._failed(visit, f"{exc}.")

        return answer

    def _act(self, name: str, act: Act) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            visit: Visit = request.scope["aiotq.visit"]
            form: Form = request.scope["aiotq.form"] or Form(())
            try:
                async with asyncio.timeout(PATIENCE):
                    done = await act(self.desk, visit, form)
            except Unconfirmed as ask:
                return await self._ask(visit, name, form, ask)
            except (AioTQError, BadForm, TimeoutError) as exc:
                text = str(exc) or f"no answer within {PATIENCE:g} s; it may have been done"
                done = Done(f"Nothing was changed: {text}.", _back(visit), is_ok=False)
            except Exception as exc:
                record(visit.visitor.name, address_of(request), name, form, f"failed: {exc!r}")
                raise
            record(visit.visitor.name, address_of(request), name, form, done.said)
            self.desk.watch.forget()
            return self.desk.done(visit, done)

        return answer

    async def _ask(self, visit: Visit, act: str, form: Form, ask: Unconfirmed) -> Response:
        """Return the page that asks before something is lost, and sends the same form again."""
        fields = form.without("csrf", "typed")
        action = f"{visit.base}/act/{act}"
        return await self.desk.page(visit, "ask.html", "", ask=ask, action=action, fields=fields, back=_back(visit))

    async def _failed(self, visit: Visit, text: str) -> Response:
        return await self.desk.page(visit, "failed.html", "", status=HTTPStatus.SERVICE_UNAVAILABLE, text=text)

    async def _nothing(self, request: Request) -> Response:
        visit: Visit = request.scope["aiotq.visit"]
        return await self.desk.page(
            visit, "missing.html", "", status=HTTPStatus.NOT_FOUND, text="There is no such page."
        )

    async def _signs_out(self, request: Request) -> Response:
        visit: Visit = request.scope["aiotq.visit"]
        record(visit.visitor.name, address_of(request), "sign-out", None, "signed out")
        answer = RedirectResponse(visit.url("sign-in" if self._door.has_page else ""), HTTPStatus.SEE_OTHER)
        answer.delete_cookie(SESSION, path=visit.base or "/")
        return answer

    async def _theme(self, request: Request) -> Response:
        visit: Visit = request.scope["aiotq.visit"]
        form: Form = request.scope["aiotq.form"] or Form(())
        answer = RedirectResponse(_back(visit, form.get("to")), HTTPStatus.SEE_OTHER)
        set_cookie(answer, request, THEME, form.get("theme")[:10], _A_YEAR)
        return answer


def _caller_of(request: Request) -> Visitor:
    visit: Visit = request.scope["aiotq.visit"]
    return visit.visitor


def _record_call(request: Request, act: str, given: Mapping[str, Any], outcome: str) -> None:
    form = Form([(str(name), str(text)) for name, text in given.items()])
    record(_caller_of(request).name, address_of(request), act, form, outcome)


class _Kept:
    """Has browsers keep what never changes under its address, which has the version in it."""

    def __init__(self, inner: StaticFiles) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_kept(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"cache-control", b"public, max-age=86400")]
            await send(message)

        await self._inner(scope, receive, send_kept)


def _back(visit: Visit, to: str = "") -> str:
    """Return the page from which something was done: one of this dashboard, or its first."""
    if not to:
        referer = visit.request.headers.get("referer", "")
        origin = f"{visit.request.url.scheme}://{visit.request.url.netloc}"
        to = referer.removeprefix(origin) if referer.startswith(f"{origin}/") else ""
    is_own = (
        to.startswith(f"{visit.base}/")
        and not to.startswith(f"{visit.base}/act/")
        and not to.startswith("//")
        and "\\" not in to
        and to.isprintable()
    )
    return to if is_own else visit.url("")


def _checked(secret: str | None) -> bytes | None:
    if secret is not None and len(secret) < 16:
        raise InvalidOption("dashboard: secret must have 16 letters or more")
    return None if secret is None else secret.encode()
