"""What all tests share."""

import logging

import structlog
from hypothesis import settings

settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

# A failing test shows what was logged: what went wrong, not each thing that went right.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
