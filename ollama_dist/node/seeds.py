"""The members a code named: where a node that joined while it was down looks for its cluster first."""

from collections.abc import Sequence

from ollama_dist.node.paths import StatePaths
from ollama_dist.node.setting_values import NODE_PORT, Address, address_with
from ollama_dist.runtime.private_files import write_private


def write_seeds(paths: StatePaths, addresses: Sequence[str]) -> None:
    """Keep these ``host:port``, one per line. Raises `OSError`."""
    write_private(paths.seeds, "".join(f"{address}\n" for address in addresses))


def read_seeds(paths: StatePaths) -> tuple[Address, ...]:
    """What was kept; a line that is no address is skipped: the cluster may be found without it."""
    try:
        lines = paths.seeds.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ()
    return tuple(address for line in lines if (address := _address(line)) is not None)


def _address(line: str) -> Address | None:
    try:
        return address_with(NODE_PORT)(line)
    except ValueError:
        return None
