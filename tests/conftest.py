"""What all tests share."""

import logging
import signal
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import structlog
import uvloop
from hypothesis import settings

settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

# A failing test shows what was logged: what went wrong, not each thing that went right.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))

# A shell has its background jobs ignore Ctrl-C, and so would every program a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], Any]]:
    """The event loop that runs in production: its transports and errors differ from asyncio's own."""
    return {"uvloop": uvloop.new_event_loop}
