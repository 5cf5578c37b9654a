"""Who may come in: by a token, by name and password, by the user's own function; or anybody from this machine."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, Protocol, cast

from starlette.requests import Request

from ...core.values import value
from ...exceptions import InvalidOption

Role = Literal["read", "operate"]

#: A token that is shorter can be guessed.
_SHORTEST: Final = 12
_ROLES: Final = ("read", "operate")
_OPERATE: Final[Role] = "operate"
_READ: Final[Role] = "read"
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
_LOCAL_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
#: What a proxy says of whom it asks for.
_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip")


@value
class Visitor:
    """Somebody who was let in: what the audit log calls him, and what he may do."""

    name: str
    role: Role

    @property
    def may_operate(self) -> bool:
        return self.role == "operate"


@value
class Basic:
    """Sign-in by HTTP's basic authentication: passwords by names; those in `readers` may only read."""

    passwords: Mapping[str, str]
    readers: frozenset[str] = frozenset()


Answer = Role | Visitor | None
Ask = Callable[[Request], Answer | Awaitable[Answer]]
#: A token, which operates; roles by tokens; `Basic`; a function from a request to a role (None: not let in).
Auth = str | Mapping[str, Role] | Basic | Ask


class Door(Protocol):
    """One way to come in."""

    #: Whether who comes in signs in with a token on a page.
    has_page: bool
    #: Whether whoever is not let in is asked for a name and a password.
    has_prompt: bool
    #: What sessions are signed with, if that is not said: it changes when they are to end. None: there is nothing.
    secret: bytes | None

    async def visitor(self, request: Request) -> Visitor | None:
        """Return who asks by what the request itself brings."""
        ...

    def known(self, token: str) -> Visitor | None:
        """Return who has this token."""
        ...


def door_of(auth: Any) -> Door:
    """Return the door that `auth` describes.

    Raises:
        InvalidOption: it describes none.
    """
    if auth is None:
        return OpenDoor()
    if isinstance(auth, str):
        return TokenDoor({auth: _OPERATE})
    if isinstance(auth, Basic):
        return BasicDoor(auth)
    if isinstance(auth, Mapping):
        return TokenDoor(cast("Mapping[str, Role]", auth))
    if callable(auth):
        return FunctionDoor(cast(Ask, auth))
    raise InvalidOption(
        f"dashboard: auth must be a token, a mapping of tokens to roles, Basic(...), or a function from a request to a "
        f"role, not {type(auth).__name__}"
    )


class TokenDoor:
    """Lets in who has one of some tokens: in a session, or in the header `Authorization: Bearer`."""

    has_page = True
    has_prompt = False

    def __init__(self, roles: Mapping[str, Role]) -> None:
        if not roles:
            raise InvalidOption("dashboard: auth names no token")
        for token, role in roles.items():
            if not isinstance(token, str) or len(token) < _SHORTEST:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidOption(
                    f"dashboard: a token must have {_SHORTEST} characters or more, so that it can't be guessed; "
                    "python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
                )
            if role not in _ROLES:
                raise InvalidOption(f"dashboard: a token's role is 'read' or 'operate', not {role!r}")
        self._roles: dict[bytes, Role] = {_digest(token): role for token, role in roles.items()}
        self.secret: bytes | None = "\n".join(sorted(f"{role} {token}" for token, role in roles.items())).encode()

    async def visitor(self, request: Request) -> Visitor | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return self.known(token.strip()) if scheme.lower() == "bearer" else None

    def known(self, token: str) -> Visitor | None:
        digest = _digest(token)
        found: Role | None = None
        for known, role in self._roles.items():  # all of them: how long it takes tells nothing
            if hmac.compare_digest(known, digest):
                found = role
        return None if found is None else Visitor(f"token ({found})", found)


class BasicDoor:
    """Asks for a name and a password, as HTTP has it."""

    has_page = False
    has_prompt = True

    def __init__(self, basic: Basic) -> None:
        for name, password in basic.passwords.items():
            if not name or ":" in name or not password:
                raise InvalidOption("dashboard: Basic has passwords by names; a name has no colon, neither is empty")
        if not basic.passwords:
            raise InvalidOption("dashboard: Basic names nobody")
        if unknown := basic.readers - basic.passwords.keys():
            raise InvalidOption(f"dashboard: Basic has no password of {', '.join(sorted(unknown))}")
        self._digests = {name: _digest(password) for name, password in basic.passwords.items()}
        self._readers = basic.readers
        self.secret: bytes | None = repr(sorted(basic.passwords.items())).encode()

    async def visitor(self, request: Request) -> Visitor | None:
        scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        expected = self._digests.get(name, b"")
        if not hmac.compare_digest(expected, _digest(password)):
            return None
        return Visitor(name, _READ if name in self._readers else _OPERATE)

    def known(self, token: str) -> Visitor | None:
        return None


class FunctionDoor:
    """Asks the user's function: the application around it knows its users."""

    has_page = False
    has_prompt = False
    secret: bytes | None = None

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def visitor(self, request: Request) -> Visitor | None:
        answer = self._ask(request)
        if inspect.isawaitable(answer):
            answer = await answer
        if answer is None or isinstance(answer, Visitor):
            return answer
        if answer in _ROLES:
            return Visitor(_name_of(request), answer)
        raise InvalidOption(f"dashboard: auth must return 'read', 'operate', a Visitor or None, not {answer!r}")

    def known(self, token: str) -> Visitor | None:
        return None


class OpenDoor:
    """Lets in anybody who asks from this machine, and for it by its own name: no proxy, and no page of others."""

    has_page = False
    has_prompt = False
    secret: bytes | None = None

    async def visitor(self, request: Request) -> Visitor | None:
        host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
        if host == "[" or host.lower() not in _LOCAL_HOSTS:
            return None
        if request.client is None or request.client.host not in _LOOPBACK:
            return None
        if any(name in request.headers for name in _FORWARDED):
            return None
        return Visitor("somebody on this machine", "operate")

    def known(self, token: str) -> Visitor | None:
        return None


def _name_of(request: Request) -> str:
    """Return the name of the user that the application around has found, if it has one."""
    user = request.scope.get("user")
    return str(getattr(user, "display_name", "") or "somebody")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
