"""What commands print: lines for people, versioned JSON for programs; data on standard output only."""

import json
import sys
from collections.abc import Iterable
from typing import Any


def print_lines(lines: Iterable[str]) -> None:
    print("\n".join(lines))


def print_json(kind: str, body: dict[str, Any]) -> None:
    """``body`` with the name and version of its shape; keys may be added within a version, never changed."""
    print(json.dumps({"schema": f"ollama-dist.{kind}/1", **body}, indent=2, ensure_ascii=not _is_utf8()))


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
