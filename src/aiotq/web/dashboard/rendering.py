"""Templates: every value in them is text; nothing that came from a task is ever markup."""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from ...core.version import VERSION
from . import charts, words
from .guard import THEME

HERE: Final = Path(__file__).parent


@cache
def environment() -> Environment:
    """Return what makes pages of templates."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        cache_size=-1,
    )
    made.filters.update(  # pyright: ignore[reportUnknownMemberType]
        count=words.count,
        counted=words.counted,
        percent=words.percent,
        duration=words.duration,
        size=words.size,
        full=words.full,
        clock=words.clock,
        module_of=words.module_of,
        function_of=words.function_of,
        clipped=words.clipped,
        iso=words.iso,
        sentence=words.sentence,
    )
    made.globals.update(  # pyright: ignore[reportUnknownMemberType]
        state_of=words.state,
        ago=words.ago,
        slots=charts.slots,
        log_bar=charts.log_bar,
        version=VERSION,
    )
    return made


def rendered(template: str, **context: Any) -> str:
    """Return the text of a template."""
    return environment().get_template(template).render(context)


class Says:
    """The pages that the guard needs."""

    def __init__(self, name: str) -> None:
        self._name = name

    def refused(self, request: Request, base: str, status: HTTPStatus, text: str) -> Response:
        """Return a page that says why something may not be."""
        theme = _theme_of(request)
        page = rendered("refused.html", base=base, theme=theme, status=status, text=text, app_name=self._name)
        return HTMLResponse(page, status)

    def sign_in(self, request: Request, base: str, csrf: str, wrong: str, status: HTTPStatus) -> Response:
        """Return the page on which one signs in."""
        query = request.url.query
        page = rendered(
            "sign_in.html",
            base=base,
            theme=_theme_of(request),
            csrf=csrf,
            wrong=wrong,
            app_name=self._name,
            action=f"{base}/sign-in" + (f"?{query}" if query else ""),
        )
        return HTMLResponse(page, status)


def _theme_of(request: Request) -> str | None:
    theme = request.cookies.get(THEME)
    return theme if theme in {"light", "dark"} else None
