"""Which browsers and host names Ollama lets in (its ``server/routes.go``, gin-contrib/cors)."""

import ipaddress
import re
from typing import Final

_ORIGINS: Final = re.compile(
    r"https?://(?:localhost|127\.0\.0\.1|0\.0\.0\.0)(?::[^/]*)?|(?:app|file|tauri)://.*|vscode-(?:webview|file)://.*"
)
_HOSTS: Final = re.compile(r"|localhost|.*\.(?:localhost|local|internal)")


def is_allowed_origin(origin: str) -> bool:
    return _ORIGINS.fullmatch(origin) is not None


def is_allowed_host(host: str) -> bool:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return _HOSTS.fullmatch(name.lower()) is not None
    return address.is_loopback or address.is_private or address.is_unspecified
