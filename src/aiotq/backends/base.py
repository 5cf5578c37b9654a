"""Where messages and results are kept: the contract of a backend, and which module knows which URL."""

from __future__ import annotations

import abc
import importlib
import re
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Final, Self, cast

from ..commit import Committer, Finish
from ..control.bus import Bus
from ..control.celery_mail import CeleryMail
from ..core.clock import Clock
from ..core.settings import Settings
from ..core.values import value
from ..exceptions import InvalidSetting, MissingLibrary, SettingsError
from ..results import Ledger, RecordStore
from ..transport import Broker

_REDIS: Final = "redis.backend:RedisBackend"
_AMQP: Final = "amqp.backend:AmqpBackend"
_POSTGRES: Final = "postgres.backend:PostgresBackend"
_SQL: Final = "sql.backend:SqlBackend"

#: scheme -> the module and class for it. Loaded when first used: most apps have one system, and need not pay for the
#: others.
SCHEMES: Final = {
    "memory": "memory.backend:MemoryBackend",
    "sqlite": "sqlite.backend:SQLiteBackend",
    "redis": _REDIS,
    "rediss": _REDIS,
    "unix": _REDIS,
    "redis+socket": _REDIS,
    "redis+sentinel": _REDIS,
    "rediss+sentinel": _REDIS,
    "redis+cluster": _REDIS,
    "rediss+cluster": _REDIS,
    "amqp": _AMQP,
    "amqps": _AMQP,
    "sqs": "sqs.backend:SqsBackend",
    "postgresql": _POSTGRES,
    "postgres": _POSTGRES,
    "cache+memcached": "memcached.backend:MemcachedBackend",
    "db+postgresql": _SQL,
    "db+mysql": _SQL,
    "db+mariadb": _SQL,
    "db+sqlite": _SQL,
    "django-db": ".contrib.django.backend:DjangoBackend",
}
#: The group of entry points by which other packages add schemes: `my = "my_package:MyBackend"`.
ENTRY_POINTS: Final = "aiotq.backends"
#: Those for which the scheme alone is a URL, as in Celery.
_NAMES: Final = frozenset({"django-db"})


Memory = Callable[[str, str, Callable[[], Any]], Any]


@value
class BackendContext:
    """The settings and other parts of an app that its backends use.

    `memory(name, kind, make)` makes or finds what lasts longer than a connection: the app's own if `name` is empty.
    """

    conf: Settings
    clock: Clock
    memory: Memory


@value
class Statement:
    """SQL that writes a finish in a transaction of the user's: what stands between its values, and these.

    It returns a row, unless that transaction is of another database; `held` says of the row whether the finish was
    written, or its lease was lost. `committed` is called with it after the commit.
    """

    sql: tuple[str, ...]
    values: tuple[str | int, ...]
    held: Callable[[Sequence[Any]], bool]
    committed: Callable[[Sequence[Any]], None]


class Backend(abc.ABC):
    """A system as one URL names it, in one loop: an async context manager that connects what its parts share.

    A part that it can't keep is None. The app's connection enters them, after the backend.
    """

    #: Whether it decides for all workers; known before it is made.
    has_ledger: ClassVar[bool] = True
    #: Whether `statement` returns any.
    has_statements: ClassVar[bool] = False
    #: Whether calls that say whose they are take turns by key (see `transport.shares`).
    has_shares: ClassVar[bool] = False

    broker: Broker | None = None
    records: RecordStore | None = None
    ledger: Ledger | None = None
    bus: Bus | None = None
    celery: CeleryMail | None = None  #: Celery's own exchanges, where they are shared

    @classmethod
    @abc.abstractmethod
    def key(cls, url: str) -> Hashable:
        """Return what is equal for URLs of the same backend.

        Raises:
            InvalidSetting, ValueError: `url` can't be used; a ValueError's text says why.
        """

    @classmethod
    def queue_problem(cls, name: str) -> str | None:
        """Return why no queue here can be called `name`, a printable name of its length; None: one can."""
        return None

    @classmethod
    async def migrate(cls, url: str) -> int | None:
        """Make or upgrade the tables at `url`; return how many migrations were applied, None if it has no tables.

        Raises:
            OperationalError: it can't be done; the text says why.
        """
        return None

    @abc.abstractmethod
    def __init__(self, url: str, context: BackendContext) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    async def warnings(self) -> Sequence[str]:
        """Return what is wrong with the server's own settings, each with what to do behind a semicolon.

        Raises:
            OperationalError: it does not say how they are.
        """
        return ()

    def committer(self) -> Committer | None:
        """Return what commits to all its parts in one step; None: they have no such step."""
        return None

    async def statement(self, finish: Finish) -> Statement | None:
        """Return SQL which writes `finish` in a transaction of the user's; None: this is no database.

        Raises:
            OperationalError: the database can't be reached, or it can't be written.
        """
        return None


def backend_class(url: str) -> type[Backend] | None:
    """Return the class of the backend that `url` names; None if there is no such kind.

    Raises:
        SettingsError: it can't be loaded.
    """
    scheme, separator, _ = url.partition("://")
    if not (separator or scheme in _NAMES):
        return None
    if scheme.startswith("db+"):
        scheme = "+".join(scheme.split("+")[:2])  # without the driver, if it names one
    if scheme not in SCHEMES:
        return _added(scheme)
    module, _, name = SCHEMES[scheme].partition(":")
    return cast("type[Backend]", getattr(importlib.import_module(f".{module}", __package__), name))


@cache
def _added(scheme: str) -> type[Backend] | None:
    """Return the class that another package has for `scheme`."""
    from importlib.metadata import entry_points  # noqa: PLC0415  # some milliseconds of everybody's start, for few

    found = entry_points(group=ENTRY_POINTS, name=scheme)
    if not found:
        return None
    packages = sorted({point.dist.name if point.dist is not None else point.value for point in found})
    if len(packages) > 1:
        raise SettingsError(f"{scheme}:// is added by several packages ({', '.join(packages)}): keep one of them")
    (point, *_) = found
    try:
        loaded: object = point.load()
    except (ImportError, AttributeError) as exc:
        raise MissingLibrary(f"{scheme}:// is added by {packages[0]}, which can't be loaded: {exc}") from exc
    if not (isinstance(loaded, type) and issubclass(loaded, Backend)):
        raise SettingsError(f"{scheme}:// is added by {packages[0]}, but {point.value} is no class of Backend")
    return loaded


def mask_password(url: str) -> str:
    """Return `url` as it may be shown without its passwords."""
    # Up to the last @: a password may hold what ends a URL's first part, if it is not quoted.
    # Line ends too: a secret that was read from a file often has one.
    shown = re.sub(r"^([^:]+://[^:@/?#]*):.*@", r"\1:**@", url, flags=re.DOTALL)
    before, question, options = shown.partition("?")
    return before + question + "&".join(_masked_option(option) for option in options.split("&")) if question else shown


def shown_place(url: str) -> str:
    """Return `url` for people: without its passwords, and a file with its whole path."""
    if not url.startswith("sqlite:"):
        return mask_password(url)
    try:
        file = cast("type[Backend]", backend_class(url)).key(url)
    except (InvalidSetting, ValueError):  # said by whoever uses it
        return mask_password(url)
    return f"sqlite:///{Path(str(file)).absolute()}"


def _masked_option(option: str) -> str:
    name, equals, _ = option.partition("=")
    return f"{name}{equals}**" if "password" in name else option
