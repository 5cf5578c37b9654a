"""Where a Redis is: URLs of every kind there is, and who is to be asked right now.

redis-py finds masters and slots (Sentinel, Cluster) and reads certificates; it is loaded when an address is first used.
"""

from __future__ import annotations

import importlib
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast
from urllib.parse import unquote

from ...core.net import urls
from ...exceptions import MissingLibrary, NotConnected, OperationalError

DEFAULT_PORT: Final = 6379
DEFAULT_SENTINEL_PORT: Final = 26379
DEFAULT_PREFIX: Final = "aiotq"
#: Seconds of quiet, seconds between probes, probes: the system's own two hours are more than a firewall remembers, and
#: our PING does not come while a task blocks the loop. Not all systems have all three.
KEEPALIVE: Final[Mapping[int, int]] = {
    cast(int, getattr(socket, name)): value
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}

Kind = Literal["single", "socket", "sentinel", "cluster"]

#: scheme -> (kind, whether it is encrypted)
_KINDS: Final[Mapping[str, tuple[Kind, bool]]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "unix": ("socket", False),
    "redis+socket": ("socket", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
SCHEMES: Final = tuple(_KINDS)

_SENTINEL_OPTIONS: Final = ("service", "sentinel_username", "sentinel_password")
_OPTIONS: Final = ("prefix", "db", "connect_timeout", "reply_timeout", *_SENTINEL_OPTIONS, *urls.TLS_OPTIONS)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server: a host and its port, or the path of a unix socket."""

    host: str = "localhost"
    port: int = DEFAULT_PORT
    path: str | None = None

    def __str__(self) -> str:
        return self.path if self.path is not None else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Address:
    """A Redis as its URL describes it. Times in seconds.

        redis://user:password@host:6379/0?prefix=proj           rediss:// is the same over TLS
        unix:///run/redis.sock?db=1
        redis+sentinel://:password@host1,host2:26379/0?service=mymaster&sentinel_password=…
        redis+cluster://host1:7000,host2:7001

    `prefix` begins every key; apps with different ones share a server and see nothing of each other. With TLS:
    `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_password`, `ssl_cert_reqs` (required, none),
    `ssl_check_hostname`.
    """

    shown: str = field(compare=False)
    kind: Kind
    endpoints: tuple[Endpoint, ...]
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    prefix: str = DEFAULT_PREFIX
    service: str = "mymaster"
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls: Mapping[str, str] | None = field(
        default=None, hash=False
    )  #: what redis-py's `ssl_*` arguments are; None: not encrypted
    connect_timeout: float = 5.0
    reply_timeout: float = 10.0

    @property
    def base(self) -> str:
        """The beginning of every key: in braces, so that a cluster keeps all of an app in one slot."""
        return f"{{{self.prefix}}}"

    def find(self) -> Endpoint:
        """Return the server to talk to now. Blocking; ends within the connect timeout for each host that is asked.

        Raises:
            NotConnected: nobody answered, or nobody knows a master.
        """
        if self.kind == "sentinel":
            return self._find_master()
        if self.kind == "cluster":
            return self._find_owner()
        return self.endpoints[0]

    def blocking_arguments(self, endpoint: Endpoint) -> dict[str, Any]:
        """Return the arguments of redis-py's plain client, to talk to `endpoint`."""
        place: dict[str, Any] = (
            {"unix_socket_path": endpoint.path}
            if endpoint.path is not None
            else {"host": endpoint.host, "port": endpoint.port}
        )
        return place | self._credentials() | self._limits() | {"db": self.db}

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return what encrypts a connection; None when it is not encrypted.

        Raises:
            OperationalError: a certificate can't be read.
        """
        if self.tls is None:
            return None
        connection = redis_py("redis.asyncio.connection")
        arguments = {name.removeprefix("ssl_"): value for name, value in self._tls_arguments().items()}
        del arguments["ssl"]
        try:
            return cast(ssl.SSLContext, connection.RedisSSLContext(**arguments).get())
        except (OSError, ValueError) as exc:
            files = ", ".join(
                self.tls[name] for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile") if name in self.tls
            )
            raise OperationalError(f"{self.shown}: the certificates of its URL ({files}) can't be used: {exc}") from exc

    def _credentials(self) -> dict[str, Any]:
        return {"username": self.username, "password": self.password} | self._tls_arguments()

    def _tls_arguments(self) -> dict[str, Any]:
        if self.tls is None:
            return {}
        given = {"ssl": True, "ssl_cert_reqs": "required", **self.tls}
        return {**given, "ssl_check_hostname": urls.checks_hostname(self.tls)}

    def _limits(self) -> dict[str, Any]:
        retry = redis_py("redis.retry").Retry(redis_py("redis.backoff").NoBackoff(), 0)
        return {
            "socket_timeout": self.connect_timeout,
            "socket_connect_timeout": self.connect_timeout,
            "socket_keepalive": True,
            "socket_keepalive_options": dict(KEEPALIVE),
            "retry": retry,
            "protocol": 2,
        }

    def _find_master(self) -> Endpoint:
        sentinel = redis_py("redis.sentinel")
        asked = [(endpoint.host, endpoint.port) for endpoint in self.endpoints]
        sentinel_arguments = self._limits() | self._tls_arguments()
        sentinel_arguments |= {"username": self.sentinel_username, "password": self.sentinel_password}
        sentinels = sentinel.Sentinel(asked, sentinel_kwargs=sentinel_arguments)
        try:
            host, port = sentinels.discover_master(self.service)
        except redis_py("redis").RedisError as exc:
            if not any(map(_answers, sentinels.sentinels)):
                raise NotConnected(f"{self.shown}: no Sentinel can be reached: {exc}") from exc
            raise NotConnected(f"{self.shown}: no Sentinel knows a master called {self.service!r}: {exc}") from exc
        finally:
            for each in sentinels.sentinels:
                each.close()
        return Endpoint(host, port)

    def _find_owner(self) -> Endpoint:
        cluster = redis_py("redis.cluster")
        nodes = [cluster.ClusterNode(endpoint.host, endpoint.port) for endpoint in self.endpoints]
        try:
            client = cluster.RedisCluster(
                startup_nodes=nodes,
                require_full_coverage=False,
                **self._credentials(),
                **{name: value for name, value in self._limits().items() if name != "retry"},
            )
        except (redis_py("redis").RedisError, cluster.RedisClusterException) as exc:
            raise NotConnected(f"{self.shown}: no node of the cluster answers: {exc}") from exc
        try:
            node = client.get_node_from_key(self.base)
        except cluster.SlotNotCoveredError:
            node = None
        finally:
            client.close()
        if node is None:
            raise NotConnected(f"{self.shown}: no node of the cluster owns the slot of {self.base!r}")
        return Endpoint(node.host, node.port)


def redis_py(module: str) -> Any:
    """Return a module of redis-py.

    Raises:
        MissingLibrary: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise MissingLibrary(
            f"a redis:// URL needs redis-py and hiredis, and there is no {exc.name}: pip install 'aiotq[redis]'"
        ) from exc


def parse(url: str) -> Address:
    """Return the address that `url` describes.

    Raises:
        ValueError: it does not describe one; the text says why, without the password.
    """
    parts = urls.split(url.partition("#")[0], SCHEMES)
    kind, is_encrypted = _KINDS[parts.scheme]
    options = urls.options_of(parts.query, _OPTIONS, encrypted=None if is_encrypted else "rediss")
    if kind != "sentinel" and (given := [name for name in options if name in _SENTINEL_OPTIONS]):
        raise ValueError(f"{given[0]} is for redis+sentinel://")
    prefix = options.get("prefix", DEFAULT_PREFIX)
    if not prefix or set(prefix) & set("{}") or not prefix.isprintable():
        raise ValueError("prefix must be printable characters without braces")
    if kind == "socket" and (parts.hosts or not parts.path.strip("/")):
        raise ValueError(f"a socket is named by its whole path: {parts.scheme}:///run/redis.sock")
    database = options.get("db", parts.path.strip("/") if kind != "socket" else "") or "0"
    db = _whole("the database", database)
    if kind == "cluster" and db:
        raise ValueError("a cluster has database 0 only")
    return Address(
        shown=parts.shown,
        kind=kind,
        endpoints=(Endpoint(path=unquote(parts.path)),) if kind == "socket" else _endpoints(parts.hosts, kind),
        db=db,
        username=unquote(parts.username) or None,
        password=unquote(parts.password) or None,
        prefix=prefix,
        service=options.get("service", "mymaster"),
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
        tls=urls.tls_of(options) if is_encrypted else None,
        connect_timeout=urls.seconds(options, "connect_timeout", 5.0),
        reply_timeout=urls.seconds(options, "reply_timeout", 10.0),
    )


def _endpoints(hosts: str, kind: Kind) -> tuple[Endpoint, ...]:
    default_port = DEFAULT_SENTINEL_PORT if kind == "sentinel" else DEFAULT_PORT
    found = tuple(Endpoint(*urls.host_and_port(each, default_port)) for each in hosts.split(","))
    if kind == "single" and len(found) > 1:
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    return found


def _whole(what: str, text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{what} must be a whole number, not {text!r}")
    return int(text)


def _answers(sentinel: Any) -> bool:
    try:
        return bool(sentinel.ping())
    except redis_py("redis").ResponseError:  # it wants a password, or the like
        return True
    except redis_py("redis").RedisError:
        return False
