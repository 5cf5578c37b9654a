"""Where a Redis is: URLs of every kind there is, and who is to be asked right now.

redis-py finds masters and slots (Sentinel, Cluster) and reads certificates; it is loaded when an address is first used.
"""

from __future__ import annotations

import difflib
import importlib
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, cast
from urllib.parse import parse_qsl, unquote, urlsplit

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

_TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_cert_reqs")
_SENTINEL_OPTIONS: Final = ("service", "sentinel_username", "sentinel_password")
_OPTIONS: Final = (
    *("prefix", "db", "connect_timeout", "reply_timeout"),
    *(*_SENTINEL_OPTIONS, *_TLS_OPTIONS, "ssl_check_hostname"),
)


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
        """What every key begins with: in braces, so that a cluster keeps all of an app in one slot."""
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
        """What redis-py's plain client is made with, to talk to `endpoint`."""
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
        arguments: dict[str, Any] = {"ssl": True, "ssl_cert_reqs": "required", "ssl_check_hostname": True} | dict(
            self.tls
        )
        arguments["ssl_check_hostname"] = str(arguments["ssl_check_hostname"]).lower() in {"true", "1", "yes"}
        if arguments["ssl_cert_reqs"] == "none":
            arguments["ssl_check_hostname"] = False  # there is nothing to check it against
        return arguments

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
    parts = _split(url)
    if parts.scheme not in _KINDS:
        raise ValueError(f"its scheme is none of {', '.join(SCHEMES)}")
    kind, is_encrypted = _KINDS[parts.scheme]
    if "@" not in parts.netloc and "@" in url and kind != "socket":
        raise ValueError("in a user name or password / ? # and @ are written %2F %3F %23 %40")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in options:
        if name not in _OPTIONS:
            near = difflib.get_close_matches(name, _OPTIONS, n=1)
            raise ValueError(f"there is no option {name!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    if not is_encrypted and (given := [name for name in options if name.startswith("ssl_")]):
        raise ValueError(f"{given[0]} needs an encrypted scheme (rediss://)")
    if kind != "sentinel" and (given := [name for name in options if name in _SENTINEL_OPTIONS]):
        raise ValueError(f"{given[0]} is for redis+sentinel://")
    _check_choice(options, "ssl_cert_reqs", ("required", "none"))
    _check_choice(options, "ssl_check_hostname", ("true", "false", "1", "0", "yes", "no"))
    prefix = options.get("prefix", DEFAULT_PREFIX)
    if not prefix or set(prefix) & set("{}") or not prefix.isprintable():
        raise ValueError("prefix must be printable characters without braces")
    credentials, _, hosts = parts.netloc.rpartition("@")
    if kind == "socket" and (hosts or not parts.path.strip("/")):
        raise ValueError(f"a socket is named by its whole path: {parts.scheme}:///run/redis.sock")
    username, _, password = credentials.partition(":")
    database = options.get("db", parts.path.strip("/") if kind != "socket" else "") or "0"
    db = _whole("the database", database)
    if kind == "cluster" and db:
        raise ValueError("a cluster has database 0 only")
    return Address(
        shown=_without_password(url, password),
        kind=kind,
        endpoints=(Endpoint(path=unquote(parts.path)),) if kind == "socket" else tuple(_endpoints(hosts, kind)),
        db=db,
        username=unquote(username) or None,
        password=unquote(password) or None,
        prefix=prefix,
        service=options.get("service", "mymaster"),
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
        tls={name: value for name, value in options.items() if name.startswith("ssl_")} if is_encrypted else None,
        connect_timeout=_seconds("connect_timeout", options.get("connect_timeout", "5")),
        reply_timeout=_seconds("reply_timeout", options.get("reply_timeout", "10")),
    )


class _Parts(NamedTuple):
    scheme: str
    netloc: str
    path: str
    query: str


def _split(url: str) -> _Parts:
    """Return the parts of a URL. `urlsplit` of some versions refuses several hosts of which one is in brackets."""
    scheme, _, rest = url.partition("://")
    before, _, query = rest.partition("#")[0].partition("?")
    netloc, slash, path = before.partition("/")
    return _Parts(scheme.lower(), netloc, slash + path, query)


def _without_password(url: str, password: str) -> str:
    shown = url.partition("?")[0]
    return shown.replace(f":{password}@", ":**@") if password else shown


def _endpoints(hosts: str, kind: Kind) -> list[Endpoint]:
    found: list[Endpoint] = []
    default_port = DEFAULT_SENTINEL_PORT if kind == "sentinel" else DEFAULT_PORT
    for each in hosts.split(","):
        at = urlsplit(f"//{each}")
        try:
            port = at.port
        except ValueError as exc:
            raise ValueError(f"the port of {each!r} is no number from 1 to 65535") from exc
        if port == 0:
            raise ValueError(f"the port of {each!r} is no number from 1 to 65535")
        found.append(Endpoint(at.hostname or "localhost", port or default_port))
    if kind == "single" and len(found) > 1:
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    return found


def _check_choice(options: Mapping[str, str], name: str, choices: Sequence[str]) -> None:
    if name in options and options[name].lower() not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {options[name]!r}")


def _whole(what: str, text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{what} must be a whole number, not {text!r}")
    return int(text)


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{name} must be a number of seconds, not {text!r}")
    return seconds


def _answers(sentinel: Any) -> bool:
    try:
        return bool(sentinel.ping())
    except redis_py("redis").ResponseError:  # it wants a password, or the like
        return True
    except redis_py("redis").RedisError:
        return False
