import random
import sys
import time

import pytest

from ollama_dist.wire.compressed import MAX_DECOMPRESSED_BYTES, CannotDecompress, decompress_zstd

if sys.version_info >= (3, 14):
    from compression.zstd import CompressionParameter, compress
else:
    from backports.zstd import CompressionParameter, compress


def test_content_comes_out_whole_also_from_several_frames() -> None:
    assert decompress_zstd(compress(b"hello ") + compress(b"world")) == b"hello world"
    assert decompress_zstd(b"") == b""


def test_content_up_to_the_limit_passes_and_more_is_refused() -> None:
    assert len(decompress_zstd(compress(b"a" * 1000), limit=1000)) == 1000
    with pytest.raises(CannotDecompress, match="too large"):
        decompress_zstd(compress(b"a" * 1001), limit=1000)
    with pytest.raises(CannotDecompress, match="too large"):
        decompress_zstd(compress(b"a" * 600) * 2, limit=1000)


def test_a_bomb_is_refused_at_the_limit() -> None:
    bomb = compress(b"\0" * (MAX_DECOMPRESSED_BYTES * 4))
    assert len(bomb) < MAX_DECOMPRESSED_BYTES / 1000
    with pytest.raises(CannotDecompress, match="too large"):
        decompress_zstd(bomb)


@pytest.mark.parametrize("data", [b"{}", b"\x28\xb5\x2f\xfd", compress(b"hello" * 100)[:-3]])
def test_what_is_no_whole_frame_is_refused(data: bytes) -> None:
    with pytest.raises(CannotDecompress):
        decompress_zstd(data)


def test_a_window_wider_than_ollama_takes_is_refused() -> None:
    wide = compress(b"x" * (17 * 2**20), options={CompressionParameter.window_log: 25})
    with pytest.raises(CannotDecompress, match="failed to decompress"):
        decompress_zstd(wide)


def test_content_comes_out_whole_from_many_slices() -> None:
    noise = random.Random(1).randbytes(200_000)
    assert decompress_zstd(compress(noise) + compress(b"end")) == noise + b"end"


def test_millions_of_empty_frames_are_not_opened_one_by_one() -> None:
    began = time.process_time()
    with pytest.raises(CannotDecompress, match="failed to decompress"):
        decompress_zstd(compress(b"") * 2_000_000)
    assert time.process_time() - began < 2
