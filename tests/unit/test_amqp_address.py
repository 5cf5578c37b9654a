"""URLs of a RabbitMQ."""

from __future__ import annotations

import pytest

from aiotq.backends.amqp.address import Endpoint, parse


@pytest.mark.parametrize(
    ("url", "vhost"),
    [
        ("amqp://host", "/"),
        ("amqp://host/", "/"),
        ("amqp://host//", "/"),
        ("amqp://host/%2F", "/"),
        ("amqp://host/proj", "proj"),
        ("amqp://host/a%2Fb?heartbeat=5", "a/b"),
    ],
)
def test_the_path_is_the_virtual_host(url: str, vhost: str) -> None:
    assert parse(url).vhost == vhost


def test_without_names_and_ports_there_are_rabbitmqs_own() -> None:
    address = parse("amqp://")

    assert (address.username, address.password, address.endpoints) == ("guest", "guest", (Endpoint("localhost", 5672),))
    assert parse("amqps://host").endpoints == (Endpoint("host", 5671),)
    assert parse("amqp://host").heartbeat == 10


def test_user_and_password_are_unquoted_and_not_shown() -> None:
    address = parse("amqp://me:p%40ss%2Fw@host/v")

    assert (address.username, address.password) == ("me", "p@ss/w")
    assert "p%40ss" not in address.shown
    assert "p@ss" not in repr(address)


@pytest.mark.parametrize(
    "url",
    ["amqp://me:pw@one:1,two:2,[::1]:3/v", "amqp://me:pw@one:1/v;amqp://me:pw@two:2/v;amqp://me:pw@[::1]:3/v"],
)
def test_several_servers_stand_behind_each_other(url: str) -> None:
    address = parse(url)

    assert address.endpoints == (Endpoint("one", 1), Endpoint("two", 2), Endpoint("::1", 3))
    assert address.vhost == "v"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://host", "scheme"),
        ("amqp://host:0", "port"),
        ("amqp://host:99999", "port"),
        ("amqp://host:x", "port"),
        ("amqp://me:p/w@host", "%2F"),
        ("amqp://host/" + "v" * 128, "at most 127 bytes"),
        ("amqp://host/a%252Fb", "can't name a virtual host with '%2F'"),
        ("amqp://host?heartbeet=1", "did you mean 'heartbeat'"),
        ("amqp://host?heartbeat=0", "heartbeat"),
        ("amqp://host?reply_timeout=soon", "reply_timeout"),
        ("amqp://host?ssl_ca_certs=ca.pem", "amqps://"),
        ("amqps://host?ssl_cert_reqs=perhaps", "required, none"),
        ("amqps://host?ssl_check_hostname=perhaps", "yes, no"),
        ("amqp://host?auth=gssapi", "auth must be one of plain, external"),
        ("amqp://host?auth=AMQPLAIN", "a server that has amqplain has plain"),
        ("amqp://me@a/v;amqp://you@b/v", "one user"),
    ],
)
def test_what_can_not_be_used_is_refused_with_the_reason(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(url)
