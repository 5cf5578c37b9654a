"""`aiotq find`: what finished, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

from aiotq import AioTQ

from .shells import Shell

SHOP = """
from aiotq import AioTQ

app = AioTQ("shop", broker="sqlite:///shop.db")
"""


async def test_finished_tasks_are_found(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    (tmp_path / "shop.py").write_text(SHOP)
    app = AioTQ("shop", broker=f"sqlite:///{tmp_path}/shop.db")

    @app.task(name="shop.pay")
    async def pay(order: int, token: str) -> None:
        raise ValueError(f"no order {order}")

    async with app, app.worker():
        for order in range(3):
            await (await pay.delay(order, "hunter2")).get(propagate=False)

    found = json.loads(shell.output("find", "-A", "shop:app", "--json", "--text", "ORDER 1"))
    assert [(each["name"], each["state"], each["args"], each["error"]) for each in found["tasks"]] == [
        ("shop.pay", "FAILURE", "1, •••", "ValueError: no order 1")
    ]
    assert found["counts"] == {"FAILURE": 3}
    shown = shell.output("find", "-A", "shop:app", "-l", "2", "--since", "1h", "--state", "failure")
    assert shown.count("ValueError: no order") == 2
    assert "there may be more" in shown
    assert "none of the 3" in shell.output("find", "-A", "shop:app", "--name", "shop.mail")
    assert "is after --until" in shell.error("find", "-A", "shop:app", "--since", "1h", "--until", "2h", code=2)
