"""What a Redis URL says, and what is said of one that can't be used."""

from __future__ import annotations

import pytest

from aiotq import AioTQ
from aiotq.backends.base import mask_password
from aiotq.backends.redis.address import Endpoint, parse
from aiotq.exceptions import InvalidSetting


@pytest.mark.parametrize(
    ("url", "endpoints"),
    [
        ("redis://", [Endpoint("localhost", 6379)]),
        ("redis://example.org", [Endpoint("example.org", 6379)]),
        ("redis://:pw@example.org:7000/3", [Endpoint("example.org", 7000)]),
        ("redis://[::1]:7000", [Endpoint("::1", 7000)]),
        ("redis+sentinel://one,two:7000", [Endpoint("one", 26379), Endpoint("two", 7000)]),
        ("redis+cluster://one:7000,[::1]:7001", [Endpoint("one", 7000), Endpoint("::1", 7001)]),
        ("unix:///run/redis.sock", [Endpoint(path="/run/redis.sock")]),
        ("redis+socket:///run/my%20redis.sock", [Endpoint(path="/run/my redis.sock")]),
    ],
)
def test_a_url_names_its_servers(url: str, endpoints: list[Endpoint]) -> None:
    assert list(parse(url).endpoints) == endpoints


def test_user_password_and_database_are_read_as_they_are_meant() -> None:
    address = parse("redis://me:p%2Fw%40%3A@host/7?prefix=proj&connect_timeout=1.5&reply_timeout=2")

    assert (address.username, address.password, address.db) == ("me", "p/w@:", 7)
    assert (address.base, address.connect_timeout, address.reply_timeout) == ("{proj}", 1.5, 2.0)


def test_a_socket_may_have_a_database() -> None:
    assert parse("unix:///run/redis.sock?db=2").db == 2


def test_sentinels_have_credentials_of_their_own() -> None:
    address = parse("redis+sentinel://:pw@host/1?service=tasks&sentinel_username=me&sentinel_password=other")

    assert (address.service, address.password, address.sentinel_password) == ("tasks", "pw", "other")


@pytest.mark.parametrize("scheme", ["rediss", "rediss+sentinel", "rediss+cluster"])
def test_an_encrypted_scheme_checks_certificates_and_names(scheme: str) -> None:
    arguments = parse(f"{scheme}://host?ssl_ca_certs=/ca.pem")._tls_arguments()

    assert arguments == {
        "ssl": True,
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": "/ca.pem",
    }


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://host?prefx=x", "there is no option 'prefx', did you mean 'prefix'?"),
        ("redis://host?db=x", "the database must be a whole number, not 'x'"),
        ("redis://host/x", "the database must be a whole number, not 'x'"),
        ("redis://host:70000", "the port of 'host:70000' is no number from 1 to 65535"),
        ("redis://host:0", "the port of 'host:0' is no number from 1 to 65535"),
        ("redis://host:port", "the port of 'host:port' is no number from 1 to 65535"),
        ("redis://[::1", "Invalid IPv6 URL"),
        ("redis://one,two", "several hosts need redis+sentinel:// or redis+cluster://"),
        ("redis+cluster://one/1", "a cluster has database 0 only"),
        ("redis://host?service=x", "service is for redis+sentinel://"),
        ("redis://host?sentinel_username=x", "sentinel_username is for redis+sentinel://"),
        ("redis://host?ssl_ca_certs=x", "ssl_ca_certs needs an encrypted scheme (rediss://)"),
        ("rediss://host?ssl_cert_reqs=optional", "ssl_cert_reqs must be one of required, none, not 'optional'"),
        (
            "rediss://host?ssl_check_hostname=maybe",
            "ssl_check_hostname must be one of true, false, 1, 0, yes, no, not 'maybe'",
        ),
        ("redis://host?prefix={x}", "prefix must be printable characters without braces"),
        ("redis://host?prefix=", "prefix must be printable characters without braces"),
        ("redis://host?connect_timeout=0", "connect_timeout must be a number of seconds, not '0'"),
        ("redis://host?reply_timeout=soon", "reply_timeout must be a number of seconds, not 'soon'"),
        ("unix://run/redis.sock", "a socket is named by its whole path: unix:///run/redis.sock"),
        ("redis+socket://", "a socket is named by its whole path: redis+socket:///run/redis.sock"),
    ],
)
async def test_what_cannot_be_meant_is_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        async with AioTQ("x", broker=url):
            pass

    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:hush@host:0",
        "redis://:hu/hush@host",
        "redis://:hu?hush@host",
        "redis://:hu#hush@host",
        "redis://:hu@hush@host:0",
        "redis://:h%75%2Fhush@host:0",
        "redis+sentinel://host:0?sentinel_password=hush",
        "rediss://host:0?ssl_password=hush",
    ],
)
async def test_a_refusal_does_not_show_the_password(url: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        async with AioTQ("x", broker=url):
            pass

    assert "hush" not in str(caught.value)


def test_an_address_is_shown_without_its_password() -> None:
    address = parse("redis+sentinel://me:hush@host/0?sentinel_password=hush")

    assert "hush" not in repr(address)
    assert address.shown == "redis+sentinel://me:**@host/0"
    assert mask_password("redis://me:hush@host/0?prefix=x") == "redis://me:**@host/0?prefix=x"
