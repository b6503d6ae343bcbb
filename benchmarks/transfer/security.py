"""Mutual TLS as between two members, with certificates that were made for a benchmark."""

import asyncio
import ssl
from pathlib import Path

from ollama_dist.backends.target import Security
from ollama_dist.wire.hello import BULK


def server_context(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols([BULK])
    return _with_own(context, folder)


def security(folder: Path) -> Security:
    """Towards whoever has the same certificate."""
    context = _with_own(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), folder)

    def verify(_: asyncio.Transport) -> None:
        """Its certificate was looked at by then."""

    bulk = _with_own(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), folder)
    bulk.set_alpn_protocols([BULK])
    return Security(context, "localhost", verify, bulk)


def _with_own(context: ssl.SSLContext, folder: Path) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "node.pem", folder / "node.key")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context
