"""How much of the cluster a node uses."""

from enum import StrEnum
from typing import Final


class Mode(StrEnum):
    DISTRIBUTED = "distributed"
    """Peers are in use."""
    LOCAL = "local"
    """An operator said: only this machine."""
    STANDALONE = "standalone"
    """No peer can be reached, or using none was asked for."""


DISTRIBUTED: Final = Mode.DISTRIBUTED
"""By a name of its own for what is done for each request, as `core.requests.GENERATE`."""
