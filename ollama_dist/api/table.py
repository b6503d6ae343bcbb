"""From a request line to a row of the route table, as Go's mux and gin would find it. Pure.

The path that is authorised is the path that is matched and the path that is sent on: nothing is decoded
twice, and what is not in the table goes nowhere.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from ollama_dist.api.routes import Route
from ollama_dist.core.values import value

_DOUBLED = re.compile("/{2,}")
_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")


@value(frozen=True, slots=True)
class Matched:
    route: Route
    params: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class NoRoute:
    """404."""


@dataclass(frozen=True, slots=True)
class WrongMethod:
    """405. ``allow`` is ready for the header of that name."""

    allow: str


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A redirect to the clean spelling of a known path."""

    status: int
    location: str


Found = Matched | NoRoute | WrongMethod | Elsewhere


class RouteTable:
    """Looks rows up by method and raw path."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._fixed: dict[str, dict[str, Route]] = {}
        self._patterns: dict[tuple[str, str], tuple[str, dict[str, Route]]] = {}
        """By what stands before and after the parameter."""
        self._deep: dict[str, tuple[str, dict[str, Route]]] = {}
        for route in routes:
            prefix, brace, parameter = route.path.partition("{")
            name, _, suffix = parameter.partition("}")
            if route.is_deep:
                _, rows = self._deep.setdefault(prefix, (name, {}))
            elif brace:
                _, rows = self._patterns.setdefault((prefix, suffix), (name, {}))
            else:
                rows = self._fixed.setdefault(route.path, {})
            rows[route.method] = route

    def find(self, method: str, raw_path: str) -> Found:
        """What ``raw_path`` (as on the request line, query included) leads to.

        A doubled slash is redirected with 307 and a trailing one with 301 (GET) or 307, as Ollama does.
        """
        path, mark, query = raw_path.partition("?")
        rows, params = self._lookup(path)
        if rows is None:
            return self._nearby(method, path, mark + query)
        route = rows.get(method)
        if route is None:
            return WrongMethod(", ".join(sorted(rows, key=lambda name: (name != "HEAD", name))))
        return Matched(route, params)

    def _lookup(self, path: str) -> tuple[dict[str, Route] | None, dict[str, str]]:
        rows = self._fixed.get(path)
        if rows is not None:
            return rows, {}
        head, slash, last = path.rpartition("/")
        before, _, middle = head.rpartition("/")
        for pattern, segment in (
            (self._patterns.get((head + slash, "")), last),
            (self._patterns.get((before + "/", slash + last)), middle),
        ):
            value = _parameter(segment) if pattern is not None else None
            if pattern is not None and value is not None:
                return pattern[1], {pattern[0]: value}
        return self._lookup_deep(path)

    def _lookup_deep(self, path: str) -> tuple[dict[str, Route] | None, dict[str, str]]:
        for prefix, (name, rows) in self._deep.items():
            if path.startswith(prefix):
                values = [_parameter(segment) for segment in path.removeprefix(prefix).split("/")]
                whole = [value for value in values if value is not None]
                if len(whole) == len(values):
                    return rows, {name: "/".join(whole)}
        return None, {}

    def _nearby(self, method: str, path: str, query: str) -> NoRoute | Elsewhere:
        single = _DOUBLED.sub("/", path)
        if single != path:
            known = self._lookup(single.rstrip("/") or "/")[0] is not None
            return Elsewhere(307, single + query) if known else NoRoute()
        bare = path.rstrip("/")
        if bare != path and bare and self._lookup(bare)[0] is not None:
            return Elsewhere(301 if method == "GET" else 307, bare + query)
        return NoRoute()


def _parameter(segment: str) -> str | None:
    """What ``segment`` spells, read once; None for what some program behind could read as another path.

    Bytes that are no UTF-8 are none: written again they would be others.
    """
    if _BAD_ESCAPE.search(segment):
        return None
    try:
        value = unquote(segment, errors="strict")
    except UnicodeDecodeError:
        return None
    is_one_name = value not in ("", ".", "..") and value.isprintable() and not {"/", "\\"} & set(value)
    return value if is_one_name else None
