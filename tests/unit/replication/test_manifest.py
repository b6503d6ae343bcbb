"""Manifests as they come from other machines."""

import hashlib
from typing import Any

import orjson
import pytest

from ollama_dist.replication.manifest import BadManifest, read_manifest

WEIGHTS, TEMPLATE, CONFIG = (hashlib.sha256(name).hexdigest() for name in (b"w", b"t", b"c"))


def document(**changed: Any) -> dict[str, Any]:
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{WEIGHTS}", "size": 100}
    template = {
        "mediaType": "application/vnd.ollama.image.template",
        "digest": f"sha256:{TEMPLATE}",
        "size": 7,
    }
    config = {
        "mediaType": "application/vnd.docker.container.image.v1+json",
        "digest": f"sha256:{CONFIG}",
        "size": 3,
    }
    return {"schemaVersion": 2, "config": config, "layers": [layer, template], **changed}


def test_blobs_are_listed_once_with_the_config_last() -> None:
    twice = document()
    twice["layers"].append(dict(twice["layers"][0]))

    manifest = read_manifest(orjson.dumps(twice))

    assert list(manifest.blobs.items()) == [(WEIGHTS, 100), (TEMPLATE, 7), (CONFIG, 3)]
    assert manifest.size == 110


def test_identity_survives_another_spelling_but_not_another_order() -> None:
    plain = document()
    spelt_anew = document(mediaType="application/vnd.docker.distribution.manifest.v2+json")
    spelt_anew["layers"][0]["from"] = "/home/somebody/weights.gguf"
    turned = document(layers=plain["layers"][::-1])
    first, second, third = (read_manifest(orjson.dumps(each)) for each in (plain, spelt_anew, turned))

    assert first.digest != second.digest
    assert first.identity == second.identity
    assert first.identity != third.identity


@pytest.mark.parametrize(
    "changed",
    [
        {"layers": None},
        {"layers": [7]},
        {"config": None},
        {"config": {"mediaType": "x", "digest": "sha256:../../etc/passwd", "size": 1}},
        {"config": {"mediaType": "x", "digest": f"sha256:{CONFIG}", "size": -1}},
        {"config": {"mediaType": "x", "digest": f"sha256:{CONFIG}", "size": 2**60}},
        {"config": {"mediaType": "x", "digest": f"sha256:{CONFIG}", "size": True}},
        {"config": {"mediaType": "x\r\nSet-Cookie: a", "digest": f"sha256:{CONFIG}", "size": 1}},
        {"config": {"mediaType": "x", "digest": f"sha256:{WEIGHTS}", "size": 99}},
        {"mediaType": "x" * 300},
    ],
)
def test_nonsense_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(BadManifest):
        read_manifest(orjson.dumps(document(**changed)))


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b" " * (4 * 2**20 + 1)])
def test_what_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(BadManifest):
        read_manifest(raw)
