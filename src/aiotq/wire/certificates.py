"""Messages signed with X.509 certificates, for `app.setup_security`: a sender's key signs, others know its certificate.

Source: Celery, "Message Signing". Celery signs only the body, so that a message can be sent again under the name of
another task; here all of a message is signed, which Celery's `auth` serializer can't read.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from ..exceptions import BadSignature, MissingLibrary, SecurityError, Unsigned
from .message import Message
from .signing import canonical

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.padding import PSS
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
    from cryptography.x509 import Certificate

_SCHEME: Final = "x509"
_DIGESTS: Final = frozenset({"sha224", "sha256", "sha384", "sha512", "sha3_256", "sha3_384", "sha3_512"})


class CertificateSigner:
    """Signs with a private key (RSA, PSS), and takes what was signed by the certificates in a directory.

    `store` is a directory, all of whose files are certificates, or a pattern of files. `now` returns wall time.

    Raises:
        MissingLibrary: `cryptography` is not installed.
        SecurityError: a file can't be used, the key is not the certificate's, or that has expired.
    """

    def __init__(
        self,
        *,
        key: str | Path,
        key_password: str | bytes | None,
        cert: str | Path,
        store: str | Path,
        digest: str,
        now: Callable[[], float],
    ) -> None:
        if digest not in _DIGESTS:
            raise SecurityError(f"digest must be one of {', '.join(sorted(_DIGESTS))}, not {digest!r}")
        self._crypto = _Cryptography(digest)
        self._now = now
        self._key = self._crypto.private_key(Path(key), key_password)
        own = self._crypto.certificate(Path(cert))
        if self._key.public_key() != own.public_key():
            raise SecurityError(f"the key in {key} is not that of the certificate in {cert}")
        if (wrong := self._wrong_time(own)) is not None:
            raise SecurityError(f"the certificate in {cert} {wrong}")
        self._name = self._crypto.fingerprint(own)
        import glob  # noqa: PLC0415  # not everybody's start, for few

        pattern = str(Path(store) / "*") if Path(store).is_dir() else str(store)
        files = [Path(file) for file in sorted(glob.glob(pattern)) if Path(file).is_file()]
        if not files:
            raise SecurityError(f"there is no certificate in {store}")
        found = [self._crypto.certificate(file) for file in files]
        self._trusted = {self._crypto.fingerprint(each): each for each in found}

    def signed(self, message: Message) -> Message:
        """Return `message` with a signature, in place of one that it has."""
        signature = binascii.b2a_base64(self._crypto.sign(self._key, canonical(message)), newline=False).decode()
        return replace(message, signature=f"{_SCHEME}:{self._name}:{signature}")

    def verify(self, message: Message) -> None:
        """Raise `Unsigned` or `BadSignature` unless `message` is as the holder of a trusted certificate signed it."""
        scheme, _, rest = (message.signature or "").partition(":")
        if scheme != _SCHEME:
            raise Unsigned("the message is not signed with a certificate, and setup_security asks for it")
        name, _, encoded = rest.partition(":")
        certificate = self._trusted.get(name)
        if certificate is None:
            raise BadSignature("the message is signed with a certificate that is not in the store")
        subject = certificate.subject.rfc4514_string()
        if (wrong := self._wrong_time(certificate)) is not None:
            raise BadSignature(f"the certificate of {subject} {wrong}")
        try:
            signature = binascii.a2b_base64(encoded, strict_mode=True)
        except ValueError as exc:
            raise BadSignature(f"the signature by {subject} is not base64") from exc
        if not self._crypto.is_signature(certificate, signature, canonical(message)):
            raise BadSignature(f"the signature by {subject} is not of this message")

    def _wrong_time(self, certificate: Certificate) -> str | None:
        now = datetime.fromtimestamp(self._now(), UTC)
        if now >= certificate.not_valid_after_utc:
            return f"has expired ({certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC)"
        if now < certificate.not_valid_before_utc:
            return f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        return None


class _Cryptography:
    """What is asked of the library `cryptography`, which is imported here and nowhere else."""

    def __init__(self, digest: str) -> None:
        try:
            from cryptography import exceptions, x509  # noqa: PLC0415  # an extra
            from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415  # the same
            from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: PLC0415  # the same
        except ImportError as exc:
            raise MissingLibrary("setup_security needs the package cryptography: pip install 'aiotq[auth]'") from exc
        self._exceptions, self._x509, self._serialization = exceptions, x509, serialization
        self._padding, self._rsa = padding, rsa
        self._digest: hashes.HashAlgorithm = getattr(hashes, digest.upper())()
        self._sha256 = hashes.SHA256()

    def private_key(self, file: Path, password: str | bytes | None) -> RSAPrivateKey:
        try:
            found = self._serialization.load_pem_private_key(
                file.read_bytes(), password.encode() if isinstance(password, str) else password
            )
        except (OSError, ValueError, TypeError) as exc:  # TypeError: a password is missing, or there is one too many
            raise SecurityError(f"the private key in {file} can't be used: {exc}") from exc
        if not isinstance(found, self._rsa.RSAPrivateKey):
            raise SecurityError(f"the private key in {file} is not an RSA key")
        return found

    def certificate(self, file: Path) -> Certificate:
        try:
            found = self._x509.load_pem_x509_certificate(file.read_bytes())
        except (OSError, ValueError) as exc:
            raise SecurityError(f"the certificate in {file} can't be used: {exc}") from exc
        if not isinstance(found.public_key(), self._rsa.RSAPublicKey):
            raise SecurityError(f"the certificate in {file} is not for an RSA key")
        return found

    def fingerprint(self, certificate: Certificate) -> str:
        return certificate.fingerprint(self._sha256).hex()

    def sign(self, key: RSAPrivateKey, data: bytes) -> bytes:
        return key.sign(data, self._pss(), self._digest)

    def is_signature(self, certificate: Certificate, signature: bytes, data: bytes) -> bool:
        public_key = cast("RSAPublicKey", certificate.public_key())  # as every certificate that was read
        try:
            public_key.verify(signature, data, self._pss(), self._digest)
        except self._exceptions.InvalidSignature:
            return False
        return True

    def _pss(self) -> PSS:
        return self._padding.PSS(mgf=self._padding.MGF1(self._digest), salt_length=self._padding.PSS.MAX_LENGTH)
