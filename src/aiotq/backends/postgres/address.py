"""Where a PostgreSQL is, and where in it aiotq's tables are: what a URL says."""

from __future__ import annotations

import difflib
import hashlib
import re
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ...core.values import value

DEFAULT_SCHEMA: Final = "aiotq"
SCHEMES: Final = ("postgresql", "postgres")
#: Options of ours; all others are libpq's.
_OURS: Final = ("schema", "prefix", "reply_timeout", "listen")
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_PREFIX: Final = re.compile(r"[a-z_][a-z0-9_]{0,19}|")
#: What the addresses of processes look like, as ends of channels' names.
_PROCESS: Final = re.compile(r"[0-9a-f]{12}")


@value
class Address:
    """A database, and the schema in it.

        postgresql://user:password@host:5432/database?schema=aiotq&prefix=
        postgresql://host1,host2/database?sslmode=verify-full&sslrootcert=ca.pem

    Everything that libpq understands may stand in the URL: several hosts, `sslmode`, `service`, a socket's directory as
    `host`. With several hosts the one that accepts writes is taken, unless `target_session_attrs` says otherwise.
    `schema` has aiotq's tables, whose names begin with `prefix`. `listen` is the URL at which notifications can be
    heard, where the first one leads to a pooler that does not pass them on.
    """

    conninfo: str
    shown: str
    schema: str = DEFAULT_SCHEMA
    prefix: str = ""
    listen_conninfo: str | None = None
    #: Seconds.
    connect_timeout: float = 5.0
    reply_timeout: float = 10.0

    @property
    def channel_base(self) -> str:
        """What the names of our channels begin with; that of all processes is no more than this."""
        place = hashlib.blake2s(f"{self.schema}.{self.prefix}".encode(), digest_size=6).hexdigest()
        return f"aiotq:{place}:"

    def channel(self, address: str) -> str | None:
        """Return the channel of a process; None if none can have this address."""
        return f"{self.channel_base}{address}" if _PROCESS.fullmatch(address) else None

    def named(self, sql: str) -> str:
        """Return `sql` with its tables and functions as they are called here."""
        return sql.replace("aiotq.", f'"{self.schema}".{self.prefix}').replace("aiotq_", self.prefix)


def parse(url: str) -> Address:
    """Return the address that `url` describes.

    Raises:
        ValueError: it does not describe one; the text says why, without the password.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        raise ValueError(f"its scheme is none of {', '.join(SCHEMES)}")
    place, _, query = rest.partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    ours = {name: text for name, text in given if name in _OURS}
    schema, prefix = ours.get("schema", DEFAULT_SCHEMA), ours.get("prefix", "")
    if not _NAME.fullmatch(schema):
        raise ValueError("schema must be 1 to 40 of a-z, 0-9 and _, no digit first")
    if not _PREFIX.fullmatch(prefix):
        raise ValueError("prefix must be at most 20 of a-z, 0-9 and _, no digit first")
    parameters = _parameters(place, [(name, text) for name, text in given if name not in _OURS])
    connect_timeout = _seconds("connect_timeout", parameters.get("connect_timeout", "5"))
    reply_timeout = _seconds("reply_timeout", ours.get("reply_timeout", "10"))
    listen = ours.get("listen")
    return Address(
        conninfo=_conninfo(parameters, connect_timeout, reply_timeout),
        shown=_shown(parameters),
        schema=schema,
        prefix=prefix,
        listen_conninfo=parse(listen).conninfo if listen else None,
        connect_timeout=connect_timeout,
        reply_timeout=reply_timeout,
    )


def _parameters(place: str, options: list[tuple[str, str]]) -> dict[str, Any]:
    """Return what libpq makes of a URL."""
    query = urlencode(options)
    try:
        return conninfo_to_dict(f"postgresql://{place}{'?' if query else ''}{query}")
    except psycopg.Error as exc:
        for name, _ in options:
            if f'"{name}"' in str(exc):
                near = difflib.get_close_matches(name, _OURS, n=1)
                hint = f", did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"neither aiotq nor libpq has an option {name!r}{hint}") from None
        raise ValueError(
            "libpq can't read it: in a user name or password : / ? # and @ are written %3A %2F %3F %23 %40"
        ) from None


def _conninfo(parameters: dict[str, Any], connect_timeout: float, reply_timeout: float) -> str:
    hosts = str(parameters.get("host", ""))
    usual: dict[str, Any] = {
        "application_name": "aiotq",
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": round(reply_timeout * 1000),
    }
    if "," in hosts:
        usual["target_session_attrs"] = "read-write"
    ours = {"connect_timeout": max(round(connect_timeout), 1), "client_encoding": "utf8"}
    return make_conninfo("", **{**usual, **parameters, **ours})


def _shown(parameters: dict[str, Any]) -> str:
    host = parameters.get("host", "localhost")
    port = f":{parameters['port']}" if "port" in parameters else ""
    return f"postgresql://{unquote(str(host))}{port}/{parameters.get('dbname', '')}"


def _seconds(name: str, text: object) -> float:
    try:
        seconds = float(str(text))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{name} must be a number of seconds, not {text!r}")
    return seconds
