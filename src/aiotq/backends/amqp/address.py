"""Where a RabbitMQ is: URLs of one server or several, credentials, virtual host, certificates."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote

from yarl import URL

from ...core.net import urls
from ...exceptions import OperationalError

SCHEMES: Final = ("amqp", "amqps")
DEFAULT_PORT: Final = 5672
DEFAULT_TLS_PORT: Final = 5671
DEFAULT_HEARTBEAT: Final = 10
_LONGEST_HEARTBEAT: Final = 60
_OPTIONS: Final = ("heartbeat", "connect_timeout", "reply_timeout", "auth", *urls.TLS_OPTIONS)
#: The ways to log in that aiormq knows; it has no way to add one (decision 0070).
_LOGINS: Final = ("plain", "external")
#: Bytes of a virtual host's name that pamqp sends; AMQP allows 255.
_LONGEST_VHOST: Final = 127


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
        context.check_hostname = urls.checks_hostname(given)
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
    parts = urls.split(url, SCHEMES)
    is_encrypted = parts.scheme == "amqps"
    options = urls.options_of(parts.query, _OPTIONS, encrypted=None if is_encrypted else "amqps")
    default_port = DEFAULT_TLS_PORT if is_encrypted else DEFAULT_PORT
    return Address(
        shown=parts.shown,
        endpoints=tuple(Endpoint(*urls.host_and_port(each, default_port)) for each in parts.hosts.split(",")),
        vhost=_vhost(unquote(parts.path.removeprefix("/")) or "/"),
        username=unquote(parts.username) or "guest",
        password=unquote(parts.password) if parts.has_credentials else "guest",
        tls=urls.tls_of(options) if is_encrypted else None,
        login=_login(options),
        heartbeat=_heartbeat(options.get("heartbeat", str(DEFAULT_HEARTBEAT))),
        connect_timeout=urls.seconds(options, "connect_timeout", 5.0),
        reply_timeout=urls.seconds(options, "reply_timeout", 10.0),
    )


def _login(options: Mapping[str, str]) -> str:
    if options.get("auth", "").lower() == "amqplain":
        raise ValueError(
            "auth must be plain or external; a server that has amqplain has plain, unless it was taken away"
        )
    return urls.choice(options, "auth", _LOGINS)


def _vhost(name: str) -> str:
    if "%2F" in name:
        raise ValueError("aio-pika can't name a virtual host with '%2F' in its name (a / in it is written %2F)")
    if len(name.encode()) > _LONGEST_VHOST:
        raise ValueError(f"a virtual host's name has at most {_LONGEST_VHOST} bytes here")
    return name


def _heartbeat(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _LONGEST_HEARTBEAT:
        raise ValueError(f"heartbeat must be 1 to {_LONGEST_HEARTBEAT} seconds, not {text!r}")
    return int(text)
