"""A node of a later minor version: it says so, and puts fields into messages that this one does not know.

Run as a program it takes the command line of `ollama-dist`.
"""

import sys
from functools import partial
from typing import Final

from ollama_dist.cli.main import main
from ollama_dist.gossip import codec, driver
from ollama_dist.gossip.protocol.messages import PROTOCOL_MAX, PROTOCOL_MIN, Contact, Envelope
from ollama_dist.node import node

VERSION: Final = "0.2.0"
VERSIONS: Final = (PROTOCOL_MIN, PROTOCOL_MAX + 1)
UNKNOWN: Final = b"\xa2\x06\x05later"
"""Field 100, five bytes: nobody has ever heard of it."""

_encode = codec.encode


def encode(envelope: Envelope) -> bytes:
    return _encode(envelope) + UNKNOWN


def become_newer() -> None:
    for module, name, newer in (
        (node, "__version__", VERSION),
        (codec, "encode", encode),
        (driver, "Contact", partial(Contact, versions=VERSIONS)),
    ):
        setattr(module, name, newer)


if __name__ == "__main__":
    become_newer()
    sys.exit(main())
