"""Whether there is room for a model. Pure."""

from ollama_dist.replication.intake.ollama_calls import DiskFull

HEADROOM = 0.1
"""Of what is missing: manifests, progress of parts, and whoever else writes meanwhile."""


def check_room(missing: int, free: int, reserve: int) -> None:
    """Raises `DiskFull` unless ``missing`` bytes and a tenth fit into ``free`` and ``reserve`` stay free.

    Nothing missing fits anywhere.
    """
    needed = missing + int(missing * HEADROOM)
    if missing and needed > free - reserve:
        raise DiskFull(
            f"the model needs {size_text(needed)} more on disk, {size_text(free)} are free and "
            f"{size_text(reserve)} of them stay free (disk_reserve_bytes)"
        )


def size_text(size: int) -> str:
    """For people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
