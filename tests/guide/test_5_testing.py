"""The documentation's page on tests: its files are run by pytest, as they are printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

import pytest

PAGE: Final = (Path(__file__).parents[2] / "docs" / "guides" / "testing.md").read_text()
FILES: Final = dict(re.findall(r"```\w+\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
#: For an installation that was made before the plugin was.
PLUGIN: Final = () if entry_points(group="pytest11", name="aiotq") else ("-p", "aiotq.testing.plugin")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def pytest_in(directory: Path, *arguments: str) -> str:
    """What pytest prints, whether tests fail or not, with the plugins alone that are needed: others take seconds."""
    plugins = ["-p", "pytest_asyncio.plugin", "-p", "aiotq.testing.plugin"]
    return printed_by(directory, *plugins, *arguments, env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})


def printed_by(directory: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """What pytest prints with all plugins that are installed."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *arguments]
    ran = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, check=False, timeout=60)
    return ran.stdout + ran.stderr


def test_the_tests_on_the_page_pass(project: Path) -> None:
    assert FILES.keys() == {"proj.py", "test_proj.py", "pyproject.toml", "test_with_plugin.py"}

    printed = printed_by(project, *PLUGIN)

    wanted = sum(text.count("async def test_") for text in FILES.values())
    assert f"{wanted} passed" in printed, printed


def test_a_test_that_fails_shows_what_was_sent_and_what_ran(project: Path) -> None:
    (project / "test_wrong.py").write_text(
        "from proj import remind, send_mail, sign_up\n\n"
        "async def test_wrong(aiotq_worker):\n"
        '    await sign_up.delay("ann")\n'
        "    await aiotq_worker.idle()\n"
        '    aiotq_worker.assert_sent(send_mail, args=("bob", "welcome"))\n'
    )

    printed = pytest_in(project, "test_wrong.py")

    assert "1 failed" in printed
    for line in (
        "E       AssertionError: proj.send_mail('bob', 'welcome') was not sent",
        "E         proj.send_mail('ann', 'welcome')",
        "proj.sign_up('ann') -> SUCCESS 'ann is in'",
        "proj.remind('ann'), in 3 days, 0:00:00, queue 'later'",
    ):
        assert line in printed, printed
    assert "aiotq/testing" not in printed, printed  # the frames are those of the test


def test_the_fixtures_work_in_the_strict_mode_of_pytest_asyncio_too(project: Path) -> None:
    options = project / "pyproject.toml"
    options.write_text(options.read_text().replace('asyncio_mode = "auto"', ""))
    (project / "test_strict.py").write_text(
        f"import pytest\n\npytestmark = pytest.mark.asyncio\n{FILES['test_with_plugin.py']}"
    )

    assert "1 passed" in pytest_in(project, "test_strict.py")


def test_an_app_that_is_not_named_is_asked_for(project: Path) -> None:
    options = project / "pyproject.toml"
    options.write_text(options.read_text().replace('aiotq_app = "proj:app"', ""))

    assert "which app? Name it in pytest's options" in pytest_in(project, "test_with_plugin.py")
