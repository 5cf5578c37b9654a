"""What an app's messages are made of: its serializers, compressions and known types, and who signs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from ..core.clock import Clock
from ..core.settings import Settings
from ..exceptions import InvalidOption, InvalidSetting, SecurityError
from .certificates import CertificateSigner
from .compression import Compression
from .content_types import standard_registry
from .encryption import NAME as ENCRYPTED
from .encryption import encryption
from .known_types import KnownTypes, ValueForm
from .serializers import Serializer, SerializerRegistry
from .signing import SharedKey, Signer

T = TypeVar("T")

_SHORTEST_SECRET: Final = 16
#: What is encrypted is kept, and can be tried at leisure.
_SHORTEST_KEY: Final = 32


class Codecs:
    """The content of an app's messages and results; `functions` gives its tasks' functions, whose annotations count."""

    def __init__(
        self, conf: Settings, clock: Clock, functions: Callable[[], Iterable[Callable[..., Any]]], main: str | None
    ) -> None:
        self.conf = conf
        self.clock = clock
        self._types = KnownTypes(functions, main=main)
        self.serializers: SerializerRegistry = standard_registry(self._types, lambda: self.conf.celery_compat)
        self.serializers.compressions.register(encryption(lambda: self.conf.encryption_keys))
        self._signer: Signer | None = None

    def add_forms(self, forms: Iterable[ValueForm]) -> None:
        """Let values of further classes travel."""
        self._types.add_forms(forms)

    def register_serializer(self, serializer: Serializer) -> None:
        """Make another content type known; to be decoded it must also be in `accept_content`."""
        self.serializers.register(serializer)

    def register_compression(self, compression: Compression) -> None:
        """Make another compression known, for calls, settings and what arrives."""
        self.serializers.compressions.register(compression)

    def register_type(self, cls: type[T]) -> type[T]:
        """Let messages and results bring values of this Enum, dataclass or pydantic model; may be used as a decorator.

        Classes in the annotations of tasks need not be registered.

        Raises:
            InvalidOption: `cls` is none of them.
        """
        self._types.register(cls)
        return cls

    def setup_security(
        self,
        allowed_serializers: Iterable[str] | None = None,
        key: str | Path | None = None,
        key_password: str | bytes | None = None,
        cert: str | Path | None = None,
        store: str | Path | None = None,
        digest: str = "sha256",
        serializer: str = "json",
    ) -> None:
        """Sign messages with the private key in the file `key`; take only those signed by a certificate in `store`.

        `cert` is the key's certificate (X.509, RSA, PEM), `store` a directory of certificates or a pattern of files; an
        expired or unknown certificate is refused. Arguments are encoded with `serializer`, and that one and
        `allowed_serializers` alone are accepted. Results are not signed, as in Celery.

        Raises:
            SecurityError: something is missing, or a file can't be used.
            MissingLibrary: `cryptography` is not installed (the extra `aiotq[auth]`).
            SettingsFrozen: the app is in use already.

        Source: Celery, `Celery.setup_security`; there it signs the body alone, here the whole message.
        """
        if key is None or cert is None or store is None:
            raise SecurityError("setup_security needs key, cert and store: two files, and a directory of certificates")
        if self.conf.security_key is not None:
            raise SecurityError(_ONE_SIGNER)
        accepted = dict.fromkeys((serializer, *(allowed_serializers or ())))
        for name in accepted:
            self.serializers.to_send(name, accepted)
        signer = CertificateSigner(
            key=key, key_password=key_password, cert=cert, store=store, digest=digest, now=self._now
        )
        self.conf.update(task_serializer=serializer, accept_content=tuple(accepted))
        self._signer = signer

    @property
    def signer(self) -> Signer | None:
        """What signs and verifies messages, if anything does; as the settings say when it is first used."""
        if self._signer is None and self.conf.security_key is not None:
            self._signer = SharedKey(self.conf.security_key, self.conf.security_previous_keys)
        return self._signer

    @property
    def result_compression(self) -> str | None:
        """As what results are kept: encrypted, compressed, or as they are."""
        return ENCRYPTED if self.conf.encryption_keys else self.conf.result_compression

    def _now(self) -> float:
        return self.clock.time()

    def check_security(self) -> None:
        """Raise `SecurityError` if the settings and `setup_security` ask for different signatures."""
        if isinstance(self._signer, CertificateSigner) and self.conf.security_key is not None:
            raise SecurityError(_ONE_SIGNER)
        if not self.conf.encryption_keys:
            return
        if self.conf.celery_compat:
            raise SecurityError(
                "encryption_keys and celery_compat don't go together: Celery can't read what is encrypted"
            )
        for setting in ("task_compression", "result_compression"):
            if getattr(self.conf, setting) is not None:
                raise SecurityError(
                    f"encryption_keys and {setting} don't go together: what is encrypted is not compressed"
                )
        registry = self.serializers.compressions
        registry.compress(registry.get(ENCRYPTED), b"")  # a library that is missing is told now

    def check_content(self) -> None:
        """Raise `InvalidSetting` if a setting names a serializer or compression that is not known, or not accepted."""
        conf = self.conf
        accepted = set(conf.accept_content)
        checks: dict[str, tuple[Sequence[str | None], Callable[[str], object]]] = {
            "accept_content": (conf.accept_content, self.serializers.get),
            "task_serializer": ((conf.task_serializer,), lambda name: self.serializers.to_send(name, accepted)),
            "result_serializer": ((conf.result_serializer,), lambda name: self.serializers.to_send(name, accepted)),
            "task_compression": ((conf.task_compression,), self.serializers.compressions.get),
            "result_compression": ((conf.result_compression,), self.serializers.compressions.get),
        }
        for setting, (names, find) in checks.items():
            for name in names:
                try:
                    if name is not None:
                        find(name)
                except InvalidOption as exc:
                    raise InvalidSetting(setting, name, f"one that can be used ({exc})") from exc


def check_secret(given: object) -> str | None:
    """Return the setting `security_key`.

    Raises:
        InvalidSetting: it is no secret; the error does not show it.
    """
    return None if given is None else _secret("security_key", given)


def check_secrets(given: object) -> tuple[str, ...]:
    """As `check_secret`, for `security_previous_keys`."""
    secrets = cast("list[object]", given) if isinstance(given, (list, tuple, set, frozenset)) else [None]
    return tuple(_secret("security_previous_keys", each) for each in secrets)


def check_encryption_keys(given: object) -> tuple[str, ...]:
    """As `check_secret`, for `encryption_keys`."""
    secrets = cast("list[object]", given) if isinstance(given, (list, tuple)) else [None]
    return tuple(_secret("encryption_keys", each, _SHORTEST_KEY) for each in secrets)


def _secret(setting: str, given: object, shortest: int = _SHORTEST_SECRET) -> str:
    if not isinstance(given, str) or len(given) < shortest:
        raise InvalidSetting(setting, _HIDDEN, f"a secret of at least {shortest} characters")
    if "/" in given and given.endswith((".key", ".pem")):
        raise InvalidSetting(
            setting, _HIDDEN, "the secret itself, not a file's name (app.setup_security takes files, with certificates)"
        )
    return given


class _Hidden:
    def __repr__(self) -> str:
        return "what was given"


_HIDDEN: Final = _Hidden()
_ONE_SIGNER: Final = "messages are signed with security_key or by setup_security, not both"
