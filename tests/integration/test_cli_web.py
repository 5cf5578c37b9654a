"""`aiotq web`: the dashboard as a process of its own."""

from __future__ import annotations

import re
import signal

import httpx

from .shells import Shell, shell

__all__ = ["shell"]


async def test_the_dashboard_is_served_with_a_token_that_is_shown_and_stops_with_a_page_open(shell: Shell) -> None:
    async with shell.started("web", "jobs", "--port", "0") as web:
        await web.line("token: ")
        address = re.search(r"dashboard at (http://\S+)/", web.text)
        token = re.search(r"token: (\S+)", web.text)
        assert address is not None
        assert token is not None
        async with httpx.AsyncClient(base_url=address[1], headers={"authorization": f"Bearer {token[1]}"}) as client:
            page = await client.get("/send?task=jobs.add")
            assert "jobs.add" in page.text
            assert (await client.get("/queues", headers={"authorization": "Bearer wrong"})).status_code == 303
            async with client.stream("GET", "/live") as stream:
                lines = stream.aiter_lines()
                while not (await anext(lines)).startswith("event: look"):
                    pass
                web.send(signal.SIGTERM)
                assert "event: bye" in [line async for line in lines]
        assert await web.ended() == 0


def test_it_is_open_to_this_machine_alone(shell: Shell) -> None:
    assert "127.0.0.1 or ::1 alone" in shell.error("web", "jobs", "--no-auth", "--host", "0.0.0.0", code=2)
    assert "12 characters" in shell.error("web", "jobs", "--token", "short", code=2)
