"""How far a pull is, from Ollama's own lines."""

import hashlib

import orjson

from ollama_dist.replication.intake.metering import Meter
from ollama_dist.replication.intake.ollama_calls import PullLine
from ollama_dist.replication.manifest import read_manifest

WEIGHTS, CONFIG = (hashlib.sha256(name).hexdigest() for name in (b"w", b"c"))
MANIFEST = read_manifest(
    orjson.dumps(
        {
            "config": {"mediaType": "c", "digest": f"sha256:{CONFIG}", "size": 10},
            "layers": [{"mediaType": "w", "digest": f"sha256:{WEIGHTS}", "size": 1000}],
        }
    )
)


def line(digest: str, completed: int) -> PullLine:
    return PullLine(b"", "pulling", f"sha256:{digest}", completed)


def test_it_adds_up_and_never_goes_backwards() -> None:
    meter = Meter(MANIFEST, 0.0)
    done = [
        meter.note(line(WEIGHTS, completed), now=at).done
        for at, completed in enumerate((0, 500, 200, 600, 9999), start=1)
    ]
    assert done == [0, 500, 500, 600, 1000]
    assert meter.note(line(CONFIG, 10), now=9.0).done == MANIFEST.size


def test_what_was_there_before_is_no_speed() -> None:
    meter = Meter(MANIFEST, 0.0)
    assert meter.note(line(WEIGHTS, 1000), now=1.0).bytes_per_s == 0.0
    assert meter.note(line(CONFIG, 0), now=2.0).bytes_per_s == 0.0


def test_the_rate_is_that_of_late() -> None:
    meter = Meter(MANIFEST, 0.0)
    for second in range(1, 9):
        progress = meter.note(line(WEIGHTS, 100 * second), now=float(second))
    assert progress.bytes_per_s == 100.0


def test_ten_seconds_of_silence_are_a_stall_but_verifying_is_none() -> None:
    meter = Meter(MANIFEST, 0.0)
    meter.note(line(WEIGHTS, 1), now=1.0)
    assert meter.note(line(WEIGHTS, 1), now=10.0).stalled_s == 0.0
    assert meter.note(line(WEIGHTS, 1), now=12.0).stalled_s == 11.0
    assert meter.note(PullLine(b"", "verifying sha256 digest"), now=60.0).stalled_s == 0.0


def test_nothing_that_it_does_not_know_counts() -> None:
    assert Meter(MANIFEST, 0.0).note(line("0" * 64, 5), now=1.0).done == 0
