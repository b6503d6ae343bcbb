from pathlib import Path

from ollama_dist.node.paths import make_state_dir
from ollama_dist.node.seeds import read_seeds, write_seeds
from ollama_dist.node.setting_values import Address


def test_what_is_kept_is_read(tmp_path: Path) -> None:
    paths = make_state_dir(tmp_path)
    write_seeds(paths, ["desk:11436", "[fe80::1]:7946"])
    assert read_seeds(paths) == (Address("desk", 11436), Address("fe80::1", 7946))


def test_what_cannot_be_read_is_skipped(tmp_path: Path) -> None:
    paths = make_state_dir(tmp_path)
    assert read_seeds(paths) == ()
    paths.seeds.write_text("\nhttp://x\ndesk:1\n")
    assert read_seeds(paths) == (Address("desk", 1),)
    paths.seeds.write_bytes(b"\xff\n")
    assert read_seeds(paths) == ()
