"""Whether a disk has room for a model. Pure."""

from typing import Final

from ollama_dist.core.view import NodeView

HEADROOM: Final = 1.1
"""A copy needs its size and a tenth: parts and manifests are written beside it."""


def room_for(node: NodeView, size: int, reserve: int) -> str:
    """Why ``size`` bytes do not fit while ``reserve`` bytes stay free; empty where they do or might."""
    free = node.resources.disk_free_bytes
    needed = round(size * HEADROOM) + reserve
    if free is None or free >= needed:
        return ""
    return f"{_gigabytes(free)} free, {_gigabytes(needed)} needed with the reserve"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
