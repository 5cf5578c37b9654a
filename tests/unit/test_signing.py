"""Signatures: nobody changes a message, or uses it for another call, without that being seen."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from aiotq import AioTQ
from aiotq.control.shown_settings import setting_rows
from aiotq.core.inside import core_of
from aiotq.exceptions import BadSignature, InvalidSetting, SecurityError, SettingsFrozen, Unsigned
from aiotq.wire.message import Envelope, Message, Step, pack, unpack
from aiotq.wire.signing import SharedKey, Signer, canonical, sealed

KEY = "k" * 32
NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
MESSAGE = Message(
    "id",
    "proj.add",
    b"[[1,2],{},{}]",
    reply_to="here",
    sent_at=1_900_000_000.123456,
    eta=1_900_000_060.5,
    expires=1_900_000_100,
    root_id="root",
    parent_id="parent",
    retries=1,
    attempt=2,
    soft_time_limit=1.5,
    time_limit=2,
    shadow="alias",
    origin="1@host",
    headers={"b": 1, "a": {"z": [1.5, None], "y": "x"}},
    compression="application/x-gzip",
)
CHANGED: dict[str, Any] = {
    "address": ("news", "feed"),
    "id": "other",
    "task": "proj.delete",
    "body": b"[[1,3],{},{}]",
    "content_type": "application/x-python-serialize",
    "content_encoding": "binary",
    "reply_to": "elsewhere",
    "sent_at": 1_900_000_000.123457,
    "eta": None,
    "expires": None,
    "root_id": "id",
    "parent_id": None,
    "retries": 0,
    "attempt": 3,
    "soft_time_limit": 1.6,
    "time_limit": 200,
    "ignore_result": True,
    "shadow": None,
    "origin": "2@host",
    "headers": {"b": 1, "a": {"z": [1.5, None], "y": "X"}},
    "stamps": {"a": [1]},
    "replacements": 1,
    "compression": None,
    "losses": 1,
    "step": Step("another", 1, "join", ("0",)),
}


@dataclasses.dataclass
class Authority:
    """Writes keys and certificates into a directory."""

    directory: Path

    def issue(
        self, name: str, *, starts: int = -1, ends: int = 1, key: Any = None, password: bytes | None = None
    ) -> tuple[Path, Path]:
        key = key or rsa.generate_private_key(public_exponent=65537, key_size=2048)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + datetime.timedelta(days=starts))
            .not_valid_after(NOW + datetime.timedelta(days=ends))
            .sign(key, hashes.SHA256())
        )
        (self.directory / "trusted").mkdir(exist_ok=True)
        key_file, cert_file = self.directory / f"{name}.key", self.directory / "trusted" / f"{name}.pem"
        encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        key_file.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
        cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return key_file, cert_file


class StoppedClock:
    def __init__(self) -> None:
        self.now = NOW.timestamp()

    def time(self) -> float:
        return self.now

    monotonic = time

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def secured(
    authority: Authority, name: str = "one", *, clock: StoppedClock | None = None, **options: Any
) -> tuple[AioTQ, Signer]:
    app = AioTQ("proj", broker="memory://", clock=clock or StoppedClock())
    key, cert = authority.directory / f"{name}.key", authority.directory / "trusted" / f"{name}.pem"
    app.setup_security(**{"key": key, "cert": cert, "store": authority.directory / "trusted", **options})
    signer = core_of(app).signer
    assert signer is not None
    return app, signer


@pytest.fixture(params=["shared key", "certificate"])
def signer(request: pytest.FixtureRequest, authority: Authority) -> Signer:
    if request.param == "shared key":
        return SharedKey(KEY)
    authority.issue("one")
    return secured(authority)[1]


def test_what_was_signed_is_taken_after_its_way_through_a_broker(signer: Signer) -> None:
    signed = signer.signed(MESSAGE)

    signer.verify(signed)
    signer.verify(unpack(pack(signed)))
    signer.verify(signer.signed(Message("id", "proj.add", b"")))
    assert dataclasses.replace(signed, signature=None) == MESSAGE


def test_every_field_of_a_message_is_among_those_that_are_changed_here() -> None:
    assert CHANGED.keys() | {"signature"} == {each.name for each in dataclasses.fields(Message)}


@pytest.mark.parametrize("field", CHANGED)
def test_a_message_changed_anywhere_is_refused(field: str) -> None:
    signer = SharedKey(KEY)
    signed = signer.signed(MESSAGE)
    forged = dataclasses.replace(signed, **{field: CHANGED[field]})

    with pytest.raises(BadSignature, match="the signature is not of this message"):
        signer.verify(forged)


def test_parts_cannot_be_moved_from_the_headers_to_the_body() -> None:
    assert canonical(Message("a", "b", b"c")) != canonical(Message("a", "bc", b""))


def test_a_signature_is_looked_for_and_at(signer: Signer) -> None:
    with pytest.raises(Unsigned):
        signer.verify(MESSAGE)
    for signature in ("", "hs256:", "hs256:" + "0" * 64, "x509:", "x509:a:b", "\u00e9", "x" * 10_000):
        with pytest.raises((BadSignature, Unsigned)):
            signer.verify(dataclasses.replace(MESSAGE, signature=signature))


def test_a_key_is_changed_by_taking_the_previous_one_for_a_while() -> None:
    old, both, new = SharedKey(KEY), SharedKey("n" * 32, [KEY]), SharedKey("n" * 32)

    both.verify(old.signed(MESSAGE))
    both.verify(new.signed(MESSAGE))
    new.verify(both.signed(MESSAGE))
    with pytest.raises(BadSignature):
        new.verify(old.signed(MESSAGE))
    with pytest.raises(BadSignature):
        old.verify(both.signed(MESSAGE))


def test_sealing_an_envelope_signs_its_message() -> None:
    envelope = Envelope(MESSAGE, "queue", 5, 1.0)

    assert sealed(None, envelope) is envelope
    assert sealed(SharedKey(KEY), envelope) == Envelope(SharedKey(KEY).signed(MESSAGE), "queue", 5, 1.0)


@pytest.mark.parametrize("setting", ["security_key", "security_previous_keys"])
@pytest.mark.parametrize(
    ("given", "words"),
    [("short", "at least 16 characters"), ("/etc/ssl/private/worker.key", "not a file's name"), (5, "a secret")],
)
def test_what_is_no_secret_is_refused_and_not_shown(setting: str, given: Any, words: str) -> None:
    app = AioTQ("proj", broker="memory://")
    with pytest.raises(InvalidSetting, match=words) as caught:
        app.conf.update({setting: [given] if setting == "security_previous_keys" else given})

    assert "short" not in str(caught.value)


def test_secrets_are_not_printed_with_the_settings() -> None:
    rows = setting_rows(AioTQ("proj", broker="memory://", security_key=KEY, security_previous_keys=[KEY]).conf)

    printed = str([(row.name, row.value, row.shown, row.default) for row in rows])
    assert "security_previous_keys" in printed
    assert KEY not in printed


def test_an_app_signs_with_its_key_or_not_at_all() -> None:
    assert core_of(AioTQ("proj", broker="memory://")).signer is None
    app = AioTQ("proj", broker="memory://", security_key=KEY)
    assert isinstance(core_of(app).signer, SharedKey)
    assert core_of(app).signer is core_of(app).signer


# Certificates


def test_certificates_sign_and_only_their_serializers_are_accepted(authority: Authority) -> None:
    authority.issue("one", password=b"hush")

    app, _ = secured(authority, key_password="hush", allowed_serializers=["msgpack"], digest="sha512")

    assert (app.conf.task_serializer, set(app.conf.accept_content)) == ("json", {"json", "msgpack"})


def test_a_pattern_of_files_is_a_store_too(authority: Authority) -> None:
    authority.issue("one")
    authority.issue("two")
    _, one = secured(authority, store=str(authority.directory / "trusted" / "o*.pem"))
    _, two = secured(authority, "two")

    two.verify(one.signed(MESSAGE))
    with pytest.raises(BadSignature, match="not in the store"):
        one.verify(two.signed(MESSAGE))


def test_a_certificate_is_taken_from_its_first_to_its_last_day(authority: Authority) -> None:
    authority.issue("one")
    clock = StoppedClock()
    _, signer = secured(authority, clock=clock)
    signed = signer.signed(MESSAGE)

    clock.now += 2 * 86_400
    with pytest.raises(BadSignature, match=r"CN=one has expired \(2030-01-02 00:00 UTC\)"):
        signer.verify(signed)
    clock.now -= 4 * 86_400
    with pytest.raises(BadSignature, match="CN=one is not valid before 2029-12-31"):
        signer.verify(signed)


def test_one_who_is_trusted_cannot_sign_for_another_message(authority: Authority) -> None:
    authority.issue("one")
    _, signer = secured(authority)
    forged = dataclasses.replace(MESSAGE, task="proj.other", signature=signer.signed(MESSAGE).signature)

    with pytest.raises(BadSignature, match="the signature by CN=one is not of this message"):
        signer.verify(forged)


def test_a_setup_that_cannot_work_is_refused(authority: Authority) -> None:
    key, cert = authority.issue("one")
    other_key, _ = authority.issue("two")
    old_key, old_cert = authority.issue("old", starts=-3, ends=-1)
    curve_key, curve_cert = authority.issue("curve", key=ec.generate_private_key(ec.SECP256R1()))
    locked_key, locked_cert = authority.issue("locked", password=b"hush")
    store = authority.directory / "trusted"
    curve_cert.unlink()
    good: dict[str, Any] = {"key": key, "cert": cert, "store": store}
    for wrong, words in (
        ({"key": None}, "needs key, cert and store"),
        ({"key": other_key}, "is not that of the certificate"),
        ({"key": old_key, "cert": old_cert}, "has expired"),
        ({"key": curve_key}, "is not an RSA key"),
        ({"key": cert}, "can't be used"),
        ({"key": store / "nothing"}, "can't be used"),
        ({"key": locked_key, "cert": locked_cert}, "can't be used"),
        ({"key": locked_key, "cert": locked_cert, "key_password": "wrong"}, "can't be used"),
        ({"cert": key}, "can't be used"),
        ({"store": store / "nothing*"}, "no certificate in"),
        ({"digest": "md5"}, "digest must be one of"),
    ):
        app = AioTQ("proj", broker="memory://", clock=StoppedClock())
        with pytest.raises(SecurityError, match=words):
            app.setup_security(**{**good, **wrong})
        assert core_of(app).signer is None
    with pytest.raises(SecurityError, match="not both"):
        AioTQ("proj", broker="memory://", security_key=KEY).setup_security(**good)


async def test_security_is_set_up_before_the_app_is_used(authority: Authority) -> None:
    authority.issue("one")
    app = AioTQ("proj", broker="memory://", clock=StoppedClock())
    async with app:
        with pytest.raises(SettingsFrozen):
            app.setup_security(
                key=authority.directory / "one.key",
                cert=authority.directory / "trusted" / "one.pem",
                store=authority.directory / "trusted",
            )
        assert core_of(app).signer is None
