"""Tests of the proxy's parts; those marked `virtual_time` run on a clock that jumps."""

import asyncio
from collections.abc import Callable, Mapping

import pytest

from tests.proxy.fakes import VirtualTimeLoop


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", "virtual_time: nothing but fakes; when all wait, the next timer is due"
    )


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Name the event loop of a test (a hook of pytest-asyncio)."""
    if item.get_closest_marker("virtual_time") is not None:
        return {"virtual": VirtualTimeLoop}
    return {"asyncio": asyncio.new_event_loop}
