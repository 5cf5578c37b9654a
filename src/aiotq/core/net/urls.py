"""Reading the URL of a server, or of several: what is the same for every broker.

Each `ValueError` says what is wrong with the URL, without its password.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

TLS_OPTIONS: Final = (
    *("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_password"),
    *("ssl_cert_reqs", "ssl_check_hostname"),
)
_YES: Final = ("true", "1", "yes")
_CHOICES: Final[Mapping[str, Sequence[str]]] = {
    "ssl_cert_reqs": ("required", "none"),
    "ssl_check_hostname": ("true", "false", "1", "0", "yes", "no"),
}


class Parts(NamedTuple):
    """The parts of a URL as they are written: `%2F` is not decoded. `path` begins with its `/`, if there is one."""

    scheme: str
    username: str
    password: str
    has_credentials: bool
    hosts: str
    path: str
    query: str

    @property
    def shown(self) -> str:
        """The URL without its password and options."""
        user = f"{self.username}:**@" if self.password else f"{self.username}@" if self.username else ""
        return f"{self.scheme}://{user}{self.hosts}{self.path}"


def split(url: str, schemes: Collection[str]) -> Parts:
    """Return the parts of `url`. `urlsplit` of some versions refuses several hosts of which one is in brackets.

    Raises:
        ValueError: its scheme is none of `schemes`, or a user name or password is not written as in a URL.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in schemes:
        raise ValueError(f"its scheme is none of {', '.join(schemes)}")
    before, _, query = rest.partition("?")
    netloc, slash, path = before.partition("/")
    if netloc and "@" not in netloc and "@" in rest:
        raise ValueError("in a user name or password / ? # and @ are written %2F %3F %23 %40")
    credentials, _, hosts = netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    return Parts(scheme.lower(), username, password, bool(credentials), hosts, slash + path, query)


def options_of(query: str, known: Collection[str], *, encrypted: str | None) -> dict[str, str]:
    """Return the options in a URL's query. `encrypted` is the scheme that those of TLS need, None if the URL has it.

    Raises:
        ValueError: one is unknown, or has an impossible value.
    """
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"there is no option {name!r}" + (f", did you mean {near[0]!r}?" if near else ""))
        if name in TLS_OPTIONS and encrypted is not None:
            raise ValueError(f"{name} needs an encrypted scheme ({encrypted}://)")
        if name in _CHOICES:
            options[name] = choice(options, name, _CHOICES[name])
    return options


def choice(options: Mapping[str, str], name: str, choices: Sequence[str]) -> str:
    """Return the option `name`, which is one of `choices`; the first of them if it is not given."""
    found = options.get(name, choices[0]).lower()
    if found not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {options[name]!r}")
    return found


def tls_of(options: Mapping[str, str]) -> dict[str, str]:
    """Return the options that say how a connection is encrypted."""
    return {name: given for name, given in options.items() if name in TLS_OPTIONS}


def checks_hostname(tls: Mapping[str, str]) -> bool:
    """Whether the server's certificate must be of the host that is connected to."""
    return tls.get("ssl_check_hostname", "yes") in _YES and tls.get("ssl_cert_reqs") != "none"


def host_and_port(text: str, default_port: int) -> tuple[str, int]:
    """Return what `host:port` names; without a host it is this machine."""
    at = urlsplit(f"//{text}")
    try:
        port = at.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f"the port of {text!r} is no number from 1 to 65535")
    return at.hostname or "localhost", port or default_port


def seconds(options: Mapping[str, str], name: str, default: float) -> float:
    """Return the option `name`, a number of seconds above 0."""
    try:
        found = float(options.get(name, default))
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise ValueError(f"{name} must be a number of seconds, not {options[name]!r}")
    return found
