"""What the errors of Redis and Valkey become: servers of different versions say the same in different words."""

from __future__ import annotations

import asyncio
import socket

import pytest

from aiotq.backends.redis.resp import Wire
from aiotq.exceptions import NotConnected, OperationalError


async def answered(line: str) -> BaseException | None:
    """Return what a request ends with that is answered by this error."""
    wire = Wire("redis://here", reply_timeout=10)
    ours, servers = socket.socketpair()
    with servers:
        await asyncio.get_running_loop().create_connection(lambda: wire, sock=ours)
        reply = wire.ask(("PING",))
        servers.sendall(f"-{line}\r\n".encode())
        await asyncio.wait([reply], timeout=10)
        wire.abort("the test is over")
    await asyncio.sleep(0)  # its transport closes in the loop's next turn
    return reply.exception()


SCRIPT_6_2 = "ERR Error running script (call to f_08b800b7): @user_script:372: "


@pytest.mark.parametrize(
    "line",
    [
        "NOPERM this user has no permissions to run the 'evalsha' command or its subcommand",
        f"{SCRIPT_6_2}@user_script: 372: The user executing the script can't run this command or subcommand",
        "ERR The user executing the script can't run this command or subcommand script: 08b8, on @user_script:9.",
        "ERR ACL failure in script: User me has no permissions to run 'xadd' script: 08, on @user_script:9.",
    ],
    ids=["outside a script", "6.2", "7.0", "8.0"],
)
async def test_a_command_that_the_user_may_not_use_is_called_that(line: str) -> None:
    error = await answered(line)

    assert type(error) is OperationalError
    assert "the user of the URL is not allowed to do this" in str(error)


@pytest.mark.parametrize(
    "line",
    [
        "READONLY You can't write against a read only replica. script: 08b8, on @user_script:9.",
        f"{SCRIPT_6_2}-READONLY You can't write against a read only replica.",
    ],
    ids=["7.0", "6.2"],
)
async def test_a_replica_can_not_serve(line: str) -> None:
    assert isinstance(await answered(line), NotConnected)


async def test_words_that_a_user_gave_are_not_taken_for_the_servers() -> None:
    error = await answered("ERR no such queue 'ACL failure in script'")

    assert "not allowed" not in str(error)
