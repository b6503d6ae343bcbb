import hashlib
import os
from pathlib import Path

from ollama_dist.backends.llamacpp.digests import FILE_NAME, DigestStore, Stamp


def test_what_was_computed_is_known_at_the_next_start(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"weights")
    stamp = Stamp.of(file)
    store = DigestStore(tmp_path / "state")
    assert store.known(file, stamp) is None
    assert store.compute(file, stamp) == hashlib.sha256(b"weights").hexdigest()
    store.save({file})
    assert DigestStore(tmp_path / "state").known(file, stamp) == hashlib.sha256(b"weights").hexdigest()


def test_a_changed_file_is_not_known(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"weights")
    store = DigestStore(tmp_path)
    store.compute(file, Stamp.of(file))
    os.utime(file, ns=(1, 1))
    assert store.known(file, Stamp.of(file)) is None


def test_a_file_that_changes_while_it_is_read_has_no_digest(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"weights")
    earlier = Stamp(file.stat().st_size, 1)
    assert DigestStore(tmp_path).compute(file, earlier) is None


def test_files_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"weights")
    store = DigestStore(tmp_path)
    store.compute(file, Stamp.of(file))
    store.save(set())
    assert DigestStore(tmp_path).known(file, Stamp.of(file)) is None


def test_a_damaged_memory_is_done_without(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text('{"x": [1]')
    file = tmp_path / "model.gguf"
    file.write_bytes(b"weights")
    assert DigestStore(tmp_path).known(file, Stamp.of(file)) is None


def test_stopping_ends_a_computation_without_a_result(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"weights")
    store = DigestStore(tmp_path)
    store.stop()
    assert store.compute(file, Stamp.of(file)) is None
