"""What stands before every page: who asks, whether a form was made here, what he may do, and what browsers are told."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import Message, Receive, Scope, Send

from ...core.clock import Clock
from .doors import Door, Visitor
from .forms import BadForm, Form, read_form
from .sessions import LASTS, Seals, Tries
from .visits import Visit, record

logger = logging.getLogger("aiotq.web")

SESSION: Final = "aiotq_session"
FORMS: Final = "aiotq_forms"
THEME: Final = "aiotq_theme"
_THEMES: Final = frozenset({"light", "dark"})
#: What is seen without leave: nothing in it is anybody's.
_OPEN: Final = "/static/"
_READS: Final = frozenset({"GET", "HEAD"})
#: What whoever may read may also do: nothing of the app is changed by it.
_OWN: Final = frozenset({"/sign-in", "/sign-out", "/theme"})

HEADERS: Final = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Said(Protocol):
    """Makes pages of what the guard has to say."""

    def refused(self, request: Request, base: str, status: HTTPStatus, text: str) -> Response:
        """Return a page that says why somebody is not let in, or may not do something."""
        ...

    def sign_in(self, request: Request, base: str, csrf: str, wrong: str, status: HTTPStatus) -> Response:
        """Return the page on which one signs in."""
        ...


#: What comes after it: the application, with the visit in its scope.
Inner = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """Lets in, and hands on to `inner` with `aiotq.visit` and `aiotq.form` in the scope; an ASGI application."""

    def __init__(self, inner: Inner, door: Door, seals: Callable[[], Seals], clock: Clock, said: Said) -> None:
        self._inner = inner
        self._door = door
        self._seals = seals
        self._clock = clock
        self._said = said
        self._tries = Tries()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        path = _path_of(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(message, {**HEADERS, "cache-control": "no-store"}, keeps=path.startswith(_OPEN))
            await send(message)

        if path.startswith(_OPEN) and request.method in _READS:
            await self._inner(scope, receive, send_with_headers)
            return
        answer = await self._answer(request, path)
        await (self._inner if answer is None else answer)(scope, receive, send_with_headers)

    async def _answer(self, request: Request, path: str) -> Response | None:
        """Return what is answered here; None: the application has the visit in its scope, and answers."""
        base = request.scope.get("root_path", "")
        if path == "/sign-in" and self._door.has_page:
            return await self._signs_in(request, base)
        found = await self._visitor(request)
        if isinstance(found, Response):
            return found
        if found is None:
            return self._not_let_in(request, base, path)
        visitor, number, is_new, is_bearer = found
        csrf = self._seals().signature("forms", number)
        theme = request.cookies.get(THEME)
        visit = Visit(request, visitor, csrf, base, theme if theme in _THEMES else None, self._clock.time())
        request.scope["aiotq.visit"] = visit
        if is_new:
            request.scope["aiotq.forms_cookie"] = number
        if request.method in _READS:
            return None
        return await self._may_act(request, visit, path, is_bearer=is_bearer)

    async def _visitor(self, request: Request) -> tuple[Visitor, str, bool, bool] | Response | None:
        """Return who asks, what his forms are signed for, whether that is new, whether the request proves itself."""
        now = self._clock.time()
        if self._door.has_page and (cookie := request.cookies.get(SESSION)):
            found = self._seals().visitor(cookie, now)
            if found is not None:
                return (*found, False, False)
        address = address_of(request)
        brings = "authorization" in request.headers and (self._door.has_page or self._door.has_prompt)
        if brings and not self._tries.left(address, now):
            record("nobody", address, "sign-in", None, "refused: too many tries")
            return _too_many(request)
        visitor = await self._door.visitor(request)
        if visitor is None:
            if brings:
                self._tries.count(address, now)
                record("nobody", address, "sign-in", None, "refused: wrong name, password or token")
            return None
        number = request.cookies.get(FORMS, "")
        is_new = not 16 <= len(number) <= 64
        return visitor, secrets.token_urlsafe(16) if is_new else number, is_new, brings and self._door.has_page

    def _not_let_in(self, request: Request, base: str, path: str) -> Response:
        if _wants_data(path):
            status = HTTPStatus.UNAUTHORIZED if self._door.has_page or self._door.has_prompt else HTTPStatus.FORBIDDEN
            return JSONResponse({"error": "not let in"}, status, headers=self._challenge())
        if self._door.has_page:
            to = path.lstrip("/") + (f"?{request.url.query}" if request.url.query else "")
            query = f"?{_query(to)}" if request.method in _READS and to else ""
            return RedirectResponse(f"{base}/sign-in{query}", HTTPStatus.SEE_OTHER)
        if self._door.has_prompt:
            answer = self._said.refused(request, base, HTTPStatus.UNAUTHORIZED, "Sign in with your name and password.")
            answer.headers.update(self._challenge())
            return answer
        return self._said.refused(request, base, HTTPStatus.FORBIDDEN, "You have no leave to see this.")

    def _challenge(self) -> dict[str, str]:
        if self._door.has_prompt:
            return {"www-authenticate": 'Basic realm="aiotq", charset="UTF-8"'}
        return {"www-authenticate": "Bearer"} if self._door.has_page else {}

    async def _may_act(self, request: Request, visit: Visit, path: str, *, is_bearer: bool) -> Response | None:
        """Return why something may not be done; None: it may, and its form is in the scope."""
        form: Form | None = None
        if _wants_data(path):  # a form of another page can't send JSON, and browsers ask before its script may
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if not is_bearer and not (kind == "application/json" and _is_own_origin(request)):
                return JSONResponse({"error": "an act is sent as application/json"}, HTTPStatus.FORBIDDEN)
        elif not is_bearer:
            try:
                form = await read_form(request)
            except BadForm as exc:
                return self._said.refused(request, visit.base, HTTPStatus.BAD_REQUEST, f"{exc}.")
            if not _is_own_origin(request) or not self._is_own_form(form, visit.csrf):
                record(visit.visitor.name, address_of(request), path, form, "refused: the form was not made here")
                text = "That form was not made by this page, or is older than your session. Go back, reload, try again."
                return self._said.refused(request, visit.base, HTTPStatus.FORBIDDEN, text)
        if not visit.visitor.may_operate and path not in _OWN:
            record(visit.visitor.name, address_of(request), path, form, "refused: may only read")
            if _wants_data(path):
                return JSONResponse({"error": "you may only read"}, HTTPStatus.FORBIDDEN)
            return self._said.refused(request, visit.base, HTTPStatus.FORBIDDEN, "You may only read.")
        request.scope["aiotq.form"] = form
        return None

    def _is_own_form(self, form: Form, csrf: str) -> bool:
        return secrets.compare_digest(form.get("csrf").encode("utf-8", "replace"), csrf.encode())

    async def _signs_in(self, request: Request, base: str) -> Response:
        now, address = self._clock.time(), address_of(request)
        number = request.cookies.get(FORMS, "")
        if not 16 <= len(number) <= 64:
            number = secrets.token_urlsafe(16)
        csrf = self._seals().signature("forms", number)

        def page(wrong: str = "", status: HTTPStatus = HTTPStatus.OK) -> Response:
            answer = self._said.sign_in(request, base, csrf, wrong, status)
            set_cookie(answer, request, FORMS, number)
            return answer

        if request.method in _READS:
            return page()
        try:
            form = await read_form(request)
        except BadForm as exc:
            return page(f"{exc}.", HTTPStatus.BAD_REQUEST)
        if not _is_own_origin(request) or not self._is_own_form(form, csrf):
            return page("This page was open for too long. Try again.", HTTPStatus.FORBIDDEN)
        if not self._tries.left(address, now):
            record("nobody", address, "sign-in", None, "refused: too many tries")
            answer = page("Too many wrong tokens. Wait a minute.", HTTPStatus.TOO_MANY_REQUESTS)
            answer.headers["retry-after"] = "60"
            return answer
        visitor = self._door.known(form.get("token"))
        if visitor is None:
            self._tries.count(address, now)
            record("nobody", address, "sign-in", None, "refused: wrong token")
            left = self._tries.left(address, now)
            tries = "Wait a minute." if not left else f"{left} {'try' if left == 1 else 'tries'} left this minute."
            return page(f"That token is not known. {tries}", HTTPStatus.UNAUTHORIZED)
        record(visitor.name, address, "sign-in", None, "signed in")
        signed_in = RedirectResponse(f"{base}/{_safe(request.query_params.get('to', ''))}", HTTPStatus.SEE_OTHER)
        set_cookie(signed_in, request, SESSION, self._seals().session(visitor, now), LASTS)
        return signed_in


def set_cookie(response: Response, request: Request, name: str, text: str, age: int | None = None) -> None:
    """Have a browser keep `text` for `age` seconds (None: until it is closed) for this dashboard alone."""
    path = request.scope.get("root_path", "") or "/"
    is_secure = request.url.scheme == "https"
    response.set_cookie(name, text, max_age=age, path=path, secure=is_secure, httponly=True, samesite="lax")


def address_of(request: Request) -> str:
    return request.client.host if request.client is not None else "unknown"


def _path_of(scope: Scope) -> str:
    """Return the path below the place where the dashboard is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root) else path


def _wants_data(path: str) -> bool:
    return path.startswith("/api/") or path in {"/api", "/live"}


def _query(to: str) -> str:
    from_here = _safe(to)
    return "" if not from_here else f"to={_quoted(from_here)}"


def _quoted(text: str) -> str:
    return "".join(
        each if each.isalnum() and each.isascii() else f"%{byte:02X}" for each in text for byte in each.encode()
    )


def _safe(to: str) -> str:
    """Return the way to a page of this dashboard, or to the first one: never to another place."""
    is_own = to.isascii() and to.isprintable() and "\\" not in to and not to.startswith("/")
    split = urlsplit(to) if is_own else None
    return to if split is not None and not split.scheme and not split.netloc and ":" not in split.path else ""


def _is_own_origin(request: Request) -> bool:
    """Whether a browser says that a form comes from a page of this origin; others say nothing."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in {"same-origin", "none"}
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def _too_many(request: Request) -> Response:
    return PlainTextResponse("too many tries: wait a minute", HTTPStatus.TOO_MANY_REQUESTS, {"retry-after": "60"})


def _add_headers(message: MutableMapping[str, Any], headers: dict[str, str], *, keeps: bool) -> None:
    given = {name.lower() for name, _ in message["headers"]}
    message["headers"] = [
        *message["headers"],
        *(
            (name.encode(), text.encode())
            for name, text in headers.items()
            if name.encode() not in given and not (keeps and name == "cache-control")
        ),
    ]
