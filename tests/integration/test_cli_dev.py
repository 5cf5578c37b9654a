"""`aiotq dev`: a worker, a scheduler and the dashboard in one process, anew when code changes."""

from __future__ import annotations

import signal
import socket

import httpx

from ..servers import free_port
from .shells import Shell, shell

__all__ = ["shell"]

TOKEN = "a-token-that-nobody-guesses"
APP = """
from aiotq import AioTQ

app = AioTQ("ticking", broker="memory://")


@app.periodic(0.2)
@app.task(name="tick")
async def tick() -> int:
    return {value}
"""


async def test_periodic_tasks_run_the_dashboard_is_there_and_changed_code_counts(shell: Shell) -> None:
    code = shell.directory / "ticking.py"
    code.write_text(APP.format(value=41))
    shell.env["AIOTQ_WEB_TOKEN"] = TOKEN
    port = free_port()

    async with shell.started("dev", "ticking:app", "--port", str(port)) as dev:
        await dev.line(r"Task tick\[.*succeeded in .*: 41")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            stranger = await client.get("/")
            assert (stranger.status_code, stranger.headers["location"]) == (303, "/sign-in")
            page = await client.get("/", headers={"Authorization": f"Bearer {TOKEN}"})
            assert page.status_code == 200
            assert "ticking" in page.text
        code.write_text(APP.format(value=42))
        await dev.line(r"Task tick\[.*succeeded in .*: 42")
        dev.send(signal.SIGINT)
        assert await dev.ended() == 0
    assert TOKEN not in dev.text


def test_a_port_that_is_taken_is_said_once(shell: Shell) -> None:
    (shell.directory / "ticking.py").write_text(APP.format(value=1))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = shell.run("dev", "ticking:app", "--port", str(port))

    assert done.returncode == 1
    assert f"can't listen at 127.0.0.1 port {port}" in done.stderr
