"""How much of the cluster a node uses."""

from enum import StrEnum


class Mode(StrEnum):
    DISTRIBUTED = "distributed"
    """Peers are in use."""
    LOCAL = "local"
    """An operator said: only this machine."""
    STANDALONE = "standalone"
    """No peer can be reached, or using none was asked for."""
