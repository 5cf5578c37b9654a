"""What every page of the guide begins with: an app which keeps everything in this process."""

from __future__ import annotations

import pytest

from aiotq import AioTQ


@pytest.fixture
def app() -> AioTQ:
    return AioTQ("guide", broker="memory://")
