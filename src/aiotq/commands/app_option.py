"""Which app a command is about, and getting at it: its module imported, its broker connected; errors for people."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from ..app import AioTQ
from ..backends.base import shown_place
from ..core.inside import core_of
from ..core.logs import format_error, is_machinery, user_frames
from ..core.settings import APP_VARIABLE
from ..exceptions import AioTQError, AppNotFound, OperationalError
from ..lookup import find_app

T = TypeVar("T")

#: The broker that a parent chose with `-b`, for the workers it starts: a command's words are shown to every user of the
#: machine, a process's environment is not. Without our prefix, for it is no setting.
BROKER_VARIABLE: Final = "_AIOTQ_BROKER"


#: The hint when a word was left out.
_WHERE_TO_FIND: Final = {"QUEUE": ": aiotq queues lists them; name one"}


class CommandFailed(AioTQError):
    """A command could not do what it was asked to; the text is for the one who asked."""

    exit_code = 1


class UsageError(CommandFailed):
    """A command was not asked in the words it understands."""

    exit_code = 2


class AppImportFailed(CommandFailed):
    """The app's own code could not be imported."""


@dataclass(slots=True)
class Target:
    """The app as the words of a command name it: `-A APP`, or the first word, or AIOTQ_APP."""

    app: str | None = None
    broker: str | None = None
    debug: bool = False

    def given(self, app: str | None, broker: str | None, debug: bool) -> Target:
        """Take a command's own options, which win over those before it."""
        self.app = app or self.app
        self.broker = broker or self.broker or os.environ.pop(BROKER_VARIABLE, None)
        self.debug = self.debug or debug
        return self

    def split(self, words: Sequence[str | None], *needed: str) -> list[str]:
        """Take the app from the front of `words` unless it is known; return the rest: one word for each of `needed`.

        Raises:
            UsageError: too few words or too many.
        """
        rest = [word for word in words if word is not None]
        if self.app is None and (len(rest) > len(needed) or APP_VARIABLE not in os.environ):
            self.app = rest.pop(0) if rest else None
        if len(rest) > len(needed):
            raise UsageError(f"one word too many: {' '.join(rest[len(needed) :])} (the app is {self.spec})")
        if len(rest) < len(needed):
            missing = " ".join(needed[len(rest) :])
            taken = f" ({self.app} was taken for the app)" if self.app is not None and self.app in words else ""
            raise UsageError(f"{missing} is missing{taken}{_WHERE_TO_FIND.get(missing, '')}")
        return rest

    def split_many(self, words: Sequence[str | None]) -> list[str]:
        """As `split`, for a command that takes any number of words; beside AIOTQ_APP an app has a colon in it."""
        rest = [word for word in words if word is not None]
        if self.app is None and rest and (APP_VARIABLE not in os.environ or ":" in rest[0]):
            self.app = rest.pop(0)
        return rest

    @property
    def spec(self) -> str:
        """What names the app.

        Raises:
            UsageError: nothing does.
        """
        spec = self.app or os.environ.get(APP_VARIABLE)
        if not spec:
            raise UsageError(f"which app? Name it first (proj:app), with -A proj:app, or in {APP_VARIABLE}")
        return spec

    def load(self, *, with_tasks: bool = True) -> AioTQ:
        """Import the app (and the modules of its tasks).

        Raises:
            AppNotFound: there is no such app.
            AppImportFailed: its code can't be imported.
            SettingsError: the broker given in its place can't be used.
        """
        with importing(f"app {self.spec!r}"):
            app = find_app(self.spec)
        if self.broker is not None:
            app.conf.update(broker_url=self.broker)
        if with_tasks:
            with importing(f"the tasks of app {self.spec!r}"):
                app.load_tasks()
        return app

    def run(self, work: Callable[[AioTQ], Awaitable[T]], *, with_tasks: bool = False) -> T:
        """Load the app and return what `work` returns, run while the app is connected; raises as `load`.

        Raises:
            CommandFailed: broker or store can't be reached.
        """
        return run(self.load(with_tasks=with_tasks), work)


def run(app: AioTQ, work: Callable[[AioTQ], Awaitable[T]]) -> T:
    """Return what `work` returns, run while `app` is connected."""

    async def run() -> T:
        async with connected(app):
            return await work(app)

    return asyncio.run(run())


@contextmanager
def importing(what: str) -> Generator[None, None, None]:
    """Turn what the user's code raises into `AppImportFailed`, with their part of the traceback."""
    try:
        yield
    except AppNotFound:
        raise
    except AioTQError as exc:  # their use of this library: the place and the text say all
        theirs = [frame for frame in user_frames(exc) if not is_machinery(frame)]
        place = f"{theirs[-1].filename}:{theirs[-1].lineno}: " if theirs else ""
        raise AppImportFailed(f"{what} can't be imported:\n{place}{exc}") from exc
    except Exception as exc:
        text = format_error(exc) if user_frames(exc) else format_error(exc.with_traceback(None))
        raise AppImportFailed(f"{what} can't be imported:\n{text.rstrip()}") from exc


@asynccontextmanager
async def connected(app: AioTQ) -> AsyncGenerator[AioTQ, None]:
    """Be connected to the app's broker and store.

    Raises:
        CommandFailed: they can't be reached; the text says where they should be.
    """
    try:
        await core_of(app).connection()
    except OperationalError as exc:
        raise CommandFailed(f"can't reach {places(app)}: {exc}") from exc
    async with app:
        yield app


def places(app: AioTQ) -> str:
    """Return where the app's messages and results are, without passwords."""
    broker = f"broker {shown_place(app.conf.broker_url)}"
    backend = app.conf.result_backend
    results = "" if backend is None else f" or results store {shown_place(backend)}"
    return broker + results + ("" if app.conf.ledger is None else f" or ledger {shown_place(app.conf.ledger)}")
