"""Where a RabbitMQ is: URLs of one server or several, credentials, virtual host, certificates."""

from __future__ import annotations

import difflib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from yarl import URL

from ...exceptions import OperationalError

SCHEMES: Final = ("amqp", "amqps")
DEFAULT_PORT: Final = 5672
DEFAULT_TLS_PORT: Final = 5671
DEFAULT_HEARTBEAT: Final = 10
_LONGEST_HEARTBEAT: Final = 60
_TLS_OPTIONS: Final = (
    *("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_password"),
    *("ssl_cert_reqs", "ssl_check_hostname"),
)
_OPTIONS: Final = ("heartbeat", "connect_timeout", "reply_timeout", "auth", *_TLS_OPTIONS)
#: The ways to log in that aiormq knows.
_LOGINS: Final = ("plain", "external")
#: Bytes of a virtual host's name that pamqp sends; AMQP allows 255.
_LONGEST_VHOST: Final = 127
_YES: Final = ("true", "1", "yes")
_NO: Final = ("false", "0", "no")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server."""

    host: str = "localhost"
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Address:
    """A RabbitMQ, or the nodes of a cluster, as its URL describes it. Times in seconds.

        amqp://user:password@host:5672/vhost?heartbeat=10
        amqps://host1,host2:5671/vhost?ssl_ca_certs=/path/ca.pem
        amqp://user:password@host1/vhost;amqp://user:password@host2/vhost

    Without a path, and with `/`, `//` or `/%2F`, the virtual host is `/`. With TLS: `ssl_ca_certs`, `ssl_certfile`,
    `ssl_keyfile`, `ssl_password`, `ssl_cert_reqs` (required, none), `ssl_check_hostname`. `auth` is plain, or external:
    the user is who the certificate says.
    """

    shown: str = field(compare=False)
    endpoints: tuple[Endpoint, ...]
    vhost: str = "/"
    username: str = "guest"
    password: str = field(default="guest", repr=False)
    tls: Mapping[str, str] | None = field(default=None, hash=False)
    login: str = "plain"
    heartbeat: int = DEFAULT_HEARTBEAT
    connect_timeout: float = 5.0
    reply_timeout: float = 10.0

    def url(self, endpoint: Endpoint) -> URL:
        """Return the URL of one server as aio-pika reads it."""
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        user, password, vhost = (quote(each, safe="") for each in (self.username, self.password, self.vhost))
        scheme = "amqp" if self.tls is None else "amqps"
        options = f"heartbeat={self.heartbeat}&auth={self.login}"
        return URL(f"{scheme}://{user}:{password}@{host}:{endpoint.port}/{vhost}?{options}", encoded=True)

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return what TLS is done with; None without TLS. Reads files.

        Raises:
            OperationalError: a certificate or key can't be read.
        """
        if self.tls is None:
            return None
        given = self.tls
        try:
            context = ssl.create_default_context(cafile=given.get("ssl_ca_certs"))
            if given.get("ssl_certfile"):
                context.load_cert_chain(given["ssl_certfile"], given.get("ssl_keyfile"), given.get("ssl_password"))
        except (OSError, ssl.SSLError) as exc:
            raise OperationalError(f"{self.shown}: a certificate or key can't be used: {exc}") from exc
        if given.get("ssl_check_hostname", "yes").lower() in _NO or given.get("ssl_cert_reqs") == "none":
            context.check_hostname = False
        if given.get("ssl_cert_reqs") == "none":
            context.verify_mode = ssl.CERT_NONE
        return context


def parse(url: str) -> Address:
    """Return the address that `url` describes.

    Raises:
        ValueError: it does not describe one; the text says why, without the password.
    """
    first, *others = [_parse_one(each) for each in url.split(";") if each]
    for other in others:
        if (other.vhost, other.username, other.password, other.tls, other.login) != (
            *(first.vhost, first.username, first.password, first.tls, first.login),
        ):
            raise ValueError("several servers have one user, password, virtual host and one set of options")
    endpoints = dict.fromkeys(endpoint for each in (first, *others) for endpoint in each.endpoints)
    return Address(
        shown=";".join(each.shown for each in (first, *others)),
        endpoints=tuple(endpoints),
        vhost=first.vhost,
        username=first.username,
        password=first.password,
        tls=first.tls,
        login=first.login,
        heartbeat=first.heartbeat,
        connect_timeout=first.connect_timeout,
        reply_timeout=first.reply_timeout,
    )


def _parse_one(url: str) -> Address:
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in SCHEMES:
        raise ValueError(f"its scheme is none of {', '.join(SCHEMES)}")
    before, _, query = rest.partition("?")
    netloc, _, path = before.partition("/")
    if "@" not in netloc and "@" in rest:
        raise ValueError("in a user name or password / ? # and @ are written %2F %3F %23 %40")
    options = _options(query, scheme)
    credentials, _, hosts = netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    shown_user = f"{username}:**@" if password else f"{username}@" if username else ""
    return Address(
        shown=f"{scheme}://{shown_user}{hosts}" + (f"/{path}" if path else ""),
        endpoints=tuple(_endpoint(each, scheme) for each in hosts.split(",")),
        vhost=_vhost(unquote(path) or "/"),
        username=unquote(username) or "guest",
        password=unquote(password) if credentials else "guest",
        tls={name: given for name, given in options.items() if name in _TLS_OPTIONS} if scheme == "amqps" else None,
        login=options.get("auth", "plain").lower(),
        heartbeat=_heartbeat(options.get("heartbeat", str(DEFAULT_HEARTBEAT))),
        connect_timeout=_seconds("connect_timeout", options.get("connect_timeout", "5")),
        reply_timeout=_seconds("reply_timeout", options.get("reply_timeout", "10")),
    )


def _options(query: str, scheme: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in _OPTIONS:
            near = difflib.get_close_matches(name, _OPTIONS, n=1)
            raise ValueError(f"there is no option {name!r}" + (f", did you mean {near[0]!r}?" if near else ""))
        if name in _TLS_OPTIONS and scheme != "amqps":
            raise ValueError(f"{name} needs an encrypted scheme (amqps://)")
    if options.get("auth", "plain").lower() not in _LOGINS:
        raise ValueError(f"auth must be one of {', '.join(_LOGINS)}, not {options['auth']!r}")
    if options.get("ssl_cert_reqs", "none") not in {"required", "none"}:
        raise ValueError(f"ssl_cert_reqs must be one of required, none, not {options['ssl_cert_reqs']!r}")
    if options.get("ssl_check_hostname", "yes").lower() not in {*_YES, *_NO}:
        raise ValueError(f"ssl_check_hostname must be yes or no, not {options['ssl_check_hostname']!r}")
    return options


def _vhost(name: str) -> str:
    if "%2F" in name:
        raise ValueError("aio-pika can't name a virtual host with '%2F' in its name (a / in it is written %2F)")
    if len(name.encode()) > _LONGEST_VHOST:
        raise ValueError(f"a virtual host's name has at most {_LONGEST_VHOST} bytes here")
    return name


def _endpoint(host: str, scheme: str) -> Endpoint:
    wrong = f"the port of {host!r} is no number from 1 to 65535"
    at = urlsplit(f"//{host}")
    try:
        port = at.port
    except ValueError as exc:
        raise ValueError(wrong) from exc
    if port == 0:
        raise ValueError(wrong)
    return Endpoint(at.hostname or "localhost", port or (DEFAULT_TLS_PORT if scheme == "amqps" else DEFAULT_PORT))


def _heartbeat(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _LONGEST_HEARTBEAT:
        raise ValueError(f"heartbeat must be 1 to {_LONGEST_HEARTBEAT} seconds, not {text!r}")
    return int(text)


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{name} must be a number of seconds, not {text!r}")
    return seconds
